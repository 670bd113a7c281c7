"""Reports made from result files."""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import foreground, kernels, vae
from benchmarks.ceilings import Ceilings
from benchmarks.goal import Goal
from benchmarks.goal_figures import metric
from benchmarks.goals import outcomes
from benchmarks.plots_roofline import roofline
from benchmarks.report import latest_runs, markdown, write_report
from benchmarks.result import Row, read_run
from benchmarks.runner import Session
from seqtex_core.errors import UsageError
from seqtex_core.kernels import compile_report

LIMITS = Ceilings(gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e9, launch_s=0.0, measured=())


def _with_attention_and_step(run: dict[str, Any]) -> dict[str, Any]:
    """The run with rows that the plots need, made from a row of its own."""
    template = next(row for row in run["rows"] if row["accuracy"])
    rows = []
    for length in (128, 256):
        row = json.loads(json.dumps(template))
        row |= {"benchmark": "attention", "case": f"sweep {length}x{length}"}
        row["implementation"], row["dtype"] = "sdpa", "float32"
        row["parameters"] = {"queries": length, "heads": 2, "head_dim": 64}
        row["work"] |= {"flop": 1e6 * length, "bytes": 1e4}
        row["rate"] |= {"flop_per_s": 1e9, "limit": "gemm float32"}
        rows.append(row)
    step = json.loads(json.dumps(template))
    step |= {"benchmark": "step", "implementation": "seqtex", "case": "2 x d=64, 9+25"}
    step["metrics"] = {"share of matrix": 0.75, "share of pointwise": 0.25}
    refused = json.loads(json.dumps(template))
    refused |= {"benchmark": "step", "implementation": "other", "status": "unsupported"}
    refused |= {"reason": "no such card", "time": None, "rate": None, "accuracy": None}
    return {**run, "rows": [*run["rows"], *rows, step, refused]}


def blank(tables: list[str]) -> list[str]:
    """Lines of tables that say nothing but what they are about."""
    return [line for line in tables if line.endswith(" |  |  |  |  |  |  |  |")]


@pytest.fixture
def results(run_file: Path, tmp_path: Path) -> Path:
    run = _with_attention_and_step(read_run(run_file))
    folder = tmp_path / run["device"]["slug"]
    folder.mkdir()
    (folder / run_file.name).write_text(json.dumps(run))
    return tmp_path


def test_report_has_tables_reasons_and_plots(results: Path) -> None:
    written = write_report(results)
    names = {path.name for path in written}
    assert names == {"report.md", "roofline.png", "attention_length.png", "step_time.png"}
    text = next(path for path in written if path.name == "report.md").read_text()
    seconds = read_run(next(results.glob("*/*.json")))["seconds"]
    for part in (
        f"quick run of {seconds:.0f} s",
        "## limits",
        "## rope",
        "`other` (1 rows): no such card",
        "![roofline]",
        "qk_prep",
    ):
        assert part in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables if "GFLOP per layer" not in line}) == 1
    assert blank(tables) == []
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                colors = picture.convert("RGB").resize((64, 64)).getcolors(64 * 64)
            assert picture.width > 400
            assert colors is not None
            assert len(colors) > 20  # something is drawn


def test_full_runs_count_before_quick_ones_and_late_before_early(run_file: Path) -> None:
    run = read_run(run_file)
    early = {**run, "quick": False, "date": "2026-01-01T00:00:00+00:00"}
    late = {**run, "quick": False, "date": "2026-01-02T00:00:00+00:00"}
    quick = {**run, "quick": True, "date": "2026-01-03T00:00:00+00:00"}
    for order in ([early, late, quick], [quick, late, early]):
        assert latest_runs(order)["rope"]["date"] == late["date"]
    assert list(latest_runs([run])) == ["limits", "rope"]
    assert "2026-01-02" in markdown(latest_runs([early, late]), [])


def test_no_results_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="benchmarks all --quick"):
        write_report(tmp_path)


def _seen(run: dict[str, Any], rows: list[Row]) -> list[list[str]]:
    """Cells of the tables that a report has for these rows."""
    name = rows[0].benchmark
    chosen = {name: {**run, "rows": [row.to_json() for row in rows]}}
    lines = [line for line in markdown(chosen, []).splitlines() if line.startswith("| ")]
    assert blank(lines) == []
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _session() -> Session:
    return Session(
        device=torch.device("cpu"), quick=True, seed=0, ceilings=LIMITS, say=lambda line: None
    )


