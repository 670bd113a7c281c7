"""Reports made from result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.report import latest_runs, markdown, write_report
from benchmarks.result import read_run
from seqtex_core.errors import UsageError


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
    for part in (
        "## limits",
        "## rope",
        "`other` (1 rows): no such card",
        "![roofline]",
        "qk_prep",
    ):
        assert part in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables if "GFLOP per layer" not in line}) == 1
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
