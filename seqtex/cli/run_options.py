"""Options that say what a model makes and how, apart from which model it is."""

from __future__ import annotations

from typing import Annotated

import typer

MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="project|model",
        help="project: paint what the references show, complete the rest along the "
        "surface and by symmetry; no weights. model: a video diffusion transformer.",
        show_default="project; model with --model",
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help="img2tex, img2tex_projected or mv2tex.",
        show_default="the model's",
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Sampling steps.", show_default="the model's"),
]
ShiftOption = Annotated[
    float | None,
    typer.Option(
        "--shift",
        metavar="NUMBER",
        help="Flow shift of the sampling steps; above 1 more of them at high noise.",
        show_default="the model's",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Seed of all noise.", show_default="0")
]
PromptOption = Annotated[
    str | None, typer.Option("--prompt", metavar="TEXT", help="Text, where the model has it.")
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance", metavar="SCALE", help="Text guidance; 1 is off.", show_default="1.0"
    ),
]
ViewSizeOption = Annotated[
    int | None,
    typer.Option(
        "--view-size", metavar="PIXELS", help="Edge of a view.", show_default="the model's"
    ),
]
UvSizeOption = Annotated[
    int | None,
    typer.Option(
        "--uv-size",
        metavar="PIXELS",
        help="Edge of the texture.",
        show_default="1024; with a model, its own",
    ),
]
TextureSizeOption = Annotated[
    int | None,
    typer.Option(
        "--texture-size",
        metavar="PIXELS",
        help="Edge of the written texture, with --method model: the model's, enlarged, with "
        "the references' own detail where they show the surface.",
        show_default="the model's",
    ),
]
ForegroundOption = Annotated[
    bool | None,
    typer.Option(
        "--foreground/--dense",
        help="Compute only the tokens that touch the surface, which takes a half to a third of "
        "the work, or all of them. A model makes other textures than it was trained to if this "
        "is not as it was trained.",
        show_default="as the model was trained",
    ),
]
StepReuseOption = Annotated[
    float | None,
    typer.Option(
        "--step-reuse",
        metavar="THRESHOLD",
        help="Approximation: a step whose input differs from that of the last computed one by "
        "less than this share (0.1, say) repeats what the transformer did then.",
        show_default="off",
    ),
]
