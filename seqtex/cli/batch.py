"""``seqtex batch``: many meshes, each textured as one line of a manifest says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from seqtex_core.errors import UsageError

from .batch_manifest import read_manifest_items
from .batch_requests import ItemParser
from .data import RankOption, WorldSizeOption
from .options import OutFolderOption
from .texture import texture
from .texture_request import TextureRequest

ITEMS_FAILED = 7
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def batch(
    context: typer.Context,
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST",
            help="JSON lines or CSV: per item a mesh, an image, text or refs, and options of "
            "`seqtex texture` by name. Paths are meant from the manifest's folder.",
        ),
    ],
    out: OutFolderOption,
    workers: Annotated[
        int,
        typer.Option("--workers", help="Processes on this machine; 0 works in this one.", min=0),
    ] = 1,
    rank: RankOption = 0,
    world_size: WorldSizeOption = 1,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="MINUTES",
            help="Give an item up after this long; the start of its process counts, with the "
            "model's loading.",
        ),
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Also items that are done.")] = False,
) -> None:
    """Texture all meshes of MANIFEST; the options of `seqtex texture` may follow, for all items.

    A second run does what is missing: an item is skipped if its report says that it is done, every
    file of its result is as it was written (so save your edits under other names), and the same
    files and options are asked for. An item that fails stops no other; the reasons come last, and
    the exit code is 7.

    Results are DIR/NAME_textured.glb, for an OBJ DIR/NAME/NAME_textured.obj; an item's own "out" is
    meant from DIR and stays inside. NAME is the item's "name", or that of its mesh. What was said
    of each item is in DIR/reports.

    To share a manifest out, start the same command on each machine with its own --rank, from 0:
    the items are dealt out like cards.
    """
    if rank >= world_size:
        raise UsageError("--rank", expected=f"below --world-size {world_size}", got=str(rank))
    seconds = _seconds(timeout, workers)
    from .batch_run import BatchRun

    shared = list(context.args)
    _check_options(shared)
    items = read_manifest_items(manifest)
    parser = ItemParser(_take_request, texture, manifest=manifest, out=out, shared=shared)
    requests = parser.requests(items)
    mine = slice(rank, None, world_size)
    run = BatchRun(out=out, rank=rank, world_size=world_size)
    run.prepare(items[mine], requests[mine], workers=workers, redo=redo)
    try:
        run.work(workers=workers, timeout_s=seconds)
    finally:
        run.summarise()
    if run.failed:
        raise typer.Exit(ITEMS_FAILED)


def _seconds(minutes: float | None, workers: int) -> float:
    """How long an item may take.

    Raises:
        UsageError: no time at all, or no process that could be ended.
    """
    if minutes is None:
        return math.inf
    if not 0 < minutes < math.inf:
        raise UsageError("--timeout", expected="minutes, above 0", got=f"{minutes:g}")
    if workers == 0:
        raise UsageError(
            "--timeout",
            expected="--workers 1 or more, which can be ended",
            got="--workers 0",
            remedy="Leave one of them out.",
        )
    return 60 * minutes


@cache
def _texture_command() -> Any:
    """The command line of ``seqtex texture``; its class moves with typer's versions."""
    from .app import app

    return typer.main.get_command(app).commands["texture"]  # type: ignore[attr-defined]


@contextmanager
def _as_usage_error() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        told = getattr(error, "format_message", None)  # the base class moves with typer's versions
        if told is None:
            raise
        raise UsageError(
            "options", expected="those of `seqtex texture`", got=str(told())
        ) from error


def _check_options(shared: Sequence[str]) -> None:
    """Refuse options of all items that ``seqtex texture`` does not have; says so once.

    Raises:
        UsageError: such an option, or a second argument.
    """
    with _as_usage_error():
        _texture_command().make_context("seqtex texture", ["MANIFEST", *shared])


def _take_request(arguments: Sequence[str]) -> TextureRequest:
    """What ``seqtex texture ARGUMENTS`` would do, not done.

    Raises:
        UsageError: arguments that it does not take.
    """
    taken: list[TextureRequest] = []
    with _as_usage_error():
        _texture_command().main(
            list(arguments), "seqtex texture", standalone_mode=False, obj=taken.append
        )
    return taken[0]
