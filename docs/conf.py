"""Sphinx: the documentation site (`make docs`)."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

from sphinx.util.nodes import make_refnode

import dbs_device

project = "dbs-device"
author = "the dbs-device maintainers"
copyright = "the dbs-device maintainers, Apache-2.0"
version = release = dbs_device.__version__

PUBLIC = {"dbs_device", *(f"dbs_device.{each.name}" for each in pkgutil.iter_modules(dbs_device.__path__))}

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "dbs_device.sphinx",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]

# Docstrings are numpydoc's: a name in single backticks is a Python object, if there is one of that name.
default_role = "py:obj"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_preprocess_types = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc has them in the text
autoclass_content = "both"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Nothing is fetched while the site is built: the inventories of others are not needed for any link that matters.
intersphinx_mapping: dict[str, tuple[str, None]] = {}

html_theme = "furo"
html_title = f"dbs-device {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f5d8a", "color-brand-content": "#2f5d8a"},
    "dark_css_variables": {"color-brand-primary": "#7fb2e5", "color-brand-content": "#7fb2e5"},
}


def resolve_by_suffix(app, environment, node, content):
    """Resolve a name that docstrings give without its module, as `IoManager.mmio_read`, if only one object ends so.

    Called for references that are not found.
    """
    if node.get("refdomain") != "py":
        return None
    domain = environment.get_domain("py")
    target = node["reftarget"]
    found = [
        (name, entry) for name, entry in domain.objects.items() if name.endswith("." + target) and not entry.aliased
    ]
    if "." not in target:  # a class or function, not each method of that name
        found = [each for each in found if each[1].objtype not in ("method", "attribute", "property")]
    if len(found) != 1:
        return None
    ((name, entry),) = found
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def unlink_folders(app, docname, source):
    """Make plain text of links out of docs/ that are not to a file: the site has no copy of the repository."""
    folder = Path(app.env.doc2path(docname)).parent

    def text_or_link(match):
        target = folder / match[2]
        return match[1] if target.is_dir() or target.suffix == ".md" else match[0]

    source[0] = re.sub(r"\[([^\]]+)\]\(((?:\.\./)+(?!\.\.)[^)#]+)\)", text_or_link, source[0])


def skip_repeated(app, what, name, obj, skip, options):
    """Leave out what is described elsewhere.

    That is a name that a module takes from another one for convenience, and an attribute that the docstring of its
    class describes.
    """
    if what == "module":
        return True if getattr(obj, "__module__", None) in PUBLIC - {app.env.temp_data["autodoc:module"]} else None
    owner = getattr(obj, "__objclass__", None)
    described = owner is not None and re.search(rf"^ *(\w+, )*{name}(, \w+)* : ", owner.__doc__ or "", re.MULTILINE)
    return True if described or type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-skip-member", skip_repeated)
    app.connect("source-read", unlink_folders)
    app.connect("missing-reference", resolve_by_suffix)
