"""The memory benchmark against the plan, and the plots and tables of all that grows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import memory
from benchmarks.ceilings import Ceilings
from benchmarks.memory import SMALL, STAGES, _compared, _measured, _parts, cache_bytes
from benchmarks.observe import peak_of
from benchmarks.plots_work import _varies
from benchmarks.report import write_report
from benchmarks.result import Row, read_run
from benchmarks.runner import Session
from seqtex.models.fill import empty_transformer
from seqtex.models.memory import Measures, MemoryPlan, peaks
from seqtex.models.memory_needs import memory_needs
from seqtex.models.run_sizes import KnownSizes

LIMITS = Ceilings(gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e9, launch_s=0.0, measured=())
SESSION = Session(device=torch.device("cpu"), quick=True, seed=0, ceilings=LIMITS)
TINY = KnownSizes(view_size=32, uv_size=64)
ALONE = {"in_channels": 12, "out_channels": 12, "num_layers": 2}
CONFIG = replace(
    SMALL,
    backbone={**SMALL.backbone, "config": {**SMALL.backbone["config"], **ALONE}},
    codec={
        "codec": "pixel",
        "patch_size": 2,
        "ranges": SMALL.codec["ranges"],
        "latents_mean": [0.0],
        "latents_std": [0.5],
    },
)
"""Without a VAE, whose counting takes seconds."""


def test_a_peak_is_what_is_held_at_once() -> None:
    def call() -> None:
        first = torch.ones(1 << 18)  # 1 MiB
        del first
        torch.ones(1 << 18) + torch.ones(1 << 18)  # three at once

    assert peak_of(call, torch.device("cpu")).peak_bytes == 3 << 20


def test_shared_tensors_are_counted_once() -> None:
    one, two = torch.zeros(10), torch.zeros(5)
    parts = {"a": (one, [one[:3]]), "b": Measures()}
    assert cache_bytes((parts, two, None)) == 60


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SIZES", TINY)
        patch.setattr(memory, "SMALL", CONFIG)
        profiles = ("nothing given up", "geometry recast", "parts visit")
        patch.setattr(memory, "PROFILES", {n: memory.PROFILES[n] for n in profiles})
        return list(_measured(SESSION))


def test_measured_peaks_are_those_of_the_plan(rows: list[Row]) -> None:
    by_profile: dict[str, list[Row]] = {}
    for row in rows:
        by_profile.setdefault(row.implementation, []).append(row)
    assert [row.case for row in by_profile["nothing given up"]] == [f"{s}, UV 64" for s in STAGES]
    assert [row.case for row in by_profile["geometry recast"]] == ["Denoise, UV 64"]
    for row in by_profile["nothing given up"] + by_profile["geometry recast"]:
        assert row.status == "ok", row.reason
    step = by_profile["nothing given up"][1]
    # operators are the same on both devices, apart from scratch memory of attention
    assert step.metrics["measured_over_expected"] == pytest.approx(1, abs=0.02)
    recast = by_profile["geometry recast"][0]
    kept = [float(row.metrics["kept_bytes"] or 0) for row in (recast, step)]
    # what is recast is not kept: one tensor per token, channel and block, and the text's keys
    rows_kept = 2 * 4 * 128 * (4 * 8**2 + 16**2)
    assert kept[1] - kept[0] >= rows_kept
    assert kept[1] < float(step.metrics["working_bytes"] or 0)
    assert recast.memory is not None
    assert step.memory is not None
    assert recast.memory.peak_bytes < step.memory.peak_bytes
    assert {row.status for row in by_profile["parts visit"]} == {"unsupported"}


def test_a_plan_that_is_not_enough_is_wrong() -> None:
    needs = memory_needs(empty_transformer(CONFIG), CONFIG, TINY)
    plan = MemoryPlan(needs=needs, measures=Measures(), place="cpu")
    parts = _parts(CONFIG, torch.float32, plan, TINY, SESSION)
    row = Row(benchmark="memory", case="some", implementation="nothing given up")
    expected = peaks(needs, Measures(), "cpu")["Denoise"]
    found = [_compared(row, parts, "Denoise", round(expected / short)) for short in (1.05, 1.2)]
    assert [one.status for one in found] == ["ok", "wrong"], "the slack is ten per cent"
    assert "expected" in (found[1].reason or "")


def test_every_measure_stands_beside_nothing_given_up_at_its_own_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles need a larger texture: at that size nothing is given up, too."""
    seen: dict[tuple[str, int], list[str]] = {}

    def held(needs: KnownSizes, measures: Measures, place: str) -> dict[str, int]:
        sizes = {"Encode": needs.uv_size, "Denoise": 1, "Decode": needs.uv_size}
        return sizes if measures == Measures() else {**sizes, "Encode": 0, "Decode": 0}

    def compared(row: Row, parts: object, stage: str, expected: int) -> Row:
        seen.setdefault((stage, int(row.parameters["uv_size"] or 0)), []).append(row.implementation)
        return row

    monkeypatch.setattr(memory, "empty_transformer", lambda config, dtype: None)
    monkeypatch.setattr(memory, "memory_needs", lambda empty, config, sizes: sizes)
    monkeypatch.setattr(memory, "MemoryPlan", lambda **parts: None)
    monkeypatch.setattr(memory, "peaks", held)
    monkeypatch.setattr(memory, "_parts", lambda *parts: None)
    monkeypatch.setattr(memory, "_compared", compared)
    rows = list(_measured(SESSION))
    assert {row.case for row in rows} >= {"Encode, UV 640", "Decode, UV 640", "Decode, UV 256"}
    tiled = ["nothing given up", "VAE in exact tiles"]
    assert seen["Encode", 640] == seen["Decode", 640] == tiled
    assert ("Denoise", 640) not in seen  # tiles change nothing there
    for names in seen.values():
        assert names[0] == "nothing given up"
        assert len(names) == len(set(names))


