"""The report of an ablation: one table with intervals, sentences from the numbers, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from seqtex.evaluation.cases import EvaluationCase
from seqtex.evaluation.methods import MEAN
from seqtex_geometry.contact_sheet import save_contact_sheet

from .measuring import Values
from .one_run import PICTURED, PICTURES
from .setting import HELD_OUT_KINDS, TRAIN_KINDS, Setting
from .table import Difference, Run, difference, mean_value, run_half_width
from .variants import BASELINE, VARIANTS, Variant

REPORT, GRID = "report.md", "pictures.png"
_EDGE = 128


def write_report(
    folder: Path,
    record: Mapping[str, Any],
    runs: Sequence[Run],
    scale: Mapping[str, Values],
    *,
    setting: Setting,
    cases: Sequence[EvaluationCase],
    work: Path,
) -> None:
    """Write ``report.md`` and ``pictures.png`` beside a result file.

    Args:
        folder: where they go.
        record: the result file.
        runs: with the values of every object.
        scale: values of methods that need no training.
        setting: what all variants share.
        cases: the objects.
        work: folder of the runs.
    """
    text = to_markdown(record, runs, scale, setting=setting, objects=len(cases))
    (folder / REPORT).write_text(text, encoding="utf-8")
    save_pictures(folder / GRID, runs, cases, work=work)


def to_markdown(
    record: Mapping[str, Any],
    runs: Sequence[Run],
    scale: Mapping[str, Values],
    *,
    setting: Setting,
    objects: int,
) -> str:
    """The report as Markdown."""
    present = [v for v in VARIANTS if any(run["variant"] == v.name for run in runs)]
    commit = (record["commit"]["hash"] or "unknown")[:10]
    parts = [
        "# Ablations at the scale of one CPU",
        f"{record['date'][:10]}, {record['device']['name']}, one thread, commit {commit}, "
        f"{len(runs)} runs. One command: `python -m benchmarks ablation --budget {setting.steps}`.",
        _setting(setting, objects),
        "## Differences from the baseline",
        _reading(runs, setting),
        _differences(present, runs, setting, setting.sampling_steps[0]),
        "## What the table says",
        _stage(runs, scale, setting),
        "\n".join(_sentences(present, runs, setting)),
        "## Means, losses and costs",
        _means(present, runs, scale, setting),
        "## Variants",
        "\n".join(f"* **{v.name}** ({v.question}): {v.text}." for v in present),
    ]
    for steps in setting.sampling_steps[1:]:
        parts += [
            f"## The same models sampled in {steps} steps",
            _differences(present, runs, setting, steps),
        ]
    parts.append(f"![textures made by every variant]({GRID})")
    return "\n\n".join(parts) + "\n"


def _setting(setting: Setting, objects: int) -> str:
    banks = setting.banks
    return (
        f"Model: {setting.layers} blocks of width {setting.width}, {setting.heads} heads, pixel "
        f"patches of {setting.patch}, views of {banks.view_size} pixels, textures of "
        f"{banks.uv_size}; task `img2tex`, one random view given, no projection frame, all "
        f"trained from scratch. Budget: {setting.steps} steps of {setting.batch_size} objects "
        f"for every variant (`pretrained, beforehand` has as many again), learning rate "
        f"{setting.learning_rate:g}. Data: {banks.train} procedural objects, textures "
        f"{', '.join(TRAIN_KINDS)}. Measured on {objects} objects of shape families and texture "
        f"kinds ({', '.join(HELD_OUT_KINDS)}) that training never sees, from albedo. Pictures are "
        "grey where there is no surface, for all variants alike, and noise levels are drawn near "
        "1, because the models are sampled in one step first of all."
    )


def _reading(runs: Sequence[Run], setting: Setting) -> str:
    steps = setting.sampling_steps[0]
    baselines = [run for run in runs if run["variant"] == BASELINE]
    seeds = max(len([r for r in runs if r["variant"] == v.name]) for v in VARIANTS[1:])
    spread = run_half_width([baselines], "psnr_all", steps=steps, seeds=max(seeds, 1))
    shown = "unknown" if spread is None else f"{spread:.2f} dB"
    return (
        f"Variant minus baseline in dB, {steps} sampling step(s), mean over objects and seeds "
        "[95% bootstrap interval over objects, paired]; in round brackets the seeds one by one. "
        f"The means of two times {seeds} runs of the baseline may differ by {shown} in PSNR of all "
        f"texels (95%, Student's t, {len(baselines)} seeds). *Separates*: **yes**, further from 0 "
        "than objects and runs together explain (runs by the spread of the seeds of baseline and "
        "variant, pooled); *objects only*, the interval over objects excludes 0, but other seeds "
        "might differ as much; *no*."
    )


def _differences(
    present: Sequence[Variant], runs: Sequence[Run], setting: Setting, steps: int
) -> str:
    measures = {
        "psnr_all": "PSNR, all texels",
        "psnr_unseen": "PSNR, unseen texels",
        "view_agreement": "views against texture",
    }
    head = ["question", "variant", "seeds"]
    for title in measures.values():
        head += [title, "separates"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in present:
        if one.name == BASELINE:
            continue
        found = [difference(runs, one.name, name, steps=steps) for name in measures]
        seeds = next((len(d.seeds) for d in found if d), 0)
        cells = [one.question, one.name, str(seeds)]
        for diff in found:
            cells += _cells(diff)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(found: Difference | None) -> list[str]:
    if found is None:
        return ["-", "-"]
    low, high = found.interval
    seeds = ", ".join(f"{value:+.2f}" for value in found.by_seed)
    mark = {"yes": "**yes**", "objects only": "objects only", "no": "no"}[found.separates]
    return [f"{found.mean:+.2f} [{low:+.2f}, {high:+.2f}] ({seeds})", mark]


def _means(
    present: Sequence[Variant],
    runs: Sequence[Run],
    scale: Mapping[str, Values],
    setting: Setting,
) -> str:
    steps = setting.sampling_steps[0]
    lines = [
        "| variant | PSNR all | PSNR unseen | views against texture | texture loss, first to last "
        "tenth | views loss | steps | trained parameters | CPU s |",
        "|" + "---|" * 9,
    ]
    for one in present:
        own = [run for run in runs if run["variant"] == one.name]
        cells = [one.name]
        for measure in ("psnr_all", "psnr_unseen", "view_agreement"):
            value = mean_value(runs, one.name, measure, steps=steps)
            cells.append("-" if value is None else f"{value:.2f}")
        cells += [_loss(own, "texture"), _loss(own, "views")]
        cells.append(str(sum(stage["steps"] for stage in own[0]["stages"])))
        cells.append(f"{own[0]['parameters']:,}")
        seconds = sum(run["training_cpu_seconds"] for run in own) / len(own)
        cells.append(f"{seconds:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    for name, values in scale.items():
        known = [[v for v in values[m] if v is not None] for m in ("psnr_all", "psnr_unseen")]
        means = [f"{sum(v) / len(v):.2f}" for v in known]
        lines.append(f"| *{name}* | {means[0]} | {means[1]} | - | - | - | 0 | 0 | - |")
    return "\n".join(lines)


def _loss(runs: Sequence[Run], group: str) -> str:
    """First and last loss of the task that the variant is measured in."""
    found = [
        loss
        for run in runs
        for name, loss in run["losses"].items()
        if name.startswith(("img2tex", "img2uv")) and name.endswith(group)
    ]
    if not found or not any(loss["first"] for loss in found):
        return "-"
    first, last = (sum(loss[key] for loss in found) / len(found) for key in ("first", "last"))
    return f"{first:.3f} to {last:.3f}"


EXPECTED: Mapping[str, tuple[int, str]] = {
    "pretrained, equal total": (0, "the paper has no run of equal total cost"),
    "pretrained, beforehand": (1, "the paper's largest effect is that of the prior"),
    "no geometry": (-1, "without it nothing says which texel a view shows"),
    "joint": (-1, "the paper loses 2.5 FID without UV separation"),
    "UV at MV resolution": (-1, "the paper's reason for its resolution"),
    "lit": (-1, "the paper loses 8.7 FID with lit data"),
    "split tasks": (1, "the paper's split mix is better than 3D-only"),
    "hybrid tasks": (1, "the paper's hybrid mix is its best"),
}
"""The sign that the paper (or plain reason) lets one expect, and why; other variants have none."""


def _stage(runs: Sequence[Run], scale: Mapping[str, Values], setting: Setting) -> str:
    """How far the baseline has come, and how many verdicts there are to be wrong."""
    steps = setting.sampling_steps[0]
    compared = len({run["variant"] for run in runs}) - 1
    text = (
        f"With {compared} comparisons at 95%, about {compared / 20:.1g} of a column's verdicts "
        "would be wrong if no variant differed. "
    )
    reached = mean_value(runs, BASELINE, "psnr_all", steps=steps)
    flat = [value for value in scale.get(MEAN, {}).get("psnr_all", []) if value is not None]
    if reached is None or not flat:
        return text
    bound = sum(flat) / len(flat)
    if reached < bound:
        return text + (
            f"The baseline reaches {reached:.2f} dB, less than the mean colour of the reference "
            f"({bound:.2f} dB): what is compared here is how fast the palette is learned, hardly "
            "yet which texel is seen where. None of this says how full training would end."
        )
    return text + f"The baseline reaches {reached:.2f} dB; the reference's mean colour {bound:.2f}."


def _sentences(present: Sequence[Variant], runs: Sequence[Run], setting: Setting) -> list[str]:
    lines = []
    for one in present:
        found = difference(runs, one.name, "psnr_all", steps=setting.sampling_steps[0])
        if one.name == BASELINE or found is None:
            continue
        lines.append(f"* {one.name}: {_judged(found)}")
    return lines


def _judged(found: Difference) -> str:
    size = f"{found.mean:+.2f} dB"
    outcome = {
        "yes": f"{size}, beyond what objects and runs explain",
        "objects only": f"{size}, clear over objects but not beyond the difference of equal runs",
        "no": f"{size}, not told apart from 0",
    }[found.separates]
    sign, why = EXPECTED.get(found.variant, (0, ""))
    if sign == 0:
        return outcome + (f" ({why})." if why else ".")
    if found.separates == "no":
        return f"{outcome}; expected {'better' if sign > 0 else 'worse'} ({why})."
    if (found.mean > 0) == (sign > 0):
        return f"{outcome}; as expected: {why}."
    surprise = "**a surprise**" if found.separates == "yes" else "not the expected sign"
    return f"{outcome}; {surprise}: {why}."


def save_pictures(
    path: Path, runs: Sequence[Run], cases: Sequence[EvaluationCase], *, work: Path
) -> None:
    """A sheet with one row per variant: its textures of the first objects, with the first seed."""
    shown = cases[:PICTURED]
    masks = [case.charted for case in shown]
    rows: dict[str, Tensor] = {
        "reference": _strip([case.reference for case in shown]),
        "truth": _strip([c.images.uv * m for c, m in zip(shown, masks, strict=True)]),
    }
    for one in VARIANTS:
        own = [run for run in runs if run["variant"] == one.name]
        if not own:
            continue
        file = work / "runs" / min(own, key=lambda run: run["seed"])["folder"] / PICTURES
        made = load_file(file)["textures"].float()
        rows[one.name] = _strip([t * m for t, m in zip(made, masks, strict=True)])
    save_contact_sheet(path, rows)


def _strip(pictures: Sequence[Tensor]) -> Tensor:
    return torch.cat([interpolate(p[None], (_EDGE, _EDGE), mode="nearest") for p in pictures])
