"""Results appear whole or not at all, and never in the place of somebody else's file."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from seqtex.outputs import (
    check_folder,
    check_replaceable,
    check_unedited,
    check_writable,
    manifest_path,
    resolve_output,
    staged,
)
from seqtex_core.errors import UsageError


def write(
    folder: Path,
    files: dict[str, str],
    *,
    inputs: Sequence[Path] = (),
    error: type[BaseException] | None = None,
) -> None:
    with staged(folder, inputs=inputs) as scratch:
        for name, text in files.items():
            (scratch / name).write_text(text)
        if error is not None:
            raise error


def test_files_are_moved_when_the_block_ends(tmp_path: Path) -> None:
    with staged(tmp_path / "a" / "b") as folder:
        (folder / "sub").mkdir()
        (folder / "x.txt").write_text("x")
        (folder / "sub" / "y.txt").write_text("y")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "b" / "x.txt").read_text() == "x"
    assert (tmp_path / "a" / "b" / "sub" / "y.txt").read_text() == "y"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(error):
        write(tmp_path, {"old.txt": "new"}, error=error)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old.txt": "old"}


def test_an_interrupt_during_the_moves_waits_for_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = os.replace

    def interrupted_move(source: Path, target: Path) -> None:
        move(source, target)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("seqtex.outputs.os.replace", interrupted_move)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", {"a": "1", "b": "2", "c": "3"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_input_is_not_replaced_by_other_content(tmp_path: Path) -> None:
    for name in ("same.bin", "mine.bin"):
        (tmp_path / name).write_text("input")
    inputs = [tmp_path / "same.bin", tmp_path / "x" / ".." / "mine.bin"]
    write(tmp_path, {"same.bin": "input"}, inputs=inputs)
    with pytest.raises(UsageError, match="never overwritten"):
        write(tmp_path, {"first.bin": "not moved either", "mine.bin": "output"}, inputs=inputs)
    assert {path.name for path in tmp_path.iterdir()} == {"same.bin", "mine.bin"}
    assert (tmp_path / "mine.bin").read_text() == "input"


@pytest.mark.parametrize(
    ("mesh", "out", "expected"),
    [
        ("m/a.glb", None, "m/a_textured.glb"),
        ("m/a.OBJ", None, "m/a_textured.obj"),
        ("m/a.ply", "", "a_textured.glb"),
        ("m/a.ply", "b.glb", "b.glb"),
        ("m/a.ply", "new/folder/", "new/folder/a_textured.glb"),
    ],
)
def test_names(tmp_path: Path, mesh: str, out: str | None, expected: str) -> None:
    place = None if out is None else tmp_path / out
    assert resolve_output(tmp_path / mesh, place) == tmp_path / expected


def test_results_that_were_painted_over_are_kept(tmp_path: Path) -> None:
    record, picture = tmp_path / "render.json", tmp_path / "0_front.png"
    check_unedited([picture], record=record, overwrite=False)  # a new folder
    for path in (picture, record):
        path.write_text("ours")
    check_unedited([picture], record=record, overwrite=False)
    os.utime(picture, (0, record.stat().st_mtime + 60))
    with pytest.raises(UsageError, match="changed since"):
        check_unedited([picture], record=record, overwrite=False)
    check_unedited([picture], record=record, overwrite=True)


def test_only_our_results_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.glb"
    check_replaceable(target, overwrite=False)
    target.write_text("x")
    with pytest.raises(UsageError, match="--overwrite"):
        check_replaceable(target, overwrite=False)
    check_replaceable(target, overwrite=True)
    manifest_path(target).write_text("{}")
    check_replaceable(target, overwrite=False)


def test_only_our_folders_are_written_into(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", record="r.json", overwrite=False)
    check_folder(tmp_path, record="r.json", overwrite=False)
    (tmp_path / "letter.txt").write_text("x")
    with pytest.raises(UsageError, match="--overwrite"):
        check_folder(tmp_path, record="r.json", overwrite=False)
    check_folder(tmp_path, record="r.json", overwrite=True)
    (tmp_path / "r.json").write_text("{}")
    check_folder(tmp_path, record="r.json", overwrite=False)


def test_checking_a_place_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "c.glb")
    assert list(tmp_path.iterdir()) == []
