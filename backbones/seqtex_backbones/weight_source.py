"""Where the weights of a backbone come from: a file, shards, a folder, or a hub id."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqtex_core.errors import WeightsError
from seqtex_core.weight_files import PICKLES, refuse_pickle

from .hub import OnBytes, download_files

_LOG = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SUBFOLDER = "transformer"
_WEIGHTS = re.compile(r".+\.safetensors(\.index(\.\w+)?\.json)?")
_SHARD = re.compile(r"-\d+-of-\d+")
_PIPELINE_FOLDERS = (
    "image_encoder/", "text_encoder/", "text_encoder_2/", "tokenizer/", "tokenizer_2/",
    "transformer/", "transformer_2/", "vae/",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Files to read.

    Args:
        files: safetensors files.
        config: the ``config.json`` beside them, parsed; ``None`` without one.
    """

    files: tuple[Path, ...]
    config: dict[str, Any] | None = None


def find_weights(
    weights: str | Path, *, variant: str | None = None, local_files_only: bool = False
) -> WeightSource:
    """The files that ``weights`` names.

    Where a folder holds a model twice, as ``NAME.safetensors`` and as a variant of it such as
    ``NAME.fp16.safetensors``, the one without a variant is taken, as diffusers does, and a log
    message tells it.

    Args:
        weights: a safetensors file, or the index of a sharded one; a folder with safetensors
            files, sharded or not, or with such a folder called ``transformer``; or a hub id
            ``owner/name``, which is downloaded (the only case that uses the network).
        variant: of the files in a folder, such as ``"fp16"``.
        local_files_only: for a hub id, use what was downloaded before.

    Raises:
        WeightsError: nothing there, nothing but pickles, or nothing of that variant.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        if variant is not None:
            raise WeightsError(
                str(path), expected=f"a folder, for variant {variant!r}", got="a file"
            )
        refuse_pickle(path)
        is_index = path.suffix == ".json" and _WEIGHTS.fullmatch(path.name)
        return WeightSource(files=tuple(_indexed(path)) if is_index else (path,))
    if path.is_dir():
        return _folder(path, variant)
    if isinstance(weights, str) and _HUB_ID.fullmatch(weights) and path.suffix != ".safetensors":
        return _folder(download(weights, local_files_only=local_files_only), variant)
    raise WeightsError(
        str(weights), expected="a safetensors file, a folder, or a hub id", got="no such file"
    )


def _folder(folder: Path, variant: str | None) -> WeightSource:
    if (folder / _SUBFOLDER).is_dir():
        folder = folder / _SUBFOLDER
    found = _in_variant(folder, variant)
    indices = [path for path in found if path.suffix == ".json"]
    files = _indexed(indices[0]) if len(indices) == 1 else [p for p in found if p not in indices]
    if not files:
        pickles = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICKLES)
        if pickles:
            refuse_pickle(pickles[0])
        raise WeightsError(
            str(folder),
            expected="safetensors files",
            got=", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "an empty folder",
            remedy="" if variant is None else f"None of them is of variant {variant!r}.",
        )
    config = folder / "config.json"
    return WeightSource(files=tuple(files), config=_parsed(config) if config.is_file() else None)


def _in_variant(folder: Path, variant: str | None) -> list[Path]:
    """Weights and indices in a folder that are of one variant."""
    found = sorted(path for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name))
    stems = {path: _stem(path.name) for path in found}
    if variant is not None:
        return [path for path, stem in stems.items() if stem.endswith(f".{variant}")]
    plain = [path for path, s in stems.items() if s.rpartition(".")[0] not in stems.values()]
    if left := [path.name for path in found if path not in plain]:
        _LOG.warning(
            "%s: %s left out, as it is there without a variant, too; variant= names one",
            *(folder, ", ".join(left[:4]) + ", ..." * (len(left) > 4)),
        )
    return plain


def _stem(name: str) -> str:
    """``NAME`` or ``NAME.VARIANT`` of weights, without the number of a shard.

    Where the variant may stand: ``NAME.fp16.safetensors``, ``NAME.fp16-00001-of-00002.safetensors``
    and ``NAME-00001-of-00002.fp16.safetensors``, ``NAME.safetensors.index.fp16.json``.
    """
    stem, _, rest = name.partition(".safetensors")
    in_index = rest.removeprefix(".index").removesuffix(".json")
    return _SHARD.sub("", stem) + in_index


def _indexed(index: Path) -> list[Path]:
    shards = _parsed(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise WeightsError(
            str(index), expected="a weight_map from tensors to shards", got=repr(shards)[:40]
        )
    files = sorted({index.parent / str(name) for name in shards.values()})
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise WeightsError(
            str(index),
            expected=f"{len(files)} shards beside it",
            got=f"{len(absent)} missing: {', '.join(absent[:4])}",
            remedy="Download the missing files.",
        )
    return files


def _parsed(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise WeightsError(str(path), expected="readable JSON", got=str(error)) from error
    if not isinstance(parsed, dict):
        raise WeightsError(str(path), expected="a JSON object", got=type(parsed).__name__)
    return parsed


def download(
    hub_id: str,
    *,
    folders: Sequence[str] = ("", f"{_SUBFOLDER}/"),
    local_files_only: bool = False,
    on_bytes: OnBytes | None = None,
) -> Path:
    """The local copy of a hub repository's weights.

    Args:
        hub_id: ``owner/name``.
        folders: to fetch from, each ``""`` or ending in a slash: configs, safetensors and their
            index; of a folder with "tokenizer" in its name, everything.
        local_files_only: use what was downloaded before.
        on_bytes: told how far it is. Optional.

    Raises:
        WeightsError: it cannot be downloaded.
    """
    weights = ("config.json", "*.safetensors", "*.safetensors.index.json")
    return download_files(
        hub_id,
        allow=[
            f"{folder}{name}"
            for folder in folders
            for name in (("*",) if "tokenizer" in folder else weights)
        ],
        # the hub's patterns cross slashes: "*.safetensors" alone would fetch every part
        ignore=[f"{part}*" for part in _PIPELINE_FOLDERS if part not in folders],
        local_files_only=local_files_only,
        on_bytes=on_bytes,
    )
