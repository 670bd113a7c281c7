"""Goals: verdicts from result files, figures from rows, runs that go on after a failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ceilings, context, suite
from benchmarks.__main__ import main
from benchmarks.goal import Goal
from benchmarks.goal_figures import (
    achieved,
    auto_over_best,
    differing,
    fastest,
    metric,
    ratio,
    total_ratio,
)
from benchmarks.goal_table import GOALS
from benchmarks.goals import (
    Outcome,
    markdown,
    measured_benchmarks,
    not_yet_measured,
    outcomes,
    plain,
    write_goals,
)
from benchmarks.gpu_tests import counted, gpu_test_files, run_marked
from benchmarks.result import Row, read_run
from benchmarks.runner import Session
from benchmarks.suite import BENCHMARKS
from seqtex_core.errors import UsageError


def row(case: str, name: str, seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    """What the finders read of a row; the median of CPU rows is twice their fastest call."""
    clock = more.pop("clock", "cpu")
    made = {
        "case": case,
        "implementation": name,
        "dtype": "float32",
        "status": "ok",
        "time": {"clock": clock, "min_s": seconds, "median_s": 2 * seconds},
        "rate": None,
        "metrics": {},
        "parameters": {},
    }
    return made | more


def test_ratios_are_of_the_fastest_calls_of_the_worst_case() -> None:
    rows = [
        row("a", "old", 6.0),
        row("a", "new", 2.0),
        row("b", "old", 4.0),
        row("b", "new", 2.0),
        row("c", "old", 1.0),  # nothing to compare with
        row("d", "old", 1.0),
        row("d", "new", 9.0, status="wrong"),
    ]
    assert ratio("old", "new")(rows) == 2.0
    assert ratio("old", "new", case="a")(rows) == 3.0
    assert total_ratio("old", "new")(rows) == 2.5
    assert fastest(("old", "new"), case="a")(rows) == 2.0
    gpu = [row("a", "old", 1.0, clock="cuda_event"), row("a", "new", 0.7, clock="cuda_event")]
    assert fastest(("old",))(gpu) == 2.0  # the median
    for find in (ratio("old", "gone"), total_ratio("old", "gone"), fastest(("gone",))):
        assert find(rows) is None


def test_metrics_and_shares_of_limits() -> None:
    rows = [
        row("one", "x", metrics={"n": 3, "m": 3}, rate={"achieved_over_limit": 0.9}),
        row("one more", "x", metrics={"n": 5, "m": 4}, rate={"achieved_over_limit": 0.8}),
        row("other", "x", metrics={}),
    ]
    assert metric("n")(rows) == 5.0
    assert metric("n", pick=min, case="one")(rows) == 3.0
    assert metric("n", case="other")(rows) is None
    assert differing("n", "m")(rows) == 1.0
    assert achieved(case="one")(rows) == pytest.approx(80.0)


def test_the_chosen_attention_against_the_best_exact_one() -> None:
    def case(name: str, chosen: float) -> list[dict[str, Any]]:
        auto = {"auto": "sdpa"}
        return [
            row(name, "sdpa", chosen, parameters=auto),
            row(name, "flash_attn", 1.0, parameters=auto),
            row(name, "sage_attention", 0.1, parameters=auto),  # an approximation
        ]

    assert auto_over_best([*case("short", 1.0), *case("long", 1.25)]) == 0.8
    assert auto_over_best([]) is None


def goal(**more: Any) -> Goal:
    find: Callable[[Any], float | None] = metric("n")
    settings = {"name": "a goal", "device": "cpu", "benchmark": "rope", "find": find}
    return Goal(**(settings | more))


def written(run_file: Path, folder: Path, *, quick: bool, n: float) -> None:
    run = read_run(run_file)
    made = next(r for r in run["rows"] if r["benchmark"] == "rope" and r["status"] == "ok")
    run |= {"rows": [made | {"metrics": {"n": n}}], "quick": quick}
    path = folder / run["device"]["slug"] / f"{'quick' if quick else 'full'}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(run))


def test_verdicts(run_file: Path, tmp_path: Path) -> None:
    written(run_file, tmp_path, quick=True, n=7.0)
    goals = [
        goal(at_least=7.0),
        goal(at_most=6.9),
        goal(),
        goal(full=True),
        goal(benchmark="vae"),
        goal(device="cuda", benchmark="kernels"),
    ]
    found = outcomes(tmp_path, goals=goals, has_gpu=False)
    verdicts = [outcome.verdict for outcome in found]
    nothing = ["not measured", "not measured", "needs a GPU"]
    assert verdicts == ["met", "missed", "reported", *nothing]
    assert outcomes(tmp_path, goals=goals, has_gpu=True)[-1].verdict == "not measured"
    assert "quick" in found[0].source
    written(run_file, tmp_path, quick=False, n=5.0)  # a full run counts before a quick one
    assert [one.verdict for one in outcomes(tmp_path, goals=goals[:1])] == ["missed"]


def test_what_this_commit_has_measured_is_not_measured_again(
    run_file: Path, tmp_path: Path
) -> None:
    written(run_file, tmp_path, quick=True, n=7.0)
    names = ["rope", "vae"]

    def left(*, quick: bool = True, device: str = "cpu") -> list[str]:
        return not_yet_measured(names, tmp_path, device=device, quick=quick)

    assert left() == ["vae"]
    assert left(quick=False) == left(device="cuda") == names
    path = next(tmp_path.glob("*/*.json"))
    run = json.loads(path.read_text())
    path.write_text(json.dumps(run | {"commit": {"hash": "0" * 40, "dirty": False}}))
    assert left() == names
    run["rows"][0]["status"] = "failed"
    path.write_text(json.dumps(run))
    assert left() == names


def test_tables_have_a_line_per_goal_with_its_command() -> None:
    found = [
        Outcome(goal=goal(at_least=2.0), verdict="missed", figure=1.5, source="here"),
        Outcome(goal=goal(device="cuda", at_most=1.75, unit=" s"), verdict="needs a GPU"),
    ]
    text = markdown(found)
    assert "| a goal | >= 2.00x | 1.50x | **missed** | here | `python -m benchmarks rope` |" in text
    assert "| <= 1.75 s |  | needs a GPU |  | `python -m benchmarks rope --device cuda` |" in text
    assert [line.split()[0] for line in plain(found).splitlines()] == ["missed", "needs"]


def test_every_goal_names_a_benchmark_and_the_wanted_ones_come_first_on_a_gpu() -> None:
    assert all(one.benchmark in BENCHMARKS for one in GOALS)
    names = measured_benchmarks("cuda")
    assert names[:3] == ["geo_attention", "kernels", "loop"]  # of ten minutes the first five
    assert len(names) == len(set(names))


def test_the_command_writes_the_table_and_refuses_what_means_nothing(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(run_file, tmp_path, quick=True, n=7.0)
    assert main(["goals", "--out", str(tmp_path)]) == 0
    assert "30 steps at 512/1024" in (tmp_path / "goals.md").read_text()
    assert main(["goals", "--quick", "--out", str(tmp_path)]) == UsageError.exit_code
    assert "--quick" in capsys.readouterr().err
    with pytest.raises(UsageError, match="a folder"):
        write_goals(tmp_path / "none")


def test_a_benchmark_that_raises_is_a_row_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "GEMM_SHAPES", {"cpu": ((16, 16, 16),)})
    monkeypatch.setattr(ceilings, "COPY_BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(context, "versions", lambda: {"torch": "some"})

    def broken(session: Session) -> list[Row]:
        raise RuntimeError("out of memory\nmore")

    def works(session: Session) -> list[Row]:
        return [Row(benchmark="limits", case="one", implementation="x")]

    entries = {**BENCHMARKS._entries, "rope": broken, "limits": works}
    monkeypatch.setattr(BENCHMARKS, "_entries", entries)
    threads = torch.get_num_threads()
    try:
        names, settings = ["rope", "limits"], {"device": "cpu", "quick": True, "out": tmp_path}
        runs = [read_run(path) for path in suite.run_each(names, **settings)]
        assert list(suite.run_each(names, minutes=0.0, **settings)) == []
    finally:
        torch.set_num_threads(threads)
    assert [run["name"] for run in runs] == names
    assert [run["rows"][0]["status"] for run in runs] == ["failed", "ok"]
    assert runs[0]["rows"][0]["reason"] == "RuntimeError: out of memory"
    assert runs[1]["limits"]["start"] == runs[0]["limits"]["end"]


def test_numbers_of_gpu_tests_are_read_from_the_summary() -> None:
    seen = counted("2 failed, 20 passed, 3 skipped, 7 deselected, 1 error in 4.05s")
    assert seen == {"failed": 2, "passed": 20, "skipped": 3, "error": 1}
    assert any(path.name == "test_attention.py" for path in gpu_test_files())


def test_a_file_that_does_not_import_stops_no_other(tmp_path: Path) -> None:
    lacking, whole = tmp_path / "test_lacking.py", tmp_path / "test_whole.py"
    lacking.write_text("import a_package_that_nobody_has\n")
    whole.write_text("import pytest\n\n@pytest.mark.slow\ndef test_it() -> None:\n    pass\n")
    lines = run_marked([lacking, whole], marker="slow").stdout.strip().splitlines()
    assert counted(lines[-1]) == {"failed": 0, "passed": 1, "skipped": 0, "error": 1}
    assert any(line.startswith("ERROR") and "test_lacking.py" in line for line in lines)
