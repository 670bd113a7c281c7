"""``seqtex render``: pictures of a mesh as the rig sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from seqtex.outputs import check_folder, check_unedited, staged
from seqtex.prepare_options import PrepareOptions
from seqtex.references import check_view_name
from seqtex_geometry.asset import load_asset
from seqtex_geometry.mesh import VIEW_NAMES

from .exits import naming_smaller_setting
from .options import (
    DeviceOption,
    FrontOption,
    MeshArgument,
    OutFolderOption,
    OverwriteOption,
    RasterizerOption,
    UpOption,
    check_choice,
    check_size,
)
from .progress import StageReporter

if TYPE_CHECKING:
    from torch import Tensor

    from seqtex.prepare import PreparedJob

RECORD = "render.json"
_BACKGROUNDS = {"transparent": None, "white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


def render(
    mesh: MeshArgument,
    out: OutFolderOption,
    size: Annotated[int, typer.Option("--size", metavar="PIXELS", help="Edge of a picture.")] = 512,
    views: Annotated[
        str,
        typer.Option("--views", metavar="A,B", help="Views to render.", show_default="all four"),
    ] = ",".join(VIEW_NAMES),
    shading: Annotated[
        str,
        typer.Option(
            "--shading",
            metavar="unlit|shaded",
            help="unlit is what a reference image shows: the colours without light.",
        ),
    ] = "unlit",
    background: Annotated[
        str, typer.Option("--background", metavar="NAME", help="transparent, white or black.")
    ] = "transparent",
    contact_sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="Also write all pictures on one sheet.")
    ] = False,
    up: UpOption = None,
    front: FrontOption = None,
    rasterizer: RasterizerOption = "auto",
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Write pictures of MESH with its own materials: 0_front.png, 1_left.png, ...

    A reference image for `seqtex texture` shows the object exactly as the picture of its view.
    """
    check_size("--size", size)
    check_choice("--shading", shading, ("unlit", "shaded"))
    check_choice("--background", background, tuple(_BACKGROUNDS))
    wanted = {check_view_name(name.strip(), subject="--views") for name in views.split(",")}
    names = [name for name in VIEW_NAMES if name in wanted]
    check_folder(out, record=RECORD, overwrite=overwrite)
    pictures_to_write = [out / f"{VIEW_NAMES.index(name)}_{name}.png" for name in names]
    check_unedited(pictures_to_write, record=out / RECORD, overwrite=overwrite)
    asset = load_asset(mesh, up=up, front=front)
    with StageReporter() as report, naming_smaller_setting(f"Use --size {size // 2}."):
        from seqtex.pictures import numbered, save_pictures
        from seqtex.prepare import prepare_job
        from seqtex_geometry.contact_sheet import save_contact_sheet

        options = PrepareOptions(uv="as_is", rasterizer=rasterizer, device=device)
        job = prepare_job(asset, options=options, on_progress=report)
        report.say_choices(job)
        pictures = _draw(job, names, size, (shading, background), report)
        with staged(out) as folder:
            files = dict(zip(VIEW_NAMES, numbered(VIEW_NAMES), strict=True))
            save_pictures(folder, pictures, [files[name] for name in names])
            if contact_sheet:
                save_contact_sheet(folder / "contact_sheet.png", {shading: pictures}, names)
            record = {"mesh": asset.path.name, "choices": dict(job.choices), "views": names}
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    print(out)


def _draw(
    job: PreparedJob, names: list[str], size: int, look: tuple[str, str], report: StageReporter
) -> Tensor:
    import torch

    from seqtex.stages import StageClock
    from seqtex_geometry.render import RenderStyle, render_textured

    style = RenderStyle(shading=look[0], background=_BACKGROUNDS[look[1]])  # type: ignore[arg-type]
    pictures = []
    with StageClock(report).stage("Render", len(names)) as step:
        for name in names:
            camera = job.cameras.select(name)
            pictures.append(
                render_textured(
                    job.mesh,
                    None,
                    camera,
                    height=size,
                    width=size,
                    rasterizer=job.rasterizer,
                    style=style,
                )
            )
            step(len(pictures))
    return torch.cat(pictures)
