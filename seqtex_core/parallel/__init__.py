"""One texture on several devices: branches apart, and the rows of a branch spread out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .branch_trunk import ParallelTrunk as ParallelTrunk
    from .branch_trunk import parallel_mesh as parallel_mesh
    from .row_shares import RowShares as RowShares
    from .row_shares import even_shares as even_shares
    from .spread_attention import SPREADS as SPREADS
    from .spread_attention import GatheredKeys as GatheredKeys
    from .spread_attention import HeadExchange as HeadExchange
    from .spread_attention import Spread as Spread

_MODULES = {
    "GatheredKeys": "spread_attention",
    "HeadExchange": "spread_attention",
    "ParallelTrunk": "branch_trunk",
    "RowShares": "row_shares",
    "SPREADS": "spread_attention",
    "Spread": "spread_attention",
    "even_shares": "row_shares",
    "parallel_mesh": "branch_trunk",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