def test_a_stage_that_raises_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SIZES", TINY)
    monkeypatch.setattr(memory, "SMALL", CONFIG)
    monkeypatch.setattr(memory, "PROFILES", {"nothing given up": Measures()})

    def full(parts: memory.Parts) -> object:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(memory, "_denoise", full)
    found = list(_measured(SESSION))
    assert [row.status for row in found] == ["ok", "failed", "ok"]
    assert found[1].reason == "OutOfMemoryError: no room"
    assert memory._summary(found[1]) == ""


# ---- tables and plots -------------------------------------------------------------------------


def _made_up(template: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(template)), **changes}


def _rows_of_all(template: dict[str, Any]) -> list[dict[str, Any]]:
    metrics: dict[str, Any] = {
        "tflop_per_step": 3.0,
        "tflop_per_step at UV resolution": 9.0,
        "gflop_per_layer": 100.0,
        "pointwise_gb_per_layer": 1.0,
        "launches_per_layer": 58,
        "working_bytes": 2**30,
    }
    rows = []
    for kind, values in (("views", (1, 4)), ("uv_size", (512, 2048))):
        for value in values:
            name = f"{value} views" if kind == "views" else f"UV {value}"
            sizes: dict[str, Any] = {"views": 4, "uv_size": 1024, kind: value}
            shared: dict[str, Any] = {
                "benchmark": "scaling",
                "implementation": "mixed",
                "parameters": sizes,
            }
            rows.append(_made_up(template, case=f"2 x d=128, {name}", **shared))
            counted = _made_up(template, case=f"counted, {name}", metrics=metrics, **shared)
            rows.append({**counted, "time": None, "rate": None})
    for name in ("first", "second"):
        seen: dict[str, Any] = {"predicted_s": 0.1, "speedup": 1.5, "predicted_speedup": 1.2}
        rows.append(_made_up(template, benchmark="waterfall", implementation=name, metrics=seen))
    held = {"peak_bytes": 2e6, "reserved_bytes": None, "meaning": "made up"}
    seen = {"tokens_per_s": 9.0, "weights_bytes": 10**6, "moments_bytes": 10**6}
    sizes = {"family": "wan", "layers": 2, "dim": 8}
    rows.append(_made_up(template, benchmark="train", parameters=sizes, memory=held, metrics=seen))
    seen = dict.fromkeys(("weights_bytes", "working_bytes", "expected_bytes"), 1e6)
    seen |= {"measured_over_expected": 0.67}
    rows.append(_made_up(template, benchmark="memory", case="Decode", memory=held, metrics=seen))
    return rows


def test_every_kind_of_result_has_its_table_and_plot(run_file: Path, tmp_path: Path) -> None:
    run = read_run(run_file)
    template = next(row for row in run["rows"] if row["accuracy"])
    run = {**run, "rows": [*run["rows"], *_rows_of_all(template)]}
    folder = tmp_path / run["device"]["slug"]
    folder.mkdir()
    (folder / run_file.name).write_text(json.dumps(run))
    written = {path.name: path for path in write_report(tmp_path)}
    drawn = {"waterfall.png", "scaling.png", "training.png", "memory.png"}
    assert drawn <= set(written)
    for name in drawn:
        with Image.open(written[name]) as picture:
            colors = picture.convert("RGB").resize((64, 64)).getcolors(64 * 64)
        assert colors is not None
        assert len(colors) > 20, name  # something is drawn
    text = written["report.md"].read_text()
    assert "| 1 views | 3.0 | 9.0 | 100.0 | 1.00 | 58 | 1024.0 |" in text
    assert "| Decode | " in text
    assert "67.0%" in text


def test_what_a_row_varies_is_in_its_name() -> None:
    for name, varies in (("counted, 4 views", "views"), ("2 x d=128, UV 512", "uv_size")):
        assert _varies({"case": name}, varies)
        assert not _varies({"case": name}, "uv_size" if varies == "views" else "views")
