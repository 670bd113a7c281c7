"""Where the items of a batch write: inside the folder of results, and no two to one place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from seqtex.outputs import resolve_output
from seqtex.references import parse_references
from seqtex_core.errors import UsageError

from .batch_manifest import ManifestItem
from .texture_request import TextureRequest
from .texture_text import text_reference_path

_ONE_FILE = ".glb"
_ENDINGS = (_ONE_FILE, ".gltf", ".obj")


def result_path(out: Path, mesh: Path, asked: object, name: str) -> Path:
    """The main file of an item's result.

    Args:
        out: folder of the results.
        mesh: of the item.
        asked: the item's own "out", meant from ``out``; ``None`` for ``NAME_textured.glb``, or
            ``NAME/NAME_textured.obj`` for an OBJ, which is several files.
        name: of the item.

    Raises:
        UsageError: "out" is no text, or lies outside of ``out``.
    """
    if asked is None:
        plain = f"{name}_textured"
        is_obj = mesh.suffix.lower() == ".obj"
        return out / name / f"{plain}.obj" if is_obj else out / f"{plain}{_ONE_FILE}"
    if not isinstance(asked, str) or not asked.strip() or not asked.isprintable():
        raise UsageError("out", expected="a file name, or a path below --out", got=repr(asked))
    given = Path(asked)
    path = resolve_output(mesh, out / given)
    leaves = given.is_absolute() or ".." in given.parts
    if leaves or not path.parent.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            "out",
            expected=f"a path inside of --out, {out}",
            got=asked if leaves else f"{asked}, which a link leads to {path.parent.resolve()}",
            remedy="Paths in an item's out are meant from there; name another folder with -o.",
        )
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError("out", expected="a name ending in " + ", ".join(_ENDINGS), got=asked)
    return path


def check_places(
    items: Sequence[ManifestItem], requests: Sequence[TextureRequest], *, manifest: str
) -> None:
    """Refuse items that would write over one another, or over what another reads.

    Args:
        items: all of the manifest, also those of other machines.
        requests: one per item.
        manifest: its name, for messages.

    Raises:
        UsageError: names both lines.
    """
    owner: dict[Path, ManifestItem] = {}
    for item, request in zip(items, requests, strict=True):
        for place, told in _written(request):
            other = owner.setdefault(place, item)
            if other is not item:
                raise UsageError(
                    f"{manifest}, line {item.line}",
                    expected="a result of its own",
                    got=f"{told}, as line {other.line}",
                    remedy="Several files, such as those of an OBJ, need a folder of their own."
                    if request.out is not None and request.out.suffix.lower() != _ONE_FILE
                    else "Change its out.",
                )
    for item, request in zip(items, requests, strict=True):
        for path in _read(request):
            writer = owner.get(_place(path))
            if writer is not None:
                raise UsageError(
                    f"{manifest}, line {item.line}",
                    expected="inputs that no item writes",
                    got=f"{path}, the result of line {writer.line}",
                    remedy="Items come in any order; make two manifests of them.",
                )


def _written(request: TextureRequest) -> Iterator[tuple[Path, str]]:
    """Files, and folders of several files, that a request claims; each with its own words."""
    assert request.out is not None, "the parser names it"
    yield _place(request.out), str(request.out)
    if request.out.suffix.lower() != _ONE_FILE:  # companions keep the names that the input gave
        folder = request.out.parent.resolve()
        yield folder / "*", f"the files of {request.out} in its folder"
    if request.text is not None:
        picture = text_reference_path(request.out)
        yield _place(picture), str(picture)
    if request.save_intermediates is not None:
        yield request.save_intermediates.resolve(), f"{request.save_intermediates}"


def _read(request: TextureRequest) -> Iterator[Path]:
    yield request.mesh
    yield from parse_references(request.image, request.refs, ref_view=request.ref_view).values()


def _place(path: Path) -> Path:
    """The path that a file gets when it is moved there: no link but those above it is followed."""
    return path.parent.resolve() / path.name
