"""The command line: what it refuses before it measures, and its exit status."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import ceilings, context, suite
from benchmarks.__main__ import main
from benchmarks.ablation import run as ablation_run
from benchmarks.options import DEFAULTS, RANGES, TAKEN, parse
from benchmarks.result import Row, Status, read_run
from benchmarks.runner import Session
from benchmarks.suite import BENCHMARKS
from seqtex_core.errors import UsageError


def _row(name: str, status: Status) -> Row:
    reason = None if status == "ok" else f"because of {name}"
    return Row(benchmark="rope", case="c", implementation=name, status=status, reason=reason)


def _raises(session: Session) -> list[Row]:
    raise RuntimeError("no memory")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four benchmarks that measure nothing: all right, absent, not all right, and one that ends."""
    rows = {
        "rope": [_row("good", "ok")],
        "limits": [_row("good", "ok"), _row("absent", "unsupported")],
        "vae": [_row("good", "ok"), _row("far", "wrong"), _row("full", "failed")],
    }
    entries = {name: lambda session, mine=mine: mine for name, mine in rows.items()}
    monkeypatch.setattr(BENCHMARKS, "_entries", {**entries, "step": _raises})
    names = ("rope", "limits", "vae", "step")
    monkeypatch.setattr(suite, "SUMMARIES", dict.fromkeys(names, "made up"))
    monkeypatch.setattr(ceilings, "GEMM_SHAPES", {"cpu": ((16, 16, 16),)})
    monkeypatch.setattr(ceilings, "COPY_BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(context, "versions", lambda: {"torch": "some"})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("made_up")
def test_the_exit_status_tells_whether_all_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--quick", "--out", str(tmp_path)]
    for name in ("rope", "limits"):
        assert main([name, *words]) == 0
        assert capsys.readouterr().err == ""
    assert main(["vae", *words]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "wrong: rope, c, far: because of far",
        "failed: rope, c, full: because of full",
    ]
    assert main(["all", *words]) == 1
    seen = capsys.readouterr()
    last = "failed: step, all of it, the benchmark itself: RuntimeError: no memory"
    assert seen.err.splitlines()[-1] == last
    assert len(seen.err.splitlines()) == 3
    written = [Path(line) for line in seen.out.splitlines() if line.endswith(".json")]
    assert [read_run(path)["name"] for path in written] == list(suite.SUMMARIES)


@pytest.mark.usefixtures("made_up")
def test_an_interrupt_is_told_and_leaves_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(session: Session) -> list[Row]:
        raise KeyboardInterrupt

    monkeypatch.setitem(BENCHMARKS._entries, "limits", interrupted)
    assert main(["all", "--quick", "--out", str(tmp_path)]) == 130
    seen = capsys.readouterr()
    assert seen.err.strip().startswith("Interrupted.")
    assert "Traceback" not in seen.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [read_run(path)["name"] for path in files] == ["rope"]
    assert str(files[0]) in seen.out


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


def test_what_is_recorded_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["step", "--out", "/home/me/results", "--work=/scratch/banks", "--seed", "3"]
    monkeypatch.setattr(context.sys, "argv", ["benchmarks", *words])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/home/me/cache")
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    found = context.environment()
    assert found["argv"] == "step --out OUT --work=WORK --seed 3"
    assert found["TORCHINDUCTOR_MAX_AUTOTUNE"] == "1"
    assert "/home/me" not in str(found)
