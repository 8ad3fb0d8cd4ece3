"""Public names say where they are imported from."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import typing

import pytest

import dbs_device
from dbs_device import Resource, ResourceConstraint, resources

MODULES = ["dbs_device"] + [
    each.name
    for each in pkgutil.walk_packages(dbs_device.__path__, "dbs_device.")
    if not each.ispkg and "._" not in each.name
]
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def public_names():
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", ()):
            yield module_name, name, getattr(module, name)


# A class that is compiled reports the module that compiles it: the C type's name is not to be changed.
PUBLIC_CLASSES = {
    f"{module}.{name}": (name, public)
    for module, name, public in public_names()
    if isinstance(public, type) and public.__flags__ & HEAP_TYPE
}


@pytest.mark.parametrize("path", PUBLIC_CLASSES)
def test_a_class_reports_a_public_module_that_has_it(path):
    name, cls = PUBLIC_CLASSES[path]
    assert cls.__module__ in MODULES
    assert getattr(importlib.import_module(cls.__module__), name) is cls


@pytest.mark.parametrize("path", PUBLIC_CLASSES)
def test_a_class_is_pickled_by_its_public_name(path):
    _, cls = PUBLIC_CLASSES[path]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(cls, protocol)) is cls


@pytest.mark.parametrize("path", PUBLIC_CLASSES)
def test_annotations_resolve_in_the_public_module(path):
    _, cls = PUBLIC_CLASSES[path]
    typing.get_type_hints(cls)


def test_every_public_module_is_walked():
    walked = {module for module, _, _ in public_names()}
    assert {"dbs_device.resources", "dbs_device.trace", "dbs_device.errors", "dbs_device.device_manager"} <= walked
    assert walked == set(MODULES)


@pytest.mark.parametrize(
    ("family", "suffix"), [(Resource, ""), (ResourceConstraint, "Constraint")], ids=["Resource", "ResourceConstraint"]
)
def test_a_variant_is_a_public_class(family, suffix):
    variants = {name: each for name, each in vars(family).items() if isinstance(each, type)}
    assert len(variants) >= 7
    for name, variant in variants.items():
        assert getattr(resources, name + suffix) is variant
        assert getattr(dbs_device, name + suffix) is variant
        assert repr(variant) == f"<class 'dbs_device.resources.{family.__name__}.{name}'>"
