"""``seqtex texture``: a mesh and one or more reference images in, a textured mesh out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from seqtex.models.sources import ModelSources
from seqtex.run_options import RunOptions

from .model_options import (
    DtypeOption,
    Fp8Option,
    MemoryOption,
    ModelOption,
    ParallelOption,
    RandomWeightsOption,
    TextEmbeddingsOption,
    TextWeightsOption,
    VaeWeightsOption,
    WeightsOption,
)
from .options import (
    ChartsOption,
    DeviceOption,
    FrontOption,
    KeepUvOption,
    MeshArgument,
    OverwriteOption,
    RasterizerOption,
    UnwrapOption,
    UpOption,
    uv_mode,
)
from .run_options import (
    CudaGraphOption,
    ForegroundOption,
    GuidanceOption,
    MethodOption,
    PromptOption,
    SeedOption,
    ShiftOption,
    StepReuseOption,
    StepsOption,
    TaskOption,
    TextureSizeOption,
    UvSizeOption,
    ViewSizeOption,
)
from .text_options import (
    ControlModelOption,
    ImageModelOption,
    LocalFilesOption,
    NegativeTextOption,
    OffloadOption,
    TextOption,
    size_option,
    steps_option,
    text_of_texture,
    view_option,
)
from .texture_request import TextureRequest


def texture(
    context: typer.Context,
    mesh: MeshArgument,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="Reference image, square, showing the front view (see --ref-view).",
        ),
    ] = None,
    ref: Annotated[
        list[str] | None,
        typer.Option(
            "--ref",
            metavar="VIEW=FILE",
            help="Reference of a named view: front, left, back or right. Repeatable.",
        ),
    ] = None,
    ref_view: Annotated[
        str | None,
        typer.Option(
            "--ref-view", metavar="VIEW", help="View that --image shows.", show_default="front"
        ),
    ] = None,
    text: TextOption = None,
    text_view: Annotated[str | None, view_option("--text-view")] = None,
    negative_text: NegativeTextOption = None,
    image_model: ImageModelOption = None,
    control_model: ControlModelOption = None,
    image_size: Annotated[int | None, size_option("--image-size")] = None,
    image_steps: Annotated[int | None, steps_option("--image-steps")] = None,
    offload: OffloadOption = None,
    local_files_only: LocalFilesOption = False,
    up: UpOption = None,
    front: FrontOption = None,
    keep_uv: KeepUvOption = False,
    unwrap: UnwrapOption = False,
    charts: ChartsOption = "auto",
    min_iou: Annotated[
        float | None,
        typer.Option(
            "--min-iou",
            metavar="SHARE",
            help="Refuse a reference whose silhouette overlaps the view's less than this.",
            show_default="0.8",
        ),
    ] = None,
    method: MethodOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    vae_weights: VaeWeightsOption = None,
    text_weights: TextWeightsOption = None,
    text_embeddings: TextEmbeddingsOption = None,
    random_weights: RandomWeightsOption = None,
    memory: MemoryOption = None,
    task: TaskOption = None,
    steps: StepsOption = None,
    shift: ShiftOption = None,
    seed: SeedOption = None,
    prompt: PromptOption = None,
    guidance: GuidanceOption = 1.0,
    view_size: ViewSizeOption = None,
    uv_size: UvSizeOption = None,
    texture_size: TextureSizeOption = None,
    foreground: ForegroundOption = None,
    step_reuse: StepReuseOption = None,
    cuda_graph: CudaGraphOption = False,
    fp8: Fp8Option = False,
    parallel: ParallelOption = None,
    rasterizer: RasterizerOption = "auto",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE|DIR",
            help="Result: .glb or .gltf; for an OBJ also .obj. A name without an ending is a "
            "folder.",
            show_default="MESH_textured beside the mesh",
        ),
    ] = None,
    save_intermediates: Annotated[
        Path | None,
        typer.Option(
            "--save-intermediates",
            metavar="DIR",
            help="Also write maps, references as used, textures and renders.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Texture MESH so that it looks like the reference images, or as a text says.

    With --text an image model draws the reference first; `seqtex reference` does only that, with
    more settings.

    The result is the same file with new base colour images: geometry, UVs, rigs and extras stay
    byte for byte, which is checked before anything is written. A record of the run is written
    beside it (OUT.seqtex.json).
    """
    from .texture_run import run_texture

    run: Callable[[TextureRequest], None] = context.obj or run_texture  # `seqtex batch` has its own
    run(
        TextureRequest(
            mesh=mesh,
            image=image,
            refs=tuple(ref or ()),
            text=text_of_texture(
                text,
                view=text_view,
                negative_text=negative_text,
                image_model=image_model,
                control_models=tuple(control_model or ()),
                size=image_size,
                steps=image_steps,
                seed=seed,
                device=device,
                offload=offload,
                local_files_only=local_files_only,
            ),
            ref_view=ref_view,
            up=up,
            front=front,
            uv=uv_mode(keep_uv, unwrap),
            charts=charts,
            min_iou=min_iou,
            method=method or "model",
            model=model,
            sources=ModelSources(
                weights=weights,
                vae=vae_weights,
                text=text_weights,
                text_embeddings=text_embeddings,
                random_seed=random_weights,
            ),
            memory=memory,
            task=task,
            seed=seed,
            prompt=prompt,
            run=RunOptions(
                steps=steps,
                shift=shift,
                guidance=guidance,
                view_size=view_size,
                uv_size=uv_size,
                texture_size=texture_size,
                foreground=foreground,
                step_reuse=step_reuse,
                cuda_graph=cuda_graph,
            ),
            fp8=fp8,
            parallel=parallel,
            rasterizer=rasterizer,
            device=device,
            dtype=dtype,
            out=out,
            save_intermediates=save_intermediates,
            overwrite=overwrite,
        )
    )