def test_what_kernels_compile_to_is_shown(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler's answer made up, so that Triton need not be there."""

    def compiled(case: compile_report.KernelCase, architecture: int) -> object:
        return compile_report.KernelReport(
            case=case.name,
            direction="forward",
            architecture=architecture,
            width=1536,
            warps=8,
            registers=37,
            stack=16,
            loads=(128, 64, 32),
            stores=(128, 16),
        )

    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(compile_report, "compile_case", compiled)
    rows = kernels._machine_code(_session())
    head, *cells = _seen(read_run(run_file), rows)
    assert head[4:] == [
        "warps",
        "registers",
        "stack, bytes",
        "in flight / needed",
        "narrowest store, bits",
        "loads below 128 bits",
    ]
    assert len(cells) == len(rows)
    for line in cells:
        assert line[1:] == ["forward", "sm_90", "bfloat16", "8", "37", "16", "2.42", "16", "2"]


def test_counted_textures_and_tokens_are_shown(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(run_file)
    monkeypatch.setattr(vae, "texture_flop", lambda family, forward: 19_600_000_000_000)
    seen = _seen(run, list(vae._texture_rows()))
    assert "19.60 (met: 20.60)" in seen[1]
    assert [line[3] for line in seen[2:]] == ["19.60"] * 3
    flops = iter((1e12, 3.0564e12, 1e12, 1.5e12))
    monkeypatch.setattr(foreground, "_step_flop", lambda size, shares: next(flops))
    head, every, typical = _seen(run, foreground._counted(_session()))
    assert head[4:6] == ["GFLOP", "by the formula"]
    assert every[1:5] == ["all tokens", "4096", "4096", "2056.4"]
    assert typical[1:5] == ["typical object", "860", "2580", "500.0"]
    assert head[-1] == "verdict"  # made up, they differ from the formula
    assert typical[-1].startswith("wrong: formula")


def test_tests_on_a_gpu_are_shown(run_file: Path) -> None:
    row = Row(
        benchmark="gpu_tests", case="all", implementation="pytest -m gpu", notes=("FAILED a",)
    )
    seen = _seen(read_run(run_file), [row.with_metrics(passed=20, failed=1, error=0, skipped=3)])
    assert seen[1] == ["pytest -m gpu", "20", "1", "0", "3", "FAILED a"]


def test_what_only_moves_bytes_is_on_the_roofline(run_file: Path) -> None:
    """Norms and rotations have no FLOP: they have a panel of their own, under the copy limit."""
    from matplotlib.figure import Figure

    run = read_run(run_file)
    rope = [row for row in run["rows"] if row["benchmark"] == "rope" and row["rate"]]
    assert rope
    axes = Figure().subplots(1, 2)
    assert roofline(axes, {"rope": {**run, "rows": rope}})
    drawn = [point for part in axes[1].collections for point in part.get_offsets().tolist()]
    wanted = [[row["work"]["bytes"] / 1e6, row["rate"]["bytes_per_s"] / 1e9] for row in rope]
    assert sorted(drawn) == sorted(wanted)
    assert not axes[0].collections
    assert axes[1].get_xscale() == axes[1].get_yscale() == "log"
    assert "copy" in axes[1].texts[0].get_text()
    limits = [row for row in run["rows"] if row["benchmark"] == "limits"]
    axes = Figure().subplots(1, 2)
    assert roofline(axes, {"limits": {**run, "rows": limits}})
    assert axes[0].collections
    assert not roofline(axes, {"limits": {**run, "rows": []}})


@pytest.mark.parametrize(
    ("start", "end", "shared"),
    [(1.5, 2.0, False), (2.1, 1.0, True), (1.0, 2.1, True), (None, None, False)],
)
def test_results_of_a_shared_machine_are_marked_for_ratios_too(
    run_file: Path, tmp_path: Path, start: float | None, end: float | None, shared: bool
) -> None:
    run = read_run(run_file)
    run["load_average"] = {"start": start, "end": end}
    run["device"]["details"]["logical_cpus"] = 2
    text = markdown(latest_runs([run]), [])
    mark = "on 2 logical CPUs: **the machine was shared**, times and ratios are not those of a"
    assert text.count(mark) == (2 if shared else 0)  # a section each
    row = next(row for row in run["rows"] if row["benchmark"] == "rope")
    run["rows"] = [{**row, "metrics": {"speedup": 2.0}}]
    folder = tmp_path / run["device"]["slug"]
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(run))
    goal = Goal(name="a", device="cpu", benchmark="rope", find=metric("speedup"), at_least=1.0)
    found = outcomes(tmp_path, goals=[goal], has_gpu=False)
    assert found[0].source.endswith("**shared machine**") == shared
