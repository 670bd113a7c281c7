"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqtex_core.errors import UsageError

from ..asset import MeshAsset
from ..load.gltf_file import GltfFile, find_file
from ..load.lookup import find_beside
from ..load.mtl import map_file_names
from ..load.obj import ObjFile

_ENDINGS = {
    "glb": (".glb", ".gltf"),
    "gltf": (".glb", ".gltf"),
    "obj": (".obj", ".glb", ".gltf"),
    "ply": (".glb", ".gltf"),
    "stl": (".glb", ".gltf"),
}


def check_output(asset: MeshAsset, out: str | Path, *, overwrite: bool = True) -> Path:
    """The output path, found to be usable; to be called before any long computation.

    Args:
        asset: what will be written.
        out: the file to write; missing folders are created when writing.
        overwrite: whether a file of an earlier run may be replaced.

    Raises:
        UsageError: an ending that does not fit the input, a folder in place of a file, a file that
            belongs to the input, an existing file without ``overwrite``, or a folder that cannot
            be written to.
    """
    out = Path(out)
    endings = _ENDINGS[asset.format]
    if out.suffix.lower() not in endings:
        raise UsageError(
            "--out",
            expected=f"a name ending in {' or '.join(endings)} for {asset.format.upper()} input",
            got=repr(str(out)),
        )
    if out.is_dir():
        raise UsageError("--out", expected="a file name", got=f"the folder {out}")
    refuse_source_file(asset, out)
    if not overwrite and out.exists():
        raise UsageError(
            "--out",
            expected="a name that is free",
            got=f"{out}, which exists",
            remedy="Choose another name, or allow overwriting.",
        )
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error
    return out


def refuse_source_file(asset: MeshAsset, target: Path) -> None:
    """Raise if ``target`` is the input file or one that the input refers to.

    Raises:
        UsageError: it is.
    """
    for source in source_files(asset):
        if target.exists() and source.exists() and os.path.samefile(source, target):
            raise UsageError(
                "--out",
                expected="a file that is not part of the input",
                got=str(target),
                remedy="Choose another name: the input is never overwritten.",
            )


def source_files(asset: MeshAsset) -> list[Path]:
    """The input file and the files that it refers to."""
    files = [asset.path]
    if isinstance(asset.document, GltfFile):
        entries = [
            *asset.document.document.get("buffers", []),
            *asset.document.document.get("images", []),
        ]
        uris = [entry.get("uri", "data:") for entry in entries]
        found = [find_file(asset.path, uri) for uri in uris if not uri.startswith("data:")]
        files += [path for path in found if path is not None]
    if isinstance(asset.document, ObjFile):
        for library in asset.document.libraries:
            names = map_file_names(library.text)
            images = [find_beside(library.path.parent, name) for name in names]
            files += [library.path, *(path for path in images if path is not None)]
    return files


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out``, removed whatever happens.

    Raises:
        UsageError: the folder of ``out`` cannot be made or written to.
    """
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".seqtex-", dir=out.absolute().parent))
    except OSError as error:
        raise _unwritable(out.absolute().parent, error) from error
    try:
        yield stage
    except OSError as error:
        raise _unwritable(out.absolute().parent, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(asset: MeshAsset, stage: Path, out: Path, names: list[str]) -> list[Path]:
    """Move staged files to their places, the main file last; the paths written.

    A file that is already there with the same content, or is part of the input, is left alone.

    Raises:
        UsageError: a file of the input would be replaced by another.
    """
    folder = out.absolute().parent
    moves: list[tuple[Path, Path]] = []
    for name in sorted(names, key=lambda item: item == out.name):
        staged, final = stage / name, folder / name
        if final.is_file() and final.read_bytes() == staged.read_bytes():
            continue
        refuse_source_file(asset, final)
        moves.append((staged, final))
    for staged, final in moves:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, final)
    return [folder / name for name in names]


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        "--out",
        expected="a folder that can be written to",
        got=f"{folder} ({error.strerror or error})",
        remedy="Choose another folder.",
    )
