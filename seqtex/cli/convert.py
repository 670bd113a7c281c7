"""``seqtex convert``: weights from one layout to another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from seqtex_core.errors import InputError, UsageError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?B)?", re.IGNORECASE)


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="Model folder, folder of diffusers or of Wan's authors, or .safetensors file.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder, or a .safetensors file.")],
    to: Annotated[
        Literal["diffusers", "original", "released", "seqtex", "lora"],
        typer.Option(
            "--to",
            help="diffusers, original: a Wan transformer under either's names; of a SeqTex model "
            "its views' branch, adapters merged. released: the layout of the released SeqTex "
            "weights. seqtex: a model folder. lora: the adapters alone.",
        ),
    ],
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option("--dtype", help="Number format to write.", show_default="as in SRC"),
    ] = None,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="Largest file in a folder.")
    ] = "10GB",
    head_dim: Annotated[
        int | None,
        typer.Option(
            "--head-dim",
            help="Channels per head, for Wan files without a config.",
            min=2,
            show_default="128",
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option(
            "--lora-alpha", help="Of released weights, which do not say it.", show_default="64"
        ),
    ] = None,
    vae: Annotated[
        Path | None,
        typer.Option("--vae", metavar="DIR", help="diffusers VAE to put into a model folder."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at DST.")] = False,
) -> None:
    """Convert weights tensor by tensor; DST appears when it is complete.

    What SRC is, is seen from its tensors; missing, unexpected and misshapen ones are told before
    anything is written.
    """
    shard_bytes = parse_size("--shard-size", shard_size)
    if not source.exists():
        raise InputError("SRC", expected="a folder or a file", got=f"{source}: no such thing")
    import torch

    from seqtex.models import conversion
    from seqtex.models.conversion_sources import SourceOptions

    options = conversion.ConvertOptions(
        dtype=None if dtype is None else getattr(torch, dtype),
        max_shard_bytes=shard_bytes,
        overwrite=overwrite,
        vae=vae,
        source=SourceOptions(head_dim=head_dim, lora_alpha=lora_alpha),
    )
    made = conversion.convert(source, target, to=to, options=options)
    size = f"{made.num_tensors} tensors, {made.num_bytes / 1e6:.1f} MB"
    typer.echo(f"{made.layout} -> {to}: {size}", err=True)
    for note in made.notes:
        typer.echo(f"Note: {note}.", err=True)
    print(made.target)


def parse_size(flag: str, text: str) -> int:
    """Bytes of a size such as ``"5GB"``.

    Raises:
        UsageError: not a positive number with an optional unit (B, KB, MB, GB; powers of 1000).
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match else 0
    if size < 1:
        raise UsageError(flag, expected="a size such as 5GB or 500MB", got=repr(text))
    return size
