"""``seqtex maps``: what a model is conditioned on, as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from seqtex.outputs import check_folder, staged
from seqtex.prepare_options import CHART_CHOICES, ChartChoice, PrepareOptions
from seqtex_geometry.asset import load_asset

from .exits import naming_smaller_setting
from .options import (
    ChartsOption,
    DeviceOption,
    FrontOption,
    KeepUvOption,
    MeshArgument,
    OutFolderOption,
    OverwriteOption,
    RasterizerOption,
    UnwrapOption,
    UpOption,
    check_choice,
    check_size,
    uv_mode,
)
from .progress import StageReporter

if TYPE_CHECKING:
    from seqtex.prepare import PreparedJob

RECORD = "maps.json"


def maps(
    mesh: MeshArgument,
    out: OutFolderOption,
    view_size: Annotated[
        int, typer.Option("--view-size", metavar="PIXELS", help="Edge of a view.")
    ] = 512,
    uv_size: Annotated[
        int, typer.Option("--uv-size", metavar="PIXELS", help="Edge of a UV map.")
    ] = 1024,
    up: UpOption = None,
    front: FrontOption = None,
    keep_uv: KeepUvOption = False,
    unwrap: UnwrapOption = False,
    charts: ChartsOption = "auto",
    rasterizer: RasterizerOption = "auto",
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Write position, normal, mask and depth maps of MESH, per view and per texture in UV space.

    Positions and normals are stored as value / 2 + 0.5. Depth is 16-bit grey; maps.json has its
    scale and the cameras.
    """
    check_size("--view-size", view_size)
    check_size("--uv-size", uv_size)
    uv = uv_mode(keep_uv, unwrap)
    check_choice("--charts", charts, CHART_CHOICES)
    check_folder(out, record=RECORD, overwrite=overwrite)
    asset = load_asset(mesh, up=up, front=front, bad_images="tell")
    remedy = f"Use --view-size {view_size // 2} --uv-size {uv_size // 2}."
    with StageReporter() as report, naming_smaller_setting(remedy):
        from seqtex.prepare import prepare_job

        options = PrepareOptions(
            uv=uv, charts=cast(ChartChoice, charts), rasterizer=rasterizer, device=device
        )
        job = prepare_job(asset, options=options, on_progress=report)
        report.say_choices(job)
        with staged(out) as folder:
            _write(job, folder, (view_size, uv_size), report)
    print(out)


def _write(job: PreparedJob, folder: Path, sizes: tuple[int, int], report: StageReporter) -> None:
    from seqtex.pictures import map_pictures, numbered, save_maps
    from seqtex.stages import StageClock
    from seqtex_geometry.contact_sheet import save_contact_sheet

    clock = StageClock(report)
    names = numbered(job.cameras.names)
    with clock.stage("View maps"):
        views = job.view_maps(sizes[0], supersample=2)
        far = float(views.depth.max().clamp(min=1e-6))
        save_maps(folder, views, names, depth_full_scale=far)
    save_contact_sheet(folder / "contact_sheet.png", map_pictures(views), job.cameras.names)
    shares = []
    with clock.stage("UV maps", job.num_texture_sets) as step:
        for index in range(job.num_texture_sets):
            uv = job.uv_maps(sizes[1], texture_set=index)
            shares.append(round(float(uv.mask.mean()), 4))
            save_maps(folder, uv, [f"uv{index}"], depth_full_scale=None)
            pictures = {k: v for k, v in map_pictures(uv).items() if k != "depth"}
            save_contact_sheet(folder / f"contact_sheet_uv{index}.png", pictures)
            step(index + 1)
    (folder / RECORD).write_text(json.dumps(_record(job, far, shares), indent=2) + "\n")


def _record(job: PreparedJob, far: float, shares: list[float]) -> dict[str, Any]:
    return {
        "mesh": job.asset.path.name,
        "choices": dict(job.choices),
        "encoding": "position and normal: value / 2 + 0.5; depth: grey / 65535 * depth_full_scale",
        "depth_full_scale": far,
        "uv_covered_share": shares,
        "cameras": {
            "names": list(job.cameras.names),
            "projection": job.cameras.projection,
            "half_extent": job.cameras.half_extent,
            "world_to_camera": job.cameras.world_to_camera.tolist(),
        },
    }
