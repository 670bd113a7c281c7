"""Options that say what a model makes and how, apart from which model it is."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

_option = partial(typer.Option, rich_help_panel="How it is painted")

MethodOption = Annotated[
    str | None,
    _option(
        "--method",
        metavar="project|model",
        help="model: paint what the references show, the rest by a video diffusion transformer. "
        "project: complete the rest along the surface and by symmetry, without weights.",
        show_default="model",
    ),
]
TaskOption = Annotated[
    str | None,
    _option(
        "--task",
        metavar="NAME",
        help="img2tex, img2tex_projected or mv2tex.",
        show_default="the model's",
    ),
]
StepsOption = Annotated[
    int | None,
    _option("--steps", metavar="N", help="Sampling steps.", show_default="the model's"),
]
ShiftOption = Annotated[
    float | None,
    _option(
        "--shift",
        metavar="NUMBER",
        help="Flow shift of the sampling steps; above 1 more of them at high noise.",
        show_default="the model's",
    ),
]
SeedOption = Annotated[
    int | None, _option("--seed", metavar="N", help="Seed of all noise.", show_default="0")
]
PromptOption = Annotated[
    str | None, _option("--prompt", metavar="TEXT", help="Text, where the model has it.")
]
GuidanceOption = Annotated[
    float,
    _option("--guidance", metavar="SCALE", help="Text guidance; 1 is off."),
]
ViewSizeOption = Annotated[
    int | None,
    _option("--view-size", metavar="PIXELS", help="Edge of a view.", show_default="the model's"),
]
UvSizeOption = Annotated[
    int | None,
    _option(
        "--uv-size",
        metavar="PIXELS",
        help="Edge of the texture that the model makes.",
        show_default="the model's",
    ),
]
TextureSizeOption = Annotated[
    int | None,
    _option(
        "--texture-size",
        metavar="PIXELS",
        help="Edge of the written texture: the model's, enlarged, with the references' own "
        "detail where they show the surface.",
        show_default="1024; of a full-size model, its own",
    ),
]
ForegroundOption = Annotated[
    bool | None,
    _option(
        "--foreground/--dense",
        help="Compute only the tokens that touch the surface, which takes a half to a third of "
        "the work, or all of them. A model makes other textures than it was trained to if this "
        "is not as it was trained.",
        show_default="as the model was trained",
    ),
]
StepReuseOption = Annotated[
    float | None,
    _option(
        "--step-reuse",
        metavar="THRESHOLD",
        help="Approximation: a step whose input differs from that of the last computed one by "
        "less than this share (0.1, say) repeats what the transformer did then.",
        show_default="off",
    ),
]
CudaGraphOption = Annotated[
    bool,
    _option(
        "--cuda-graph",
        help="Replay each step as one CUDA graph: less time for small steps, more memory.",
    ),
]
