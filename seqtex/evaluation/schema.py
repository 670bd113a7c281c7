"""The JSON Schema of result files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .scores import MEASURES


def _record(properties: Mapping[str, Any], *, nullable: bool = False) -> dict[str, Any]:
    """Schema of an object that has exactly these properties."""
    return {
        "type": ["object", "null"] if nullable else "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_AMOUNT = {"type": "number", "minimum": 0}
_INTERVAL = {"type": "array", "items": _NUMBER}
_ESTIMATE = _record(
    {
        "count": {"type": "integer", "minimum": 1},
        "mean": _NUMBER,
        "mean_interval": _INTERVAL,
        "median": _NUMBER,
        "median_interval": _INTERVAL,
        "share_above_zero": _AMOUNT,
    },
    nullable=True,
)
_BY_METHOD = {"type": "object", "additionalProperties": _record(dict.fromkeys(MEASURES, _ESTIMATE))}
_SCORE = {"type": ["number", "null"]}
_SCORES = _record(dict.fromkeys(MEASURES, _SCORE))
_METHOD = {
    "type": "object",
    "properties": {"description": _TEXT, "seconds": _AMOUNT},
    "required": ["description", "seconds"],
}

RESULT_SCHEMA: dict[str, Any] = _record(
    {
        "format": {"type": "integer", "enum": [1]},
        "kind": {"type": "string", "enum": ["evaluation"]},
        "date": _TEXT,
        "commit": _record({"hash": _TEXT, "changed": {"type": "boolean"}}, nullable=True),
        "versions": {"type": "object", "additionalProperties": _TEXT},
        "machine": _record({"platform": _TEXT, "cpus": _COUNT, "threads": _COUNT}),
        "bank": {
            "type": "object",
            "properties": {"name": _TEXT, "objects": _COUNT, "seed": _COUNT, "families": _TEXTS},
            "required": ["name", "objects"],
        },
        "settings": _record(
            {
                "count": _COUNT,
                "seed": _COUNT,
                "kinds": _TEXTS,
                "given_view": _COUNT,
                "batch_size": _COUNT,
                "num_pictures": _COUNT,
            }
        ),
        "intervals": _record({"level": _AMOUNT, "resamples": _COUNT, "method": _TEXT}),
        "measures": _record(dict.fromkeys(MEASURES, _TEXT)),
        "baseline": _TEXT,
        "methods": {"type": "object", "additionalProperties": _METHOD},
        "excluded": {"type": "object", "additionalProperties": _COUNT},
        "summary": _BY_METHOD,
        "differences": _BY_METHOD,
        "objects": {
            "type": "array",
            "items": _record(
                {
                    "number": _COUNT,
                    "family": _TEXT,
                    "kinds": _TEXTS,
                    "unseen_share": _AMOUNT,
                    "exclusion": {"type": ["string", "null"]},
                    "results": {"type": "object", "additionalProperties": _SCORES},
                }
            ),
        },
    }
)
