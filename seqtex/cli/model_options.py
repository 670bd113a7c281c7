"""Options that say which full-size model runs and within how much memory."""

from __future__ import annotations

from typing import Annotated

import typer

from seqtex.models.memory import BUDGETS

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|DIR",
        help="Model name (see `seqtex info`) or folder.",
        show_default="seqtex-tiny",
    ),
]
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
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="float32, bfloat16 or float16.",
        show_default="the model's",
    ),
]
Fp8Option = Annotated[
    bool,
    typer.Option(
        "--fp8",
        help="Approximation: the transformer's products in 8-bit floating point; half the weights "
        "in memory. For devices with such products: GPUs from Ada and Hopper on.",
    ),
]
ParallelOption = Annotated[
    str | None,
    typer.Option(
        "--parallel",
        metavar="rows|heads|branches",
        help="Under torchrun, how processes share one texture: the tokens of every layer (keys and "
        "values collected, or heads exchanged for rows), or the two branches apart.",
        show_default="rows",
    ),
]
