"""A whole ablation of two steps: it trains, skips what is done, and writes its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ceilings
from benchmarks.__main__ import main
from benchmarks.ablation import one_run
from benchmarks.ablation.run import run_ablation
from benchmarks.ablation.setting import Banks, Setting
from benchmarks.ablation.variants import variant
from benchmarks.result import read_run
from seqtex_core.errors import UsageError

TINY = Setting(
    batch_size=2,
    width=24,
    heads=1,
    layers=1,
    banks=Banks(train=2, views_only=2, held_out=3, view_size=16, uv_size=32),
).with_steps(2)
PLAN = [
    (variant("baseline"), 0),
    (variant("pretrained, equal total"), 0),
    (variant("UV only"), 0),
    (variant("UV at MV resolution"), 0),
    (variant("lit"), 0),
    (variant("hybrid tasks"), 0),
    (variant("baseline"), 1),
]


@pytest.fixture(scope="module", autouse=True)
def _light_limits() -> Iterator[None]:
    """The machine's limits from tiny operands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "GEMM_SHAPES", {"cpu": ((64, 64, 64),)})
        patch.setattr(ceilings, "COPY_BYTES", {"cpu": 1 << 20})
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def result(work: Path) -> Path:
    threads = torch.get_num_threads()
    path = run_ablation(TINY, work=work, out=work / "out", plan=PLAN, say=lambda text: None)
    torch.set_num_threads(threads)
    return path


def test_the_result_is_a_result_file_with_a_row_per_run(result: Path) -> None:
    rows = read_run(result)["rows"]
    assert [(r["case"], r["implementation"]) for r in rows] == [
        (one.name, f"seed {seed}") for one, seed in PLAN
    ]
    for row in rows:
        assert row["parameters"]["budget_steps"] == row["parameters"]["steps"] == 2
        metrics = row["metrics"]
        assert (
            metrics["psnr_all low (1 sampling steps)"]
            <= metrics["psnr_all mean (1 sampling steps)"]
        )
        has_views = "view_agreement mean (1 sampling steps)" in metrics
        assert has_views == (row["case"] != "UV only")
    base, other = rows[0]["metrics"], rows[-1]["metrics"]
    name = "psnr_all mean (1 sampling steps)"
    assert base[name] != other[name]


def test_report_and_pictures_lie_beside_it(result: Path) -> None:
    text = (result.parent / "report.md").read_text()
    for one, _ in PLAN:
        assert one.name in text
    assert (result.parent / "pictures.png").stat().st_size > 1000
    values = json.loads((result.parent / "objects.json").read_text())
    assert len(values["runs"]) == len(PLAN)
    assert {len(v) for r in values["runs"] for v in r["values"]["1"].values()} == {
        len(values["objects"])
    }


def test_what_is_done_is_skipped_and_other_settings_are_not(
    result: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def stop(run: Any, **options: Any) -> Any:
        trained.append(run.config.stages[0].name)
        raise KeyboardInterrupt

    monkeypatch.setattr(one_run, "train", stop)
    again = run_ablation(TINY, work=work, out=work / "again", plan=PLAN, say=lambda text: None)
    assert trained == []
    rows, before = read_run(again)["rows"], read_run(result)["rows"]
    assert [r["metrics"] for r in rows] == [r["metrics"] for r in before]
    with pytest.raises(KeyboardInterrupt):
        run_ablation(
            TINY.with_steps(3), work=work, out=work / "more", plan=PLAN, say=lambda text: None
        )
    assert trained == ["img2tex"]


def test_no_run_begins_after_its_time(result: Path, work: Path) -> None:
    said: list[str] = []
    plan = [*PLAN, (variant("joint"), 0)]
    path = run_ablation(
        TINY, work=work, out=work / "short", plan=plan, minutes=0.0, say=said.append
    )
    assert len(read_run(path)["rows"]) == len(PLAN)  # what is done is reported
    assert f"1 of {len(plan)} runs are missing" in said[-1]


def test_no_seeds_are_refused(work: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        run_ablation(TINY, work=work, out=work / "none", seeds=0)


@pytest.mark.parametrize(
    "arguments",
    [["ablation", "--quick"], ["ablation", "--device", "cuda"], ["rope", "--seeds", "3"]],
)
def test_options_without_meaning_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == UsageError.exit_code
    assert arguments[1] in capsys.readouterr().err
