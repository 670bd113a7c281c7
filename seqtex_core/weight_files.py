"""Safetensors files as one table of tensors: headers first, tensors when asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import UsageError, WeightsError
from .whole_files import replacing
from .wrapper_names import without_wrappers

_LOG = logging.getLogger(__name__)

PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Number formats of weights, by their names in safetensors headers."""


_ORIGINALS = "Quantised checkpoints are not supported; use the original weights."


class WeightFiles:
    """Tensors of one or several safetensors files, by name.

    Opening reads the headers only: ``shapes``, ``dtypes`` and ``metadata``. Use as a context
    manager.

    Args:
        paths: the files; no tensor may be in two of them.

    Raises:
        WeightsError: not safetensors, damaged, missing, or a name that occurs twice.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._stack = ExitStack()
        self._owner: dict[str, Any] = {}
        self._stored: dict[str, str] = {}
        self._spans: dict[str, tuple[Path, int, int]] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.metadata: dict[str, str] = {}
        try:
            for path in self.paths:
                self._open(path)
        except BaseException:
            self._stack.close()
            raise

    def unwrap(self) -> None:
        """From now on, names without what was put around the model; a log message tells it.

        Raises:
            WeightsError: two tensors of one name without it.
        """
        bare = without_wrappers(self.shapes)
        changed = [name for name in bare if bare[name] != name]
        if not changed:
            return
        where = ", ".join(path.name for path in self.paths[:2]) + ", ..." * (len(self.paths) > 2)
        if len(set(bare.values())) < len(bare):
            raise WeightsError(
                where,
                expected="every tensor once",
                got=f"{len(bare)} tensors under {len(set(bare.values()))} names without wrappers",
            )
        self._owner = {bare[name]: owner for name, owner in self._owner.items()}
        self._stored = {bare[name]: stored for name, stored in self._stored.items()}
        self._spans = {bare[name]: span for name, span in self._spans.items()}
        self.shapes = {bare[name]: shape for name, shape in self.shapes.items()}
        self.dtypes = {bare[name]: dtype for name, dtype in self.dtypes.items()}
        _LOG.warning(
            "%s: %d of %d tensors have names with a wrapper, which is left out: %s is read as %s",
            *(where, len(changed), len(bare), changed[0], bare[changed[0]]),
        )

    def read(self, name: str) -> Tensor:
        """The tensor called ``name``, on CPU, in the dtype of the file.

        It is the file's own memory, mapped: pages are loaded when they are used.
        """
        tensor: Tensor = self._owner[name].get_tensor(self._stored[name])
        return tensor

    def load(self, name: str, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The tensor called ``name`` where it is wanted.

        One that must be converted or moved is read through one buffer, without mapping: nothing of
        the file stays in memory beside the result.
        """
        if dtype == self.dtypes[name] and torch.device(device).type == "cpu":
            return self.read(name)
        size = self._spans[name][2]
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=torch.uint8)
        return self._read_into(self._buffer, name).to(device=device, dtype=dtype)

    def copy(self, name: str) -> Tensor:
        """The tensor called ``name`` in memory of its own, which is free again when it goes."""
        return self._read_into(torch.empty(self._spans[name][2], dtype=torch.uint8), name)

    def _read_into(self, buffer: Tensor, name: str) -> Tensor:
        path, start, size = self._spans[name]
        taken = buffer[:size]
        with path.open("rb") as file:
            file.seek(start)
            file.readinto(taken.numpy().data)
        return taken.view(self.dtypes[name]).view(self.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._owner.clear()
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def _open(self, path: Path) -> None:
        refuse_pickle(path)
        try:
            reader = self._stack.enter_context(safe_open(str(path), framework="pt"))
        except FileNotFoundError as error:
            raise WeightsError(str(path), expected="a file", got="no such file") from error
        except (SafetensorError, OSError) as error:
            if _is_gguf(path):
                raise WeightsError(
                    str(path), expected="a safetensors file", got="GGUF", remedy=_ORIGINALS
                ) from error
            raise WeightsError(
                str(path),
                expected="a safetensors file",
                got=f"one that cannot be read ({error})",
                remedy="Download or copy it again.",
            ) from error
        self.metadata |= reader.metadata() or {}
        spans = _spans(path)
        for name in reader.keys():  # noqa: SIM118  not a mapping
            if name in self._owner:
                raise WeightsError(
                    str(path),
                    expected="every tensor once",
                    got=f"{name!r} in two files",
                    remedy="Name one of them, or the variant of a folder's files (variant='fp16').",
                )
            header = reader.get_slice(name)
            if header.get_dtype() not in DTYPES:
                raise WeightsError(
                    f"{name!r} in {path}",
                    expected="float64, float32, float16 or bfloat16",
                    got=header.get_dtype(),
                    remedy=_ORIGINALS,
                )
            self._owner[name], self._stored[name] = reader, name
            self._spans[name] = (path, *spans[name])
            self.shapes[name] = tuple(header.get_shape())
            self.dtypes[name] = DTYPES[header.get_dtype()]


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _spans(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and number of bytes of every tensor in a file that safetensors has accepted."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    offsets = {n: e["data_offsets"] for n, e in header.items() if n != "__metadata__"}
    return {name: (8 + length + first, last - first) for name, (first, last) in offsets.items()}


def refuse_pickle(path: Path) -> None:
    """Refuse a file whose name says that it is a pickle.

    Raises:
        WeightsError: the suffix is one of ``PICKLES``.
    """
    if path.suffix.lower() in PICKLES:
        raise WeightsError(
            str(path),
            expected="safetensors",
            got=f"a pickle ({path.suffix}), which can run any code when it is opened",
            remedy="Convert it to safetensors where you trust it, and give the converted file.",
        )


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file under a temporary name, then rename it; equal contents, equal bytes.

    Args:
        path: the file; replaced if it exists.
        tensors: by name; no two may share memory.
        metadata: text stored in the header.

    Raises:
        UsageError: the folder does not exist, the path is a folder, or metadata that is not text.
    """
    texts = dict(metadata or {})
    if wrong := sorted(str(key) for key, value in texts.items() if not isinstance(value, str)):
        raise UsageError(
            f"metadata of {path.name}", expected="texts", got=f"other values of {', '.join(wrong)}"
        )
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={"format": "pt", **texts})
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put the texts of a header into the order of their names; safetensors writes them in any."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # the same text in another order, padded with spaces
            file.seek(8)
            file.write(text.ljust(length))
