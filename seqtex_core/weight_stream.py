"""Writing safetensors files tensor by tensor: memory holds one tensor, not the model."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import UnsupportedError, UsageError
from .weight_files import DTYPES, WeightFiles
from .whole_files import replacing

STEM = "diffusion_pytorch_model"
INDEX_NAME = f"{STEM}.safetensors.index.json"
DEFAULT_SHARD_BYTES = 10 * 10**9
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8
_OF_FOLDER = re.compile(rf"{STEM}(-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?")


@dataclass(frozen=True, kw_only=True)
class TensorSource:
    """A tensor that is made when it is written.

    Args:
        shape: of the tensor.
        dtype: it is written in.
        read: makes it, in any dtype and on any device.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def from_files(
    files: WeightFiles, names: Mapping[str, str], *, dtype: torch.dtype | None = None
) -> dict[str, TensorSource]:
    """Tensors of open files under other names.

    Args:
        files: must stay open until all is written.
        names: ``{name in the files: new name}``.
        dtype: to write in; the files' own by default.
    """
    return {
        new: TensorSource(
            shape=files.shapes[old],
            dtype=dtype or files.dtypes[old],
            read=lambda old=old: files.copy(old),  # type: ignore[misc]
        )
        for old, new in names.items()
    }


def from_tensors(
    tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None
) -> dict[str, TensorSource]:
    """Tensors in memory, by name; ``dtype`` as in ``from_files``."""
    return {
        name: TensorSource(
            shape=tuple(tensor.shape),
            dtype=dtype or tensor.dtype,
            read=lambda tensor=tensor: tensor.detach(),  # type: ignore[misc]
        )
        for name, tensor in tensors.items()
    }


def write_stream(
    path: Path, tensors: Mapping[str, TensorSource], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file; it appears under its name when it is complete.

    Args:
        path: the file; replaced if it exists.
        tensors: by name. They are read one by one, wide number formats first, so that each is
            aligned in the file.
        metadata: text stored in the header.

    Raises:
        UsageError: the folder does not exist, a number format that weights do not have, or one
            that numbers are too large for.
        UnsupportedError: a machine that stores numbers with the high byte first.
    """
    if sys.byteorder != "little":
        raise UnsupportedError("safetensors", expected="a little-endian machine", got="another")
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_header(ordered, {"format": "pt", **(metadata or {})}))
        for name, source in ordered.items():
            tensor = _cast(name, source.read(), source.dtype)
            assert tuple(tensor.shape) == source.shape, name
            file.write(tensor.flatten().view(torch.uint8).numpy().data)


def write_folder(
    folder: Path,
    tensors: Mapping[str, TensorSource],
    *,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a folder as diffusers does: one file, or shards with an index; the files written.

    Files of the same kind from before are replaced, shards and index that are left over too.

    Args:
        folder: must exist.
        tensors: by name.
        max_shard_bytes: a new file is begun where this size would be passed.
        metadata: text stored in every header.

    Raises:
        UsageError: see ``write_stream``; or a size below 1.
    """
    shards = split_shards({n: s.num_bytes for n, s in tensors.items()}, max_shard_bytes)
    if len(shards) == 1:
        path = folder / f"{STEM}.safetensors"
        write_stream(path, tensors, metadata=metadata)
        remove_leftovers(folder, {path.name})
        return [path]
    weight_map: dict[str, str] = {}
    written = []
    for number, names in enumerate(shards, start=1):
        path = folder / f"{STEM}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_stream(path, {name: tensors[name] for name in names}, metadata=metadata)
        weight_map |= dict.fromkeys(names, path.name)
        written.append(path)
    total = sum(source.num_bytes for source in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / INDEX_NAME, index)
    written.append(folder / INDEX_NAME)
    remove_leftovers(folder, {path.name for path in written})
    return written


def remove_leftovers(folder: Path, written: Collection[str]) -> None:
    """Remove what an earlier ``write_folder`` left: a reader would take its index for the new one.

    Args:
        folder: written into.
        written: names of the files that belong there now.
    """
    for old in folder.iterdir():
        if _OF_FOLDER.fullmatch(old.name) and old.name not in written:
            old.unlink()


def split_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names in order, cut where the sum of their sizes would pass ``max_bytes``.

    A tensor that is larger by itself gets a file of its own.

    Raises:
        UsageError: ``max_bytes`` is below 1.
    """
    if max_bytes < 1:
        raise UsageError("shard size", expected="at least 1 byte", got=str(max_bytes))
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a JSON file; it appears under its name when it is complete."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as it is written; numbers must not become infinite on the way."""
    cast = tensor.to(device="cpu", dtype=dtype).contiguous()
    narrower = torch.finfo(dtype).max < torch.finfo(tensor.dtype).max
    if narrower and bool(cast.isinf().any()) and not bool(tensor.isinf().any()):
        raise UsageError(
            f"dtype of {name!r}",
            expected=f"one that holds {float(tensor.abs().max()):.3g}",
            got=f"{dtype}, which ends at {torch.finfo(dtype).max:.3g}",
            remedy="Choose bfloat16 or float32.",
        )
    return cast


def _header(tensors: Mapping[str, TensorSource], metadata: Mapping[str, str]) -> bytes:
    record: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, source in tensors.items():
        end = offset + source.num_bytes
        record[name] = {
            "dtype": _dtype_name(name, source.dtype),
            "shape": list(source.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(record, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _dtype_name(name: str, dtype: torch.dtype) -> str:
    if dtype not in _NAMES:
        known = ", ".join(str(known) for known in _NAMES)
        raise UsageError(f"dtype of {name!r}", expected=f"one of {known}", got=str(dtype))
    return _NAMES[dtype]
