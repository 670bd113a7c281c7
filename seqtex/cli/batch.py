"""``seqtex batch``: many meshes, each textured as one line of a manifest says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seqtex_core.errors import UsageError

from .batch_manifest import ItemParser, read_manifest_items
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
        typer.Option("--timeout", metavar="MINUTES", help="Give an item up after this long."),
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Also items that are done.")] = False,
) -> None:
    """Texture all meshes of MANIFEST; the options of `seqtex texture` may follow, for all items.

    A second run does what is missing: an item is skipped if its result is there, made from the same
    files with the same options. An item that fails stops no other; the reasons come last, and the
    exit code is 7. Results are OUT/NAME_textured.glb, what was said of each item is in OUT/reports.
    """
    if rank >= world_size:
        raise UsageError("--rank", expected=f"below --world-size {world_size}", got=str(rank))
    from .batch_run import BatchRun

    shared = list(context.args)
    items = read_manifest_items(manifest)[rank::world_size]
    parser = ItemParser(_take_request, texture, manifest=manifest, out=out, shared=shared)
    run = BatchRun(out=out, rank=rank, world_size=world_size)
    run.prepare(items, parser.requests(items), shared=shared, workers=workers, redo=redo)
    try:
        run.work(workers=workers, timeout_s=math.inf if timeout is None else 60 * timeout)
    finally:
        run.summarise()
    if run.failed:
        raise typer.Exit(ITEMS_FAILED)


def _take_request(arguments: Sequence[str]) -> TextureRequest:
    """What ``seqtex texture ARGUMENTS`` would do, not done.

    Raises:
        UsageError: arguments that it does not take.
    """
    from .app import app

    taken: list[TextureRequest] = []
    command = typer.main.get_command(app)
    try:
        command.main(["texture", *arguments], "seqtex", standalone_mode=False, obj=taken.append)
    except Exception as error:
        told = getattr(error, "format_message", None)  # the base class moves with typer's versions
        if told is None:
            raise
        raise UsageError(
            "options", expected="those of `seqtex texture`", got=str(told())
        ) from error
    return taken[0]
