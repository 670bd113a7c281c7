"""Meshes, cameras, rasterizers, UV maps, baking and non-destructive export.

Public names are imported when first used, so that reading a mesh does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asset import MeshAsset as MeshAsset
    from .asset import load_asset as load_asset
    from .axes import Axes as Axes
    from .mesh import VIEW_NAMES as VIEW_NAMES
    from .mesh import Material as Material
    from .mesh import Mesh as Mesh
    from .normalize import Normalization as Normalization
    from .normalize import normalize as normalize
    from .normals import smooth_normals as smooth_normals

_MODULE_OF_NAME = {
    "Axes": "axes",
    "Material": "mesh",
    "Mesh": "mesh",
    "MeshAsset": "asset",
    "Normalization": "normalize",
    "VIEW_NAMES": "mesh",
    "load_asset": "asset",
    "normalize": "normalize",
    "smooth_normals": "normals",
}
__all__ = sorted(_MODULE_OF_NAME)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF_NAME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
