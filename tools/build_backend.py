"""The build backend that pyproject.toml names: setuptools', on a machine that can build.

``requires`` is empty there, and the requirements are stated here, because pip installs the former before it asks
anything: a machine without a compiler, or with an old Python, is told so in one line, at once.
"""

from prerequisites import PACKAGES, check

try:
    from setuptools import build_meta
    from setuptools.build_meta import *  # noqa: F403
except ImportError:
    build_meta = None  # so far: pip asks for the requirements before it installs them


def get_requires_for_build_sdist(config_settings=None):
    return PACKAGES


def get_requires_for_build_wheel(config_settings=None):
    check()
    return PACKAGES


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    check()  # without build isolation, pip does not ask for the requirements
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None):
    check()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


get_requires_for_build_editable = get_requires_for_build_wheel
