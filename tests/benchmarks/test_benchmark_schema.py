"""Result files fit the schema, and the validator sees what does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.result import read_run, write_run
from benchmarks.schema import RUN
from benchmarks.validator import problems
from seqtex_core.errors import ContractError, InputError

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_real_run_is_written_and_read(run_file: Path) -> None:
    run = read_run(run_file)
    assert run["name"] == "all"
    assert {row["benchmark"] for row in run["rows"]} == {"limits", "rope"}
    assert run_file.parent.name == run["device"]["slug"]
    timed = [row for row in run["rows"] if row["benchmark"] == "rope" and row["status"] == "ok"]
    assert len(timed) >= 10
    for row in timed:
        assert row["time"]["min_s"] <= row["time"]["p10_s"] <= row["time"]["median_s"]
        assert row["rate"]["achieved_over_limit"] > 0
        assert row["accuracy"]["finite"]
        assert row["kernels"]


def test_committed_results_fit() -> None:
    for path in RESULTS.glob("*/*.json"):
        assert path.parent.name == read_run(path)["device"]["slug"]


def _drop_date(run: dict[str, Any]) -> None:
    del run["date"]


def _text_for_number(run: dict[str, Any]) -> None:
    run["rows"][0]["time"]["median_s"] = "fast"


def _negative_time(run: dict[str, Any]) -> None:
    run["rows"][0]["time"]["median_s"] = -1.0


def _unknown_status(run: dict[str, Any]) -> None:
    run["rows"][0]["status"] = "fine"


def _unknown_key(run: dict[str, Any]) -> None:
    run["rows"][0]["speed"] = 1.0


def _infinite_metric(run: dict[str, Any]) -> None:
    run["rows"][0]["metrics"]["x"] = float("inf")


def _nested_metric(run: dict[str, Any]) -> None:
    run["rows"][0]["metrics"]["x"] = {"y": 1}


def _other_format(run: dict[str, Any]) -> None:
    run["format"] = 2


def _flag_for_number(run: dict[str, Any]) -> None:
    run["threads"] = True


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (_drop_date, "'date' is missing"),
        (_text_for_number, "$.rows[0].time.median_s"),
        (_negative_time, "$.rows[0].time.median_s"),
        (_unknown_status, "$.rows[0].status"),
        (_unknown_key, "'speed' is not known"),
        (_infinite_metric, "finite"),
        (_nested_metric, "$.rows[0].metrics.x"),
        (_other_format, "$.format"),
        (_flag_for_number, "$.threads"),
    ],
)
def test_damage_is_found(
    run_file: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], None], where: str
) -> None:
    run = copy.deepcopy(read_run(run_file))
    assert problems(run, RUN) == []
    damage(run)
    found = problems(run, RUN)
    assert len(found) == 1
    assert where in found[0]
    if damage is not _other_format:  # writing sets the format itself
        with pytest.raises(ContractError):
            write_run(run, tmp_path)
        assert not list(tmp_path.rglob("*"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("", "{}", json.dumps({"format": 1})):
        path.write_text(text)
        with pytest.raises(InputError):
            read_run(path)


def test_unknown_keywords_of_a_schema_are_an_error() -> None:
    with pytest.raises(ValueError, match="oneOf"):
        problems(1, {"oneOf": []})
