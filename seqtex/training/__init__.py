"""Training: data in, a model folder out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .batch import SOURCES as SOURCES
    from .batch import BatchSource as BatchSource
    from .batch import GroupImages as GroupImages
    from .batch import SourceContext as SourceContext
    from .batch import TrainingBatch as TrainingBatch
    from .config import TrainingConfig as TrainingConfig
    from .config import read_config as read_config
    from .parallel import make_parallel as make_parallel
    from .run import Run as Run
    from .run_setup import set_up_run as set_up_run
    from .trainer import TrainingResult as TrainingResult
    from .trainer import train as train

_MODULES = {
    "SOURCES": "batch",
    "BatchSource": "batch",
    "GroupImages": "batch",
    "Run": "run",
    "SourceContext": "batch",
    "TrainingBatch": "batch",
    "TrainingConfig": "config",
    "TrainingResult": "trainer",
    "make_parallel": "parallel",
    "read_config": "config",
    "set_up_run": "run_setup",
    "train": "trainer",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
