"""``seqtex reference``: a reference image from text, and the control images it is made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqtex.outputs import check_replaceable, check_unedited, check_writable, manifest_path, staged
from seqtex.prepare_options import PrepareOptions
from seqtex.references import check_view_name
from seqtex.text_to_image.kinds import CONTROL_FILES, NORMAL_CONVENTIONS, control_path
from seqtex_core.errors import UsageError
from seqtex_geometry.asset import load_asset

from .exits import naming_smaller_setting
from .options import (
    DeviceOption,
    FrontOption,
    MeshArgument,
    OverwriteOption,
    RasterizerOption,
    UpOption,
    check_choice,
)
from .progress import StageReporter
from .run_options import SeedOption
from .text_options import (
    ControlModelOption,
    ImageModelOption,
    LocalFilesOption,
    NegativeTextOption,
    OffloadOption,
    TextOption,
    TextRequest,
    check_image_size,
    size_option,
    steps_option,
    view_option,
)

if TYPE_CHECKING:
    from seqtex.prepare import PreparedJob

_CONTROLS_SIZE = 1024


def reference(
    mesh: MeshArgument,
    text: TextOption = None,
    image_model: ImageModelOption = None,
    control_model: ControlModelOption = None,
    view: Annotated[str | None, view_option("--view")] = None,
    negative_text: NegativeTextOption = None,
    size: Annotated[int | None, size_option("--size")] = None,
    steps: Annotated[int | None, steps_option("--steps")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            metavar="SCALE",
            help="Text guidance.",
            show_default="SDXL 5, FLUX 3.5, FLUX Depth 10",
        ),
    ] = None,
    control_scale: Annotated[
        float | None,
        typer.Option(
            "--control-scale",
            metavar="SCALE",
            help="Strength of each ControlNet.",
            show_default="0.8 for a union, else 0.6",
        ),
    ] = None,
    seed: SeedOption = None,
    raw_text: Annotated[
        bool,
        typer.Option(
            "--raw-text",
            help="Give TEXT to the model as it is, without the words for the view, a plain "
            "background and even light.",
        ),
    ] = False,
    normals: Annotated[
        str,
        typer.Option(
            "--normals",
            metavar="bae|opengl",
            help="Normals with red to the left, as most ControlNets read them, or to the right.",
        ),
    ] = "bae",
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="NAME", help="auto: bfloat16 on CUDA, float32 elsewhere."),
    ] = "auto",
    offload: OffloadOption = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", metavar="NAME", help="Weight files of that name, as fp16."),
    ] = None,
    local_files_only: LocalFilesOption = False,
    generator: Annotated[
        str,
        typer.Option(
            "--generator",
            metavar="NAME",
            help="Registered generator; auto: what the model's own config says.",
        ),
    ] = "auto",
    controls_only: Annotated[
        bool,
        typer.Option(
            "--controls-only",
            help="Only write depth, normals and mask, for an image tool of your own.",
        ),
    ] = False,
    up: UpOption = None,
    front: FrontOption = None,
    rasterizer: RasterizerOption = "auto",
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.png",
            help="Picture; its control images and record go beside it.",
            show_default="MESH_reference.png beside the mesh",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw a reference image of MESH from text, with SDXL or FLUX and ControlNets.

    Look at it, paint over it if you like, and give it to `seqtex texture --image`.
    """
    request = TextRequest(
        text=text or "",
        view=view,
        negative_text=negative_text,
        image_model=image_model,
        control_models=tuple(control_model or ()),
        size=size,
        steps=steps,
        guidance=guidance,
        control_scale=control_scale,
        seed=seed,
        raw_text=raw_text,
        normals=normals,
        device=device,
        dtype=dtype,
        offload=offload,
        variant=variant,
        local_files_only=local_files_only,
        generator=generator,
    )
    if controls_only:
        _check_controls_only(request)
    spec = None if controls_only else request.check()
    target = mesh.with_name(f"{mesh.stem}_reference.png") if out is None else out
    _check_target(target, controls_only=controls_only, overwrite=overwrite)
    asset = load_asset(mesh, up=up, front=front, bad_images="tell")
    remedy = f"Use --size {(size or _CONTROLS_SIZE) // 2}."
    with StageReporter() as report, naming_smaller_setting(remedy):
        from seqtex.prepare import prepare_job

        options = PrepareOptions(uv="as_is", rasterizer=rasterizer, device=device)
        job = prepare_job(asset, options=options, on_progress=report)
        report.say_choices(job)
        if spec is None:
            _write_controls(request, job, target)
        else:
            from seqtex.text_to_image.reference import save_text_reference

            from .text_run import make_from_text

            made = make_from_text(request, spec, job, report)
            save_text_reference(made, target, mesh=asset.path.name)
            print(target)
    for name in CONTROL_FILES:
        print(control_path(target, name))


def _check_controls_only(request: TextRequest) -> None:
    check_view_name(request.shown_view, subject="--view")
    check_choice("--normals", request.normals, NORMAL_CONVENTIONS)
    if request.size is not None:
        check_image_size("--size", request.size)
    if request.text or request.image_model is not None or request.control_models:
        raise UsageError(
            "--controls-only",
            expected="no --text, --image-model or --control-model beside it",
            got="one of them",
        )


def _check_target(target: Path, *, controls_only: bool, overwrite: bool) -> None:
    if target.suffix.lower() != ".png":
        raise UsageError("--out", expected="a name that ends in .png", got=str(target))
    check_writable(target)
    controls = [control_path(target, name) for name in CONTROL_FILES]
    if not controls_only:
        check_replaceable(target, overwrite=overwrite)
    record = manifest_path(target)
    check_unedited([target, *controls], record=record, overwrite=overwrite)
    if not record.is_file() and not overwrite:
        foreign = [path for path in controls if path.exists()]
        if foreign:
            raise UsageError(
                "--out",
                expected="names not in use",
                got=f"{foreign[0]}, which exists and has no {record.name} beside it",
                remedy="Add --overwrite to replace it, or choose another name with -o.",
            )


def _write_controls(request: TextRequest, job: PreparedJob, target: Path) -> None:
    from seqtex.text_to_image.control_images import draw_control_images
    from seqtex.text_to_image.reference import write_controls, write_record

    controls = draw_control_images(
        job,
        request.shown_view,
        size=request.size or _CONTROLS_SIZE,
        normal_convention=request.normal_convention,
    )
    with staged(target.parent) as folder:
        write_controls(controls, folder / target.name)
        record = {
            "view": controls.view,
            "size": controls.size,
            "normal_convention": controls.normal_convention,
        }
        write_record(folder / target.name, mesh=job.asset.path.name, record=record)
