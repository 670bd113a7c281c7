"""An evaluation as files: JSON, a Markdown table, and pictures to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.bank import GeometryBank
from ..outputs import staged
from .cases import BankObjects, CaseSource
from .intervals import LEVEL, RESAMPLES, Estimate
from .methods import BASELINE
from .pictures import save_pictures
from .provenance import provenance
from .run import Evaluation, EvaluationSettings
from .scores import MEASURES

RESULTS, TABLE, PICTURES = "results.json", "results.md", "pictures.png"
FORMAT = 1
MOST_ROWS = 24
"""Sets of more objects have no table of single ones."""


def write_report(
    folder: Path,
    evaluation: Evaluation,
    objects: CaseSource | GeometryBank,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """Write ``results.json``, ``results.md`` and ``pictures.png``; all or nothing.

    Returns:
        What is in ``results.json``.
    """
    record = to_json(evaluation, objects, settings)
    with staged(folder) as scratch:
        text = json.dumps(record, indent=1, allow_nan=False)
        (scratch / RESULTS).write_text(text + "\n", encoding="utf-8")
        (scratch / TABLE).write_text(to_markdown(record), encoding="utf-8")
        if evaluation.pictured:
            save_pictures(scratch / PICTURES, evaluation.pictured)
    return record


def to_json(
    evaluation: Evaluation, objects: CaseSource | GeometryBank, settings: EvaluationSettings
) -> dict[str, Any]:
    """Plain JSON types only."""
    source = BankObjects(bank=objects) if isinstance(objects, GeometryBank) else objects
    names = [method.name for method in evaluation.methods]
    return {
        "format": FORMAT,
        "kind": "evaluation",
        **provenance(),
        "bank": source.description(),
        "settings": {**asdict(settings), "kinds": list(settings.kinds)},
        "intervals": {"level": LEVEL, "resamples": RESAMPLES, "method": "percentile bootstrap"},
        "measures": dict(MEASURES),
        "baseline": BASELINE,
        "methods": {
            method.name: {**method.facts, "seconds": round(evaluation.seconds[method.name], 3)}
            for method in evaluation.methods
        },
        "excluded": evaluation.excluded,
        "summary": {n: {m: _json(evaluation.summary(n, m)) for m in MEASURES} for n in names},
        "differences": {
            n: {m: _json(evaluation.difference(n, m)) for m in MEASURES} for n in names
        },
        "objects": [{**asdict(found), "kinds": list(found.kinds)} for found in evaluation.objects],
    }


def to_markdown(record: Mapping[str, Any]) -> str:
    """Tables of a result, those of single objects too if there are few, and what they mean."""
    lines = summary_tables(record)
    if len(record["objects"]) <= MOST_ROWS:
        lines += _object_tables(record)
    lines += [f"- `{name}`: {text}." for name, text in record["measures"].items()]
    lines += [
        "",
        *(f"- *{name}*: {facts['description']}." for name, facts in record["methods"].items()),
        "",
    ]
    return "\n".join(lines)


def summary_tables(record: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: means, medians and differences with their intervals."""
    excluded = record["excluded"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in excluded.items())
    total = len(record["objects"])
    return [
        f"{total} objects of {_set(record['bank'])}, textures: "
        f"{', '.join(record['settings']['kinds']) or 'their own'}. Excluded: {reasons or 'none'}. "
        f"Mean, [95% bootstrap interval], median.",
        "",
        *_table(record, "summary", list(MEASURES)),
        "",
        f"Difference from *{record['baseline']}* on the same object: mean, [95% interval], median; "
        "share of objects on which the method is better.",
        "",
        *_table(record, "differences", list(MEASURES)[:4], wins=True),
        "",
    ]


def _set(described: Mapping[str, Any]) -> str:
    """The set in words: its name, what is in it, what was left out of it and why."""
    words = f"`{described['name']}`"
    if "families" in described:
        words += f" ({', '.join(described['families'])})"
    left_out = [f"{name} ({reason})" for name, reason in described.get("left_out", {}).items()]
    return words + (f"; not measured: {', '.join(left_out)}" if left_out else "")


def _object_tables(record: Mapping[str, Any]) -> list[str]:
    """PSNR and SSIM of every object by method, all texels / unseen ones."""
    names = list(record["methods"])
    lines: list[str] = []
    for measure, digits in (("psnr", 2), ("ssim", 3)):
        lines += [
            f"Object by object: {measure.upper()} of all texels / of unseen ones.",
            "",
            "| object | unseen | " + " | ".join(names) + " |",
            "|---" * (len(names) + 2) + "|",
        ]
        for one in record["objects"]:
            title = ", ".join([one["family"], *one["kinds"]])
            title += f" (excluded: {one['exclusion']})" if one["exclusion"] else ""
            cells = [
                " / ".join(
                    _number(one["results"][name][f"{measure}_{part}"], digits)
                    for part in ("all", "unseen")
                )
                for name in names
            ]
            lines.append(f"| {title} | {one['unseen_share']:.0%} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(
    record: Mapping[str, Any], part: str, measures: list[str], *, wins: bool = False
) -> list[str]:
    lines = ["| method | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, found in record[part].items():
        if wins and name == record["baseline"]:
            continue
        cells = [_cell(found[measure], measure, wins=wins) for measure in measures]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(found: Mapping[str, Any] | None, measure: str, *, wins: bool) -> str:
    if found is None:
        return "-"
    digits = 3 if measure.startswith("ssim") else 2
    form = f"{{:{'+' if wins else ''}.{digits}f}}"
    low, high = (form.format(value) for value in found["mean_interval"])
    text = f"{form.format(found['mean'])} [{low}, {high}], {form.format(found['median'])}"
    return text + (f"; {found['share_above_zero']:.0%}" if wins else "")


def _json(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else found.to_json()
