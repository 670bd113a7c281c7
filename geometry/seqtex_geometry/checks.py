"""Checks of the kinds of arguments; imports no torch, as reading meshes needs none."""

from __future__ import annotations

from seqtex_core.errors import UsageError

from .mesh import Mesh


def check_kind(name: str, value: object, kind: type, *, remedy: str = "") -> None:
    """Refuse a value that is not a ``kind``.

    Raises:
        UsageError: names both types, and prints no value.
    """
    if not isinstance(value, kind):
        own = type(value)
        got = f"{own.__module__}.{own.__name__}".removeprefix("builtins.")
        raise UsageError(name, expected=f"a {kind.__name__}", got=got, remedy=remedy)


def check_mesh(mesh: object) -> None:
    """Refuse what is no ``Mesh``, such as the asset that holds it.

    Raises:
        UsageError: another type.
    """
    remedy = (
        "Give its mesh, asset.mesh." if hasattr(mesh, "mesh") else "load_asset(path).mesh is one."
    )
    check_kind("mesh", mesh, Mesh, remedy=remedy)
