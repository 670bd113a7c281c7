"""Options that say which full-size model runs and within how much memory."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from seqtex.models.memory import BUDGETS

_option = partial(typer.Option, rich_help_panel="Which model")

ModelOption = Annotated[
    str | None,
    _option(
        "--model",
        metavar="NAME|DIR",
        help="Model name (see `seqtex info`) or folder.",
        show_default="seqtex-tiny",
    ),
]
WeightsOption = Annotated[
    str | None,
    _option(
        "--weights",
        metavar="DIR|FILE|ID",
        help="Weights of a full-size model: a diffusers folder (transformer/, vae/), a "
        "transformer's .safetensors, or a hub id (then the network is used).",
    ),
]
VaeWeightsOption = Annotated[
    str | None,
    _option(
        "--vae-weights",
        metavar="DIR|ID",
        help="The VAE of that model.",
        show_default="vae/ in --weights",
    ),
]
TextWeightsOption = Annotated[
    str | None,
    _option(
        "--text-weights",
        metavar="DIR|ID",
        help="Folder with text_encoder/ and tokenizer/, for --prompt.",
        show_default="--weights",
    ),
]
TextEmbeddingsOption = Annotated[
    str | None,
    _option(
        "--text-embeddings",
        metavar="FILE",
        help="Prompts encoded by `seqtex embed`, in place of a text encoder.",
    ),
]
RandomWeightsOption = Annotated[
    int | None,
    _option(
        "--random-weights",
        metavar="SEED",
        help="Dry run of a full-size model: seeded random weights, marked untrained.",
    ),
]
MemoryOption = Annotated[
    int | None,
    _option(
        "--memory",
        metavar="|".join(map(str, BUDGETS)),
        help="GiB to keep within; says what that costs.",
        show_default="what is free",
    ),
]
DtypeOption = Annotated[
    str | None,
    _option(
        "--dtype",
        metavar="NAME",
        help="float32, bfloat16 or float16.",
        show_default="the model's",
    ),
]
Fp8Option = Annotated[
    bool,
    _option(
        "--fp8",
        help="Approximation: the transformer's products in 8-bit floating point; half the weights "
        "in memory. For devices with such products: GPUs from Ada and Hopper on.",
    ),
]
ParallelOption = Annotated[
    str | None,
    _option(
        "--parallel",
        metavar="rows|heads|branches",
        help="Under torchrun, how processes share one texture: the tokens of every layer (keys and "
        "values collected, or heads exchanged for rows), or the two branches apart.",
        show_default="rows",
    ),
]
