"""The SeqTex application: pipeline, command line, manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .pipeline import SeqTexPipeline as SeqTexPipeline
    from .prepare import PreparedJob as PreparedJob
    from .prepare import prepare_job as prepare_job
    from .prepare_options import PrepareOptions as PrepareOptions
    from .project import project_references as project_references
    from .result import TextureResult as TextureResult
    from .run_options import RunOptions as RunOptions
    from .silhouettes import Reference as Reference

_EXPORTS = {
    "PrepareOptions": "prepare_options",
    "PreparedJob": "prepare",
    "Reference": "silhouettes",
    "RunOptions": "run_options",
    "SeqTexPipeline": "pipeline",
    "TextureResult": "result",
    "prepare_job": "prepare",
    "project_references": "project",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
