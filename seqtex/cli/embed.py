"""``seqtex embed``: prompts encoded once, for machines without room for a text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqtex.models.catalog import CATALOG
from seqtex.models.prompt_file import is_prompt_file
from seqtex.models.sources import ModelSources
from seqtex_core.errors import UsageError

from .exits import naming_smaller_setting
from .options import DeviceOption, OverwriteOption
from .progress import StageReporter


def embed(
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT...",
            help='The first is what a run without --prompt reads; add "" for --guidance.',
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Full-size model that will read them.")
    ],
    text_weights: Annotated[
        str,
        typer.Option(
            "--text-weights",
            metavar="DIR|ID",
            help="Folder with text_encoder/ and tokenizer/, such as a diffusers pipeline's; or a "
            "hub id (then the network is used).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A .safetensors file.")],
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Encode PROMPTs into a file for `seqtex texture --text-embeddings`."""
    if out.suffix != ".safetensors":
        raise UsageError("--out", expected="a .safetensors file", got=str(out))
    _check_replaceable(out, overwrite=overwrite)
    entry = CATALOG.get(model)
    sources = ModelSources(text=text_weights, random_seed=0)
    sources.check(model, texts=prompts)
    with StageReporter() as report, naming_smaller_setting("Use --device cpu."):
        from seqtex.models.fill import empty_transformer
        from seqtex.models.full_size import find_parts, load_text_part
        from seqtex.models.text import write_prompts
        from seqtex.prepare import choose_device
        from seqtex.stages import StageClock

        place = choose_device(device)
        config = entry.model_config()
        folder = find_parts(entry, sources, with_text=True, on_progress=report).text
        encoder = load_text_part(
            config, sources, folder, spec=empty_transformer(config).spec, device=place
        )
        assert encoder is not None, "a folder was given"
        with StageClock(report).stage("Encode"):
            write_prompts(out, encoder, prompts)
    print(out)


def _check_replaceable(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that is not one of encoded prompts, before anything is loaded."""
    if out.exists() and not overwrite and not is_prompt_file(out):
        raise UsageError(
            "--out",
            expected="a name not in use, or a file by `seqtex embed`",
            got=f"{out}, which exists and holds something else",
            remedy="Add --overwrite to replace it, or choose another name with -o.",
        )
