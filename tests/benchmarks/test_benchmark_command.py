"""The command line: what it refuses before it measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import suite
from benchmarks.__main__ import main
from benchmarks.ablation import run as ablation_run
from benchmarks.options import DEFAULTS, RANGES, TAKEN, parse
from seqtex_core.errors import UsageError


@pytest.mark.parametrize(
    "words",
    [
        ["rope"],
        ["all", "--quick"],
        ["goals"],
        ["goals", "--measure"],
        ["report"],
        ["ablation"],
    ],
)
def test_a_place_that_cannot_be_written_is_found_before_anything_runs(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(suite, "measure_ceilings", measured)
    monkeypatch.setattr(ablation_run, "measure_ceilings", measured)
    file = tmp_path / "file"
    file.touch()
    threads = torch.get_num_threads()
    for place in (file, file / "below"):
        assert main([*words, "--out", str(place)]) == UsageError.exit_code
        said = capsys.readouterr().err
        assert str(file) in said
        assert "expected" in said
        assert said.rstrip().endswith(".")
    torch.set_num_threads(threads)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("threads", ("0", "-1", "100000000000")),
        ("seed", ("-1", str(2**63))),
        ("minutes", ("0", "-1", "nan")),
        ("budget", ("0",)),
        ("seeds", ("0",)),
    ],
)
def test_numbers_out_of_range_are_refused(option: str, values: tuple[str, ...]) -> None:
    assert option in RANGES
    command = next(words for words in ("all", "ablation") if option in TAKEN[words])
    for value in values:
        with pytest.raises(UsageError, match=f"--{option}: expected .*, got"):
            parse([command, f"--{option}", value])
    assert parse(["rope", "--seed", str(2**63 - 1)]).seed == 2**63 - 1
    torch.Generator().manual_seed(2**63 - 1)


GIVEN = {
    "device": ["cpu"],
    "out": ["here"],
    "quick": [],
    "threads": ["1"],
    "seed": ["0"],
    "minutes": ["1"],
    "measure": [],
    "budget": ["5"],
    "seeds": ["2"],
    "work": ["there"],
}


@pytest.mark.parametrize("command", ["rope", "all", "list", "report", "goals", "ablation"])
def test_options_that_would_be_ignored_are_refused(command: str) -> None:
    """Even at their defaults: who gives one expects that it counts."""
    assert set(GIVEN) == set(DEFAULTS)
    taken = TAKEN.get(command, TAKEN["one benchmark"])
    for name, value in GIVEN.items():
        words = [command, f"--{name}", *value]
        if name in taken:
            parse(words)
            continue
        with pytest.raises(UsageError, match=f"--{name}: expected not given for"):
            parse(words)
    assert parse(["goals", "--measure", "--device", "cpu", "--minutes", "7"]).minutes == 7
