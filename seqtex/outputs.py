"""Where results go, and how they get there: whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from seqtex_core.errors import UsageError

MANIFEST_SUFFIX = ".seqtex.json"
STEPS_RECORD = "steps.json"
_COPYING_SECONDS = 2.0  # copies of a folder need not keep the order of its files' times


def manifest_path(output: Path) -> Path:
    """``OUT.seqtex.json`` beside ``output``."""
    return output.with_name(output.name + MANIFEST_SUFFIX)


def resolve_output(mesh: Path, out: Path | None) -> Path:
    """The file to write: ``out``, or ``<stem>_textured`` beside the mesh or in the folder ``out``.

    A name without an ending is a folder, which need not exist yet. An OBJ gives an OBJ unless
    ``out`` says otherwise; every other format gives a GLB.
    """
    name = f"{mesh.stem}_textured{'.obj' if mesh.suffix.lower() == '.obj' else '.glb'}"
    if out is None:
        return mesh.with_name(name)
    return out / name if out.is_dir() or not out.suffix else out


def check_writable(target: Path, *, option: str = "--out") -> None:
    """Make sure that a file or folder can be made at ``target``; makes nothing that stays.

    Args:
        target: file or folder.
        option: what the user named it with.

    Raises:
        UsageError: the nearest existing folder above ``target`` is not one, or cannot be written.
    """
    anchor = _nearest_existing(target.parent)
    try:
        tempfile.TemporaryDirectory(prefix=".seqtex-", dir=anchor).cleanup()
    except OSError as error:
        raise UsageError(
            option,
            expected="a folder that can be written",
            got=f"{anchor}: {error.strerror}",
            remedy="Name another place with -o." if option == "--out" else "Name another place.",
        ) from error


def check_replaceable(target: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that an earlier run of ours did not make.

    Args:
        target: the file about to be written. A manifest beside it marks it as ours.
        overwrite: replace other files too.

    Raises:
        UsageError: somebody else's file.
    """
    record = manifest_path(target)
    if target.exists() and not overwrite and not record.is_file():
        raise UsageError(
            "--out",
            expected="a name not in use, or a result of ours",
            got=f"{target}, which exists and has no {record.name} beside it",
            remedy="Add --overwrite to replace it, or choose another name with -o.",
        )


def check_folder(folder: Path, *, record: str, overwrite: bool, option: str = "--out") -> None:
    """Make sure that results may be written into ``folder``: new, empty, or written by us before.

    Args:
        folder: need not exist.
        record: name of the file that our results leave there.
        overwrite: accept other folders too; files of the same names are replaced.
        option: what the user named it with.

    Raises:
        UsageError: it is a file, cannot be written, or holds somebody else's files.
    """
    check_writable(folder / record, option=option)
    ours = overwrite or not folder.exists() or (folder / record).is_file()
    if not ours and any(folder.iterdir()):
        raise UsageError(
            option,
            expected="a new or empty folder, or one with results of ours",
            got=f"{folder}, which has other files and no {record}",
            remedy="Add --overwrite to write there all the same, or choose another name.",
        )


def check_holds_no_input(folder: Path, inputs: Iterable[Path], *, option: str) -> None:
    """Refuse to write into a folder from which something is read.

    Args:
        folder: need not exist.
        inputs: files that are read.
        option: what the user named the folder with.

    Raises:
        UsageError: an input lies in the folder, or below it.
    """
    for file in inputs:
        if folder.resolve() in file.resolve().parents:
            raise UsageError(
                option,
                expected="a folder without inputs, which might be replaced",
                got=f"{folder}, which has {file}",
                remedy="Choose another folder.",
            )


def check_unedited(files: Iterable[Path], *, record: Path, overwrite: bool) -> None:
    """Refuse to replace results that somebody has worked on since we wrote them.

    Args:
        files: about to be written; they need not exist.
        record: what our results leave last.
        overwrite: replace them all the same.

    Raises:
        UsageError: one of them is newer than the record.
    """
    if overwrite or not record.is_file():
        return
    written = record.stat().st_mtime + _COPYING_SECONDS
    for file in files:
        if file.is_file() and file.stat().st_mtime > written:
            raise UsageError(
                "--out",
                expected="results as we left them",
                got=f"{file}, which was changed since",
                remedy="Rename that file, choose another folder with -o, or add --overwrite.",
            )


@contextmanager
def staged(folder: Path, *, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A scratch folder whose files are moved into ``folder`` when the block ends well.

    On an error or an interrupt nothing is left, and ``folder`` is as it was. The scratch folder
    is on the same file system, so that every move is one rename; an interrupt that comes during
    the moves is raised after the last.

    Args:
        folder: made if it does not exist.
        inputs: files that must stay as they are.

    Raises:
        UsageError: an input would be replaced by other content; nothing is moved then.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".seqtex-", dir=_nearest_existing(folder)))
    try:
        yield scratch
        moves = list(_moves(scratch, folder, {path.resolve() for path in inputs}))
        with _interrupts_held():
            for source, target in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _moves(scratch: Path, folder: Path, inputs: set[Path]) -> Iterator[tuple[Path, Path]]:
    for source in sorted(path for path in scratch.rglob("*") if path.is_file()):
        target = folder / source.relative_to(scratch)
        if target.resolve() not in inputs:
            yield source, target
        elif target.read_bytes() != source.read_bytes():
            raise UsageError(
                "--out",
                expected="names that are not inputs",
                got=str(target),
                remedy="Inputs are never overwritten; choose another name with -o.",
            )


def _nearest_existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


@contextmanager
def _interrupts_held() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    previous = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending:
        raise KeyboardInterrupt
