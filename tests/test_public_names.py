"""Every public name of a package is the object it says, whatever was imported before."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

import pytest

PACKAGES = ("seqtex_core", "seqtex_backbones", "seqtex_geometry", "seqtex")


@pytest.mark.parametrize("package_name", PACKAGES)
def test_names_resolve_to_objects_not_to_submodules(package_name):
    package = import_module(package_name)
    names = [name for name in dir(package) if not name.startswith("_")]
    submodules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert names, f"{package_name} lists no public names"
    shadowed = sorted(submodules.intersection(names))
    assert not shadowed, f"{shadowed}: importing the submodule would replace the object"
    for name in names:
        assert not isinstance(getattr(package, name), ModuleType), name


def test_an_unknown_name_is_an_attribute_error():
    for package_name in PACKAGES:
        with pytest.raises(AttributeError, match="nothing_of_the_kind"):
            getattr(import_module(package_name), "nothing_of_the_kind")  # noqa: B009
