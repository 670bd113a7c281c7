"""The one schema of all result files: a run, its machine, and its rows."""

from __future__ import annotations

from typing import Any

FORMAT = 1
STATUSES = ("ok", "unsupported", "wrong", "failed")


def _record(properties: dict[str, Any], *, nullable: bool = False) -> dict[str, Any]:
    """Schema of an object that has exactly these properties."""
    return {
        "type": ["object", "null"] if nullable else "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_FLAG = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_AMOUNT = {"type": "number", "minimum": 0}
_MAYBE_AMOUNT = {"type": ["number", "null"], "minimum": 0}
_TEXTS = {"type": "array", "items": _TEXT}
_SCALARS = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
}
_SPREAD = {"median_s": _AMOUNT, "p10_s": _AMOUNT, "p90_s": _AMOUNT, "min_s": _AMOUNT}

TIME = _record(
    {
        "clock": {"type": "string", "enum": ["cpu", "wall", "cuda_event"]},
        **_SPREAD,
        "n": {"type": "integer", "minimum": 1},
        "warmup": _COUNT,
        "cache": {"type": "string", "enum": ["warm", "cold"]},
        "wall": _record(_SPREAD),
    },
    nullable=True,
)
WORK = _record(
    {
        "flop": _MAYBE_AMOUNT,
        "flop_formula": _MAYBE_TEXT,
        "bytes": _MAYBE_AMOUNT,
        "bytes_formula": _MAYBE_TEXT,
    },
    nullable=True,
)
RATE = _record(
    {
        "flop_per_s": _MAYBE_AMOUNT,
        "bytes_per_s": _MAYBE_AMOUNT,
        "limit": _TEXT,
        "limit_s": _AMOUNT,
        "achieved_over_limit": _AMOUNT,
    },
    nullable=True,
)
ACCURACY = _record(
    {
        "reference": _TEXT,
        "relative": _MAYBE_AMOUNT,
        "max_abs": _MAYBE_AMOUNT,
        "plain": _MAYBE_TEXT,
        "plain_relative": _MAYBE_AMOUNT,
        "plain_max_abs": _MAYBE_AMOUNT,
        "finite": _FLAG,
        "repeatable": _FLAG,
    },
    nullable=True,
)
MEMORY = _record(
    {"peak_bytes": _AMOUNT, "reserved_bytes": _MAYBE_AMOUNT, "meaning": _TEXT}, nullable=True
)
ROW = _record(
    {
        "benchmark": _TEXT,
        "case": _TEXT,
        "implementation": _TEXT,
        "status": {"type": "string", "enum": list(STATUSES)},
        "reason": _MAYBE_TEXT,
        "dtype": _MAYBE_TEXT,
        "parameters": _SCALARS,
        "accuracy": ACCURACY,
        "time": TIME,
        "work": WORK,
        "rate": RATE,
        "memory": MEMORY,
        "kernels": _TEXTS,
        "metrics": _SCALARS,
        "notes": _TEXTS,
    }
)
LIMITS = _record(
    {
        "gemm_flop_per_s": {"type": "object", "additionalProperties": _AMOUNT},
        "copy_bytes_per_s": _AMOUNT,
        "launch_s": _AMOUNT,
    }
)
DEVICE = _record(
    {
        "type": {"type": "string", "enum": ["cpu", "cuda"]},
        "name": _TEXT,
        "slug": _TEXT,
        "details": _SCALARS,
    }
)
RUN = _record(
    {
        "format": {"type": "integer", "enum": [FORMAT]},
        "name": _TEXT,
        "date": _TEXT,
        "quick": _FLAG,
        "seed": {"type": "integer"},
        "threads": {"type": "integer", "minimum": 1},
        "seconds": _AMOUNT,
        "commit": _record({"hash": _MAYBE_TEXT, "dirty": {"type": ["boolean", "null"]}}),
        "device": DEVICE,
        "versions": {"type": "object", "additionalProperties": _TEXT},
        "environment": _SCALARS,
        "load_average": _record({"start": _MAYBE_AMOUNT, "end": _MAYBE_AMOUNT}),
        "device_state": _record({"start": _SCALARS, "end": _SCALARS}),
        "limits": _record({"start": LIMITS, "end": LIMITS, "drift": _SCALARS}),
        "rows": {"type": "array", "items": ROW},
    }
)
"""A result file. Times are seconds, amounts are bytes and FLOP (a multiply-add is two)."""
