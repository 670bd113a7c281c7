"""Weights from one layout to another, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from seqtex_core.errors import UsageError
from seqtex_core.weight_files import PICKLES
from seqtex_core.weight_stream import (
    DEFAULT_SHARD_BYTES,
    STEM,
    remove_leftovers,
    write_folder,
    write_json,
    write_stream,
)

from ..outputs import check_writable, staged
from .config import CODEC_WEIGHTS_NAME, WEIGHTS_NAME
from .conversion_layouts import LORA_NAME, LayoutResult, in_layout
from .conversion_sources import LAYOUTS, Layout, SourceOptions, open_source
from .folder import CONFIG_NAME


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How weights are converted.

    Args:
        dtype: that they are written in; their own by default.
        max_shard_bytes: of the files in a folder.
        overwrite: replace the model at the target; files that are none of a model's stay.
        vae: folder of a diffusers VAE, for a model folder.
        source: what the files do not say.
    """

    dtype: torch.dtype | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    overwrite: bool = False
    vae: Path | None = None
    source: SourceOptions = field(default_factory=SourceOptions)


@dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """What was written.

    Args:
        layout: that the source was in.
        target: file or folder.
        num_tensors: in the result.
        num_bytes: of its tensors.
        notes: what the user should know.
    """

    layout: Layout
    target: Path
    num_tensors: int
    num_bytes: int
    notes: tuple[str, ...] = ()


def convert(
    source: Path, target: Path, *, to: Layout, options: ConvertOptions | None = None
) -> Converted:
    """Convert weights; the target appears when it is complete.

    Memory holds one tensor at a time.

    Args:
        source: a model folder, a folder as diffusers or the authors of Wan write it, or a
            safetensors file.
        target: a ``.safetensors`` file, or a folder.
        to: ``"diffusers"`` or ``"original"``: a Wan transformer (of a SeqTex model the mv branch,
            adapters merged); ``"released"``: the released SeqTex layout; ``"seqtex"``: a model
            folder; ``"lora"``: a SeqTex model's adapters, as diffusers reads them.
        options: the rest.

    Raises:
        InputError: no source.
        WeightsError: a source that is damaged, partial or unknown.
        UsageError: a target that exists or lies on the source, or a layout that cannot hold it.
    """
    options = options or ConvertOptions()
    if to not in LAYOUTS:
        raise UsageError("--to", expected=f"one of {', '.join(LAYOUTS)}", got=repr(to))
    _check_target(source, target, to, overwrite=options.overwrite)
    with open_source(source, options.source, dtype=options.dtype) as opened:
        made = in_layout(to, opened, vae=options.vae)
        _write(made, target, options)
    return Converted(
        layout=opened.layout,
        target=target,
        num_tensors=len(made.tensors),
        num_bytes=sum(tensor.num_bytes for tensor in made.tensors.values()),
        notes=made.notes,
    )


def _check_target(source: Path, target: Path, to: Layout, *, overwrite: bool) -> None:
    places = source.resolve(), target.resolve()
    if places[0] == places[1] or places[0] in places[1].parents or places[1] in places[0].parents:
        raise UsageError(
            "DST", expected="a place apart from SRC", got=f"{target}", remedy="Choose another."
        )
    if target.suffix.lower() in PICKLES:
        raise UsageError(
            "DST", expected="a folder, or a .safetensors file", got=f"{target}, as pickles end"
        )
    is_file = target.suffix == ".safetensors"
    if is_file and to == "seqtex":
        raise UsageError("DST", expected="a folder, for a model", got=str(target))
    if target.exists() and target.is_dir() == is_file:
        what = "a file" if is_file else "a folder"
        raise UsageError("DST", expected=what, got=f"{target}, which is none")
    taken = target.exists() and (is_file or any(target.iterdir()))
    if taken and not overwrite:
        raise UsageError(
            "DST",
            expected="a name not in use, or an empty folder",
            got=f"{target}, which exists",
            remedy="Add --overwrite to replace it, or choose another name.",
        )
    check_writable(target, option="DST")


def _write(made: LayoutResult, target: Path, options: ConvertOptions) -> None:
    if target.suffix == ".safetensors":
        target.parent.mkdir(parents=True, exist_ok=True)
        write_stream(target, made.tensors, metadata=made.metadata)
        return
    replaced = _files_beside(target)
    with staged(target) as scratch:
        if made.file_name is not None:
            write_stream(scratch / made.file_name, made.tensors, metadata=made.metadata)
        else:
            write_folder(scratch, made.tensors, max_shard_bytes=options.max_shard_bytes)
        if made.config is not None:
            write_json(scratch / made.config_name, made.config)
        for extra in made.extras:
            extra(scratch)
        written = {path.name for path in scratch.iterdir()}
    remove_leftovers(target, written)
    for name in replaced - written:
        (target / name).unlink(missing_ok=True)


def _files_beside(folder: Path) -> set[str]:
    """Files of the model in a folder beside those of ``write_folder``.

    Left from a model that is replaced, they would be read for the new one.
    """
    names = {LORA_NAME}
    if (folder / CONFIG_NAME).is_file():
        names |= {CONFIG_NAME, WEIGHTS_NAME, CODEC_WEIGHTS_NAME}
    if any(folder.glob(f"{STEM}*.safetensors")):
        names.add("config.json")
    return names
