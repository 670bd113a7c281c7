"""Which settings may change when a run is resumed, and which may not."""

from __future__ import annotations

from typing import Any

from .config import TrainingConfig

_FREE = ("micro_batch", "gradient_checkpointing", "compile", "strategy", "num_threads")


def comparable(config: TrainingConfig) -> dict[str, Any]:
    """The settings that decide what is learned.

    Left out is what only decides how the work is carried out and what is written.
    """
    record = config.to_json()
    del record["output"]
    for name in _FREE:
        del record["run"][name]
    for name in ("prefetch", "cache_latents"):
        del record["data"][name]
    return record
