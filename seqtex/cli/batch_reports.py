"""What a batch remembers of an item, and whether its result is whole and still what is asked."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Literal

from seqtex.manifest import file_sha256
from seqtex.references import parse_references
from seqtex_core.whole_files import replacing

from .texture_request import TextureRequest

REPORTS = "reports"
SCHEMA = 2
_READ_BY_CONTENT = ("mesh", "image", "refs", "ref_view", "out", "overwrite")


@dataclass(frozen=True, kw_only=True)
class FileStamp:
    """What a file held.

    Args:
        size: in bytes.
        sha256: hash of its bytes.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Of a file as it is now.

        Raises:
            OSError: it cannot be read.
        """
        return cls(size=path.stat().st_size, sha256=file_sha256(path))


@dataclass(frozen=True, kw_only=True)
class ItemReport:
    """How an item ended.

    Args:
        name: of the item.
        line: of the manifest.
        status: what happened.
        key: of the request and its input files; an item whose key is the same need not be redone.
        out: the result.
        seconds: it took.
        reason: why it failed, or "".
        files: what was written, by path from the folder of results.
        beside: files beside the mesh that it needs, by path from the mesh's folder.
        log: what ``seqtex texture`` would have said.
    """

    name: str
    line: int
    status: Literal["done", "failed"]
    key: str | None
    out: str
    seconds: float
    reason: str = ""
    files: Mapping[str, FileStamp] = field(default_factory=dict)
    beside: Mapping[str, FileStamp] = field(default_factory=dict)
    log: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        """Write ``reports/NAME.json`` below ``folder``, all of it or nothing."""
        path = report_path(folder, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            record = {"schema": SCHEMA, **asdict(self), "seconds": round(self.seconds, 3)}
            scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, name: str) -> ItemReport | None:
        """The report of an item; ``None`` if there is none that can be understood."""
        try:
            record = json.loads(report_path(folder, name).read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA or record["name"] != name:
                return None
            given = {f.name: record[f.name] for f in fields(cls)}
            for stamps in ("files", "beside"):
                given[stamps] = {path: FileStamp(**s) for path, s in record[stamps].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        return cls(**given)


def report_path(folder: Path, name: str) -> Path:
    """Where an item's report is."""
    return folder / REPORTS / f"{name}.json"


def stamps(paths: Sequence[Path], folder: Path) -> dict[str, FileStamp]:
    """Files by their path from ``folder``; those that are not there are left out."""
    found = [path for path in paths if path.is_file()]
    return {os.path.relpath(path, folder): FileStamp.of(path) for path in found}


def request_key(request: TextureRequest) -> str | None:
    """Hash of what an item asks for and of the files that it names; ``None`` if one is missing.

    Options count as they were understood: it does not matter whether an item gave them or all
    items share them. Weights in folders count by their sizes and times, all other files by content.

    Args:
        request: of the item.
    """
    given = parse_references(request.image, request.refs, ref_view=request.ref_view)
    try:
        inputs = {view: _sha256(path) for view, path in {"mesh": request.mesh, **given}.items()}
        weights = [list(_weights(source)) for source in _sources(request)]
    except OSError:
        return None
    options = {k: v for k, v in asdict(request).items() if k not in _READ_BY_CONTENT}
    asked = {"options": options, "mesh": request.mesh.name, "inputs": inputs, "weights": weights}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def why_again(request: TextureRequest, name: str, folder: Path) -> str | None:
    """Why an item must be made although there is something of it; "" if there is nothing.

    Args:
        request: of the item.
        name: of the item.
        folder: of the results.

    Returns:
        ``None`` if it need not be made: its report says that it is done, what is asked for is the
        same, and every file of the result is, byte for byte, what was written.
    """
    assert request.out is not None, "the parser names it"
    report = ItemReport.read(folder, name)
    if report is None or report.status == "failed":
        there = report is None and request.out.is_file()
        return f"{request.out} has no report that says how it was made" if there else ""
    if request.out not in [folder / path for path in report.files]:
        return f"its result is to be {request.out}"
    return (
        _damage(report.files, folder, by_size=True)
        or ("" if report.key == request_key(request) else "other options or input files")
        or ("other files beside its mesh" if _damage(report.beside, request.mesh.parent) else "")
        or _damage(report.files, folder)
        or None
    )


def _damage(files: Mapping[str, FileStamp], folder: Path, *, by_size: bool = False) -> str:
    """What is wrong with files, or ""; by their sizes alone is quick."""
    for name, stamp in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != stamp.size:
                return f"{path} has {size} bytes, not {stamp.size}"
            if not by_size and _sha256(path) != stamp.sha256:
                return f"{path} is not as it was written"
        except OSError:
            return f"{path} is gone"
    return ""


def _sha256(path: Path) -> str:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe or a device may have no end
        raise FileNotFoundError(f"{path} is no file")
    return _sha256_of(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, size: int, time_ns: int) -> str:
    """Items often share files; one that changes has another time."""
    return file_sha256(path)


def _sources(request: TextureRequest) -> Iterator[str]:
    """Models as the user named them: folders, files, names, hub ids."""
    named = [request.model, *request.sources.by_flag().values()]
    if request.text is not None:
        controls = [control.rpartition("=")[2] for control in request.text.control_models]
        named += [request.text.image_model, *controls]
    yield from (name for name in named if isinstance(name, str))


def _weights(source: str) -> Iterator[tuple[str, int, int]]:
    path = Path(source).expanduser()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            found = file.stat()
            yield file.relative_to(path).as_posix(), found.st_size, found.st_mtime_ns
