"""Numbers of a training config that make sense, by their place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import DEFAULT_STREAMS

_AT_LEAST = {
    "data.prefetch": 0,
    "loss.outside_weight": 0,
    "loss.uv_weight": 0,
    "ema.snapshot_every": 0,
    "run.batch_size": 1,
    "run.micro_batch": 0,
    "run.num_threads": 0,
    "output.log_every": 1,
    "output.checkpoint_every": 1,
    "output.checkpoint_minutes": 0,
    "output.keep": 1,
    "output.preview_every": 0,
    "output.preview_count": 0,
    "output.preview_steps": 1,
    "stages.steps": 1,
    "stages.warmup_steps": 0,
}
_BETWEEN = {
    "seed": (0, 2**63 - 1),
    "data.caption_dropout": (0, 1),
    "stages.final_ratio": (0, 1),
}


def check_ranges(config: Any) -> None:
    """Refuse numbers that are too small or too large.

    Args:
        config: a ``TrainingConfig``.

    Raises:
        UsageError: names the entry as the file does.
    """
    numbers = _numbers(config)
    for place, value in numbers:
        low, high = _AT_LEAST.get(place), None
        if place in _BETWEEN:
            low, high = _BETWEEN[place]
        if low is None or (value >= low and (high is None or value <= high)):
            continue
        expected = f"{low} or more" if high is None else f"{low} to {_written(high)}"
        raise UsageError(_called(place), expected=expected, got=str(value))


def check_tokens(tokens: Mapping[str, int]) -> None:
    """Refuse ``[run] tokens`` of groups that no task has, and numbers below 1.

    Raises:
        UsageError: names the entry.
    """
    for name, most in tokens.items():
        if name not in DEFAULT_STREAMS:
            known = ", ".join(DEFAULT_STREAMS)
            raise UsageError("[run] tokens", expected=f"groups among {known}", got=repr(name))
        if not isinstance(most, int) or most < 1:
            raise UsageError(f"[run] tokens.{name}", expected="1 or more", got=str(most))


def _numbers(section: Any, within: str = "") -> list[tuple[str, float]]:
    """Places and values of all numbers, those of ``[[stages]]`` under one place."""
    found: list[tuple[str, float]] = []
    for field in fields(section):
        value, place = getattr(section, field.name), f"{within}{field.name}"
        for part in value if isinstance(value, tuple) else (value,):
            if is_dataclass(part):
                found += _numbers(part, f"{place}.")
            elif isinstance(part, int | float) and not isinstance(value, tuple | Mapping):
                found.append((place, part))
    return found


def _called(place: str) -> str:
    section, _, key = place.rpartition(".")
    if not section:
        return key
    return f"[[{section}]] {key}" if section == "stages" else f"[{section}] {key}"


def _written(number: float) -> str:
    return "2^63 - 1" if number == 2**63 - 1 else f"{number:g}"
