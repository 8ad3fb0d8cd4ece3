"""The build backend that pyproject.toml names: setuptools', after a check of what the machine has.

``requires`` is empty there, and the requirements are stated here, because pip installs the former before it asks
anything: a machine without a compiler, or with an old Python, is told so in one line, at once.
"""

from prerequisites import PACKAGES, check

# pip looks for the hooks before it installs setuptools, which is therefore imported only within them.


def get_requires_for_build_sdist(config_settings=None):
    return PACKAGES


def get_requires_for_build_wheel(config_settings=None):
    check()
    return PACKAGES


get_requires_for_build_editable = get_requires_for_build_wheel


def prepare_metadata_for_build_wheel(*args, **kwargs):
    check()  # without build isolation, pip does not ask for the requirements
    from setuptools import build_meta

    return build_meta.prepare_metadata_for_build_wheel(*args, **kwargs)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_sdist(*args, **kwargs):
    from setuptools import build_meta

    return build_meta.build_sdist(*args, **kwargs)


def build_wheel(*args, **kwargs):
    from setuptools import build_meta

    return build_meta.build_wheel(*args, **kwargs)


def build_editable(*args, **kwargs):
    from setuptools import build_meta

    return build_meta.build_editable(*args, **kwargs)
