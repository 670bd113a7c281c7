"""``seqtex data synth``: procedural training objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import check_size
from .progress import StageReporter

data_app = typer.Typer(
    name="data",
    help="Make training data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@data_app.callback()
def _data() -> None:
    """Make training data."""


@data_app.command()
def synth(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder of the set; continued if the same set is there."
        ),
    ],
    count: Annotated[int, typer.Option("--count", help="Number of objects.", min=1)] = 1000,
    seed: Annotated[
        int, typer.Option("--seed", help="Object i of a seed is always the same.", min=0)
    ] = 0,
    set_format: Annotated[
        Literal["bank", "shards"],
        typer.Option(
            "--format",
            help="bank: shapes that training paints anew at every step. "
            "shards: finished samples for streams.",
        ),
    ] = "bank",
    split: Annotated[
        Literal["train", "held-out", "all"],
        typer.Option("--split", help="Which shape families and texture kinds to draw from."),
    ] = "train",
    held_out: Annotated[
        str | None,
        typer.Option(
            "--held-out",
            metavar="NAMES",
            help="Shape families and texture kinds that training never sees, with commas between; "
            "replaces the default list.",
        ),
    ] = None,
    view_size: Annotated[int, typer.Option("--view-size", help="Pixels of a view.")] = 64,
    uv_size: Annotated[int, typer.Option("--uv-size", help="Texels of the texture.")] = 128,
    supersample: Annotated[
        int,
        typer.Option(
            "--supersample", help="Samples per pixel and axis of the views.", min=1, max=8
        ),
    ] = 2,
    workers: Annotated[int, typer.Option("--workers", help="Processes.", min=1)] = 1,
    rank: Annotated[int, typer.Option("--rank", help="This machine's number.", min=0)] = 0,
    world_size: Annotated[
        int, typer.Option("--world-size", help="Machines that share the work.", min=1)
    ] = 1,
) -> None:
    """Make a set of procedural objects: many shape families, UVs in several styles, textures."""
    from seqtex.data.production import Production, produce
    from seqtex.data.record import RecordSizes
    from seqtex.data.splits import held_out_names, split_families, split_kinds
    from seqtex.data.synth import SynthSettings

    check_size("--view-size", view_size, high=1024)
    check_size("--uv-size", uv_size, high=2048)
    families, kinds = held_out_names(held_out)
    production = Production(
        folder=out,
        count=count,
        format=set_format,
        rank=rank,
        world_size=world_size,
        settings=SynthSettings(
            seed=seed,
            families=tuple(split_families(split, families)),
            kinds=tuple(split_kinds(split, kinds)),
            sizes=RecordSizes(view_size=view_size, uv_size=uv_size, supersample=supersample),
        ),
    )
    with StageReporter() as reporter:
        files = produce(production, workers=workers, on_progress=reporter)
    typer.echo(f"{out}: {len(files)} of {production.num_files} files, {count} objects in all")
