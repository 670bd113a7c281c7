"""All variants with all seeds in one process; finished runs are kept and skipped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from seqtex_core.errors import UsageError

from .. import context
from ..ceilings import drift, measure_ceilings
from ..result import Row, write_run
from .banks import make_banks
from .measuring import MEASURES, held_out_cases, references
from .one_run import finished, run_folder, run_one
from .report import write_report
from .setting import Setting
from .variants import Variant, planned

Say = Callable[[str], None]


def run_ablation(
    setting: Setting,
    *,
    work: Path,
    out: Path,
    seeds: int = 2,
    plan: Sequence[tuple[Variant, int]] | None = None,
    minutes: float | None = None,
    say: Say = print,
) -> Path:
    """Train and measure everything that is not there yet, then write results and report.

    Args:
        setting: what all variants share, the budget above all.
        work: banks and finished runs; the same command continues there after a stop.
        out: root of the results.
        seeds: per variant.
        plan: other runs than all.
        minutes: begin no further run after this time, and report on those that there are.
        say: told about every run.

    Returns:
        The result file.

    Raises:
        UsageError: fewer than one seed.
        ContractError: training was asked to stop.
    """
    if seeds < 1:
        raise UsageError("--seeds", expected="at least 1", got=str(seeds))
    torch.set_num_threads(1)
    start, date = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    load, device = context.load_average(), torch.device("cpu")
    state, limits = (
        context.device_state(device),
        measure_ceilings(device, (torch.float32,), quick=True),
    )
    make_banks(work / "banks", setting.banks)
    cases = held_out_cases(work / "banks" / "held-out", setting.banks.held_out)
    runs: list[dict[str, Any]] = []
    wanted = list(planned(seeds) if plan is None else plan)
    for number, (variant, seed) in enumerate(wanted, start=1):
        late = minutes is not None and time.perf_counter() - start > 60 * minutes
        if late and finished(run_folder(work, variant, seed, setting)) is None:
            continue
        record = run_one(variant, seed, setting, work=work, cases=cases)
        runs.append(record)
        first = record["values"][str(setting.sampling_steps[0])]["psnr_all"]
        say(
            f"{number}/{len(wanted)} {variant.name}, seed {seed}: "
            f"{sum(first) / len(first):.2f} dB, {record['training_cpu_seconds']:.0f} CPU s, "
            f"{time.perf_counter() - start:.0f} s so far"
        )
    if len(runs) < len(wanted):
        say(f"stopped for time: {len(wanted) - len(runs)} of {len(wanted)} runs are missing")
    scale = references(cases)
    after = measure_ceilings(device, (torch.float32,), quick=True)
    record = {
        "name": "ablation",
        "date": date,
        "quick": False,
        "seed": 0,
        "threads": 1,
        "seconds": time.perf_counter() - start,
        "commit": context.commit(),
        "device": context.device_record(device),
        "versions": context.versions(),
        "environment": context.environment(),
        "load_average": {"start": load, "end": context.load_average()},
        "device_state": {"start": state, "end": context.device_state(device)},
        "limits": {
            "start": limits.to_json(),
            "end": after.to_json(),
            "drift": drift(limits, after),
        },
        "rows": [row_of(run, setting).to_json() for run in runs],
    }
    path = write_run(record, out)
    objects = {
        "measures": list(MEASURES),
        "objects": [
            {"number": c.number, "family": c.family, "kinds": list(c.images.kinds)} for c in cases
        ],
        "references": scale,
        "runs": [{key: run[key] for key in ("variant", "seed", "values")} for run in runs],
    }
    text = json.dumps(rounded(objects), allow_nan=False)
    path.with_name("objects.json").write_text(text + "\n", encoding="utf-8")
    write_report(path.parent, record, runs, scale, setting=setting, cases=cases, work=work)
    return path


def row_of(run: Mapping[str, Any], setting: Setting) -> Row:
    """A finished run as a row of the common result files."""
    metrics: dict[str, float | None] = {
        "parameters": run["parameters"],
        "training_cpu_s": run["training_cpu_seconds"],
        "measuring_cpu_s": run["measuring_cpu_seconds"],
    }
    for name, loss in run["losses"].items():
        metrics[f"loss {name} first tenth"] = loss["first"]
        metrics[f"loss {name} last tenth"] = loss["last"]
    for steps, values in run["values"].items():
        for measure, listed in values.items():
            found = summary(listed)
            for part, number in found.items():
                metrics[f"{measure} {part} ({steps} sampling steps)"] = number
    parameters: dict[str, Any] = {
        "seed": run["seed"],
        "steps": sum(stage["steps"] for stage in run["stages"]),
        **{k: v for k, v in asdict(setting).items() if isinstance(v, int | float)},
        "stages": "; ".join(
            f"{stage['steps']} steps of "
            + ", ".join(f"{task} {weight:g}" for task, weight in stage["tasks"].items())
            for stage in run["stages"]
        ),
    }
    return Row(
        benchmark="ablation",
        case=run["variant"],
        implementation=f"seed {run['seed']}",
        dtype="float32",
        parameters={**parameters, "budget_steps": setting.steps},
        metrics=metrics,
    )


def summary(values: Sequence[float | None]) -> dict[str, float]:
    """Mean and 95% interval over objects; empty if there is no value."""
    from seqtex.evaluation.intervals import estimate

    known = [value for value in values if value is not None]
    if not known:
        return {}
    found = estimate(known)
    low, high = found.mean_interval
    return {"mean": found.mean, "low": low, "high": high}


def rounded(value: Any) -> Any:
    """Plain data with numbers cut to a thousandth, for files that people keep."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
