"""Rotary positions for sequences whose frame groups differ in size (paper, Alg. 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .rotate import Pairing as Pairing
    from .rotate import Rope as Rope
    from .rotate import apply_rope as apply_rope
    from .rotate import apply_rope_reference as apply_rope_reference
    from .table import GRID_SPREADS as GRID_SPREADS
    from .table import LINSPACE_ENDS as LINSPACE_ENDS
    from .table import Extrapolation as Extrapolation
    from .table import GridSpread as GridSpread
    from .table import Interpolation as Interpolation
    from .table import LinspaceEnd as LinspaceEnd
    from .table import RopePolicy as RopePolicy
    from .table import RopeSpec as RopeSpec
    from .table import cogvideox_axis_dims as cogvideox_axis_dims
    from .table import rope_for_grid as rope_for_grid
    from .table import rope_table as rope_table
    from .table import spread_policy as spread_policy
    from .table import wan_axis_dims as wan_axis_dims

_MODULES = {
    "Extrapolation": "table",
    "GRID_SPREADS": "table",
    "GridSpread": "table",
    "Interpolation": "table",
    "LINSPACE_ENDS": "table",
    "LinspaceEnd": "table",
    "Pairing": "rotate",
    "Rope": "rotate",
    "RopePolicy": "table",
    "RopeSpec": "table",
    "apply_rope": "rotate",
    "apply_rope_reference": "rotate",
    "cogvideox_axis_dims": "table",
    "rope_for_grid": "table",
    "rope_table": "table",
    "spread_policy": "table",
    "wan_axis_dims": "table",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
