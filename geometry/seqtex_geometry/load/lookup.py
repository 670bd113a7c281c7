"""Files that a mesh file names, found as programs really write those names."""

from __future__ import annotations

from pathlib import Path


def find_beside(folder: Path, name: str) -> Path | None:
    r"""The file that ``name`` means, seen from ``folder``; ``None`` if there is none.

    Tried in this order: the name as it stands; with ``\`` read as ``/``; the bare file name in
    the folder (an absolute path from the author's machine); each also ignoring case.

    Args:
        folder: where the mesh file lies.
        name: as written in the file.
    """
    forward = name.strip().strip('"').replace("\\", "/")
    for candidate in (name.strip(), forward, forward.rsplit("/", 1)[-1]):
        if not candidate:
            continue
        path = folder / candidate
        found = path if path.is_file() else _ignoring_case(path)
        if found is not None:
            return found
    return None


def _ignoring_case(path: Path) -> Path | None:
    if not path.parent.is_dir():
        return None
    wanted = path.name.lower()
    matches = sorted(entry for entry in path.parent.iterdir() if entry.name.lower() == wanted)
    return next((entry for entry in matches if entry.is_file()), None)


def decode_text(data: bytes) -> str:
    """Text of unknown encoding: UTF-8, else Latin-1, which any byte string is."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def encode_text(text: str, like: bytes) -> bytes:
    """The bytes that ``decode_text`` reads as ``text``, in the encoding of ``like`` if it can."""
    try:
        like.decode("utf-8-sig")
    except UnicodeDecodeError:
        return text.encode("latin-1", errors="replace")
    return text.encode()
