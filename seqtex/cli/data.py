"""``seqtex data``: procedural training objects, and real meshes in the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from seqtex_core.errors import InputError

from .options import FrontOption, OutFolderOption, UpOption, check_size
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


ViewSizeOption = Annotated[int, typer.Option("--view-size", help="Pixels of a view.")]
UvSizeOption = Annotated[int, typer.Option("--uv-size", help="Texels of the texture.")]
SupersampleOption = Annotated[
    int,
    typer.Option("--supersample", help="Samples per pixel and axis of the views.", min=1, max=8),
]
WorkersOption = Annotated[int, typer.Option("--workers", help="Processes.", min=1)]
RankOption = Annotated[int, typer.Option("--rank", help="This machine's number.", min=0)]
WorldSizeOption = Annotated[
    int, typer.Option("--world-size", help="Machines that share the work.", min=1)
]


@data_app.command()
def synth(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder of the set; continued if the same set is there."
        ),
    ],
    count: Annotated[
        int,
        typer.Option("--count", help="Number of objects; more make a set there longer.", min=1),
    ] = 1000,
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
    view_size: ViewSizeOption = 64,
    uv_size: UvSizeOption = 128,
    supersample: SupersampleOption = 2,
    workers: WorkersOption = 1,
    rank: RankOption = 0,
    world_size: WorldSizeOption = 1,
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


@data_app.command()
def prepare(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="GLB, glTF, OBJ, PLY and STL files, in folders below it too."
        ),
    ],
    out: OutFolderOption,
    view_size: ViewSizeOption = 64,
    uv_size: UvSizeOption = 128,
    supersample: SupersampleOption = 2,
    charts: Annotated[
        Literal["auto", "author", "new"],
        typer.Option(
            "--charts",
            help="auto: the author's UVs where no two places share a texel, new ones otherwise. "
            "author: never new ones; such meshes give views only. new: always new ones.",
        ),
    ] = "auto",
    lightings: Annotated[
        int, typer.Option("--lightings", help="Sets of lit views of each mesh.", min=1, max=64)
    ] = 1,
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            metavar="FILE",
            help='JSON Lines: {"file": NAME, "captions": {STYLE: TEXT}}. NAME.json and NAME.txt '
            "beside a mesh are read in any case.",
        ),
    ] = None,
    skip_plain: Annotated[
        bool,
        typer.Option("--skip-plain", help="Leave out meshes of one colour; else views only."),
    ] = False,
    max_faces: Annotated[
        int, typer.Option("--max-faces", help="Larger meshes are listed as bad.", min=1)
    ] = 1_000_000,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds until a mesh is given up.", min=1)
    ] = 600.0,
    up: UpOption = None,
    front: FrontOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the lights.", min=0)] = 0,
    workers: WorkersOption = 1,
    rank: RankOption = 0,
    world_size: WorldSizeOption = 1,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 if any mesh is bad.")
    ] = False,
) -> None:
    """Make training shards of real meshes: views, lit views, maps, texture, captions.

    Meshes that cannot be used are listed with reasons in DIR/report.jsonl and do not stop the
    work. The same command continues a run that was stopped.

    Exit code: 0 if there are samples, 3 if there are none (with --strict: if any mesh is bad).
    """
    from seqtex.data.preparation import Preparation, prepare_meshes
    from seqtex.data.real_mesh import ChartOptions
    from seqtex.data.real_sample import SampleOptions
    from seqtex.data.record import RecordSizes

    check_size("--view-size", view_size, high=1024)
    check_size("--uv-size", uv_size, high=2048)
    preparation = Preparation(
        source=folder,
        folder=out,
        captions=captions,
        rank=rank,
        world_size=world_size,
        timeout_s=timeout,
        options=SampleOptions(
            sizes=RecordSizes(view_size=view_size, uv_size=uv_size, supersample=supersample),
            charts=ChartOptions(mode=charts, seconds=min(timeout / 2, 120.0)),
            lightings=lightings,
            seed=seed,
            skip_plain=skip_plain,
            max_faces=max_faces,
            up=up,
            front=front,
        ),
    )
    with StageReporter() as reporter:
        report = prepare_meshes(preparation, workers=workers, on_progress=reporter)
    typer.echo("\n".join(summary_lines(out, report)))
    usable = sum(entry["status"] in ("textured", "views") for entry in report)
    bad = sum(entry["status"] == "bad" for entry in report)
    if (report and not usable) or (strict and bad):
        raise InputError(
            str(folder),
            expected="meshes that can all be used" if strict and bad else "usable meshes",
            got=f"{bad} bad of {len(report)}",
            remedy=f"The reasons are in {out / 'report.jsonl'}.",
        )


def summary_lines(out: Path, report: list[dict[str, Any]], most: int = 12) -> list[str]:
    """Counts by status, then the first files of each status that need a reason."""
    counts = {
        status: [entry for entry in report if entry["status"] == status]
        for status in ("textured", "views", "skipped", "bad")
    }
    words = {"views": "views only"}
    head = ", ".join(f"{len(found)} {words.get(s, s)}" for s, found in counts.items())
    lines = [f"{out}: {head} of {len(report)} meshes; see report.jsonl"]
    for status in ("bad", "skipped", "views"):
        found = counts[status]
        lines += [
            f"  {words.get(status, status)}: {e['file']}: {e['reason']}" for e in found[:most]
        ]
        if len(found) > most:
            lines.append(f"  {words.get(status, status)}: {len(found) - most} more")
    return lines
