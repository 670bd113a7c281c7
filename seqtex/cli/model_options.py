"""Options that say which full-size model runs and within how much memory."""

from __future__ import annotations

from typing import Annotated

import typer

from seqtex.models.memory import BUDGETS

WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="DIR|FILE|ID",
        help="Weights of a full-size model: a diffusers folder (transformer/, vae/), a "
        "transformer's .safetensors, or a hub id (then the network is used).",
    ),
]
VaeWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--vae-weights",
        metavar="DIR|ID",
        help="The VAE of that model.",
        show_default="vae/ in --weights",
    ),
]
TextWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--text-weights",
        metavar="DIR|ID",
        help="Folder with text_encoder/ and tokenizer/, for --prompt.",
        show_default="--weights",
    ),
]
TextEmbeddingsOption = Annotated[
    str | None,
    typer.Option(
        "--text-embeddings",
        metavar="FILE",
        help="Prompts encoded by `seqtex embed`, in place of a text encoder.",
    ),
]
RandomWeightsOption = Annotated[
    int | None,
    typer.Option(
        "--random-weights",
        metavar="SEED",
        help="Dry run of a full-size model: seeded random weights, marked untrained.",
    ),
]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        "--memory",
        metavar="|".join(map(str, BUDGETS)),
        help="GiB to keep within; says what that costs.",
        show_default="what is free",
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
