"""Safetensors files as one table of tensors: headers first, tensors when asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import UsageError, WeightsError

PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class WeightFiles:
    """Tensors of one or several safetensors files, by name.

    Opening reads the headers only. Use as a context manager.

    Args:
        paths: the files; no tensor may be in two of them.

    Raises:
        WeightsError: not safetensors, damaged, missing, or a name that occurs twice.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._stack = ExitStack()
        self._owner: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.metadata: dict[str, str] = {}
        try:
            for path in self.paths:
                self._open(path)
        except BaseException:
            self._stack.close()
            raise

    def read(self, name: str) -> Tensor:
        """The tensor called ``name``, on CPU, in the dtype of the file."""
        tensor: Tensor = self._owner[name].get_tensor(name)
        return tensor

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

    def _open(self, path: Path) -> None:
        refuse_pickle(path)
        try:
            reader = self._stack.enter_context(safe_open(str(path), framework="pt"))
        except FileNotFoundError as error:
            raise WeightsError(str(path), expected="a file", got="no such file") from error
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                str(path),
                expected="a safetensors file",
                got=f"one that cannot be read ({error})",
                remedy="Download or copy it again.",
            ) from error
        self.metadata |= reader.metadata() or {}
        for name in reader.keys():  # noqa: SIM118  not a mapping
            if name in self._owner:
                raise WeightsError(
                    str(path), expected="every tensor once", got=f"{name!r} in two files"
                )
            header = reader.get_slice(name)
            if header.get_dtype() not in _FLOATS:
                raise WeightsError(
                    f"{name!r} in {path}",
                    expected="float64, float32, float16 or bfloat16",
                    got=header.get_dtype(),
                    remedy="Quantised checkpoints are not supported; use the original weights.",
                )
            self._owner[name] = reader
            self.shapes[name] = tuple(header.get_shape())


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
    """Write a safetensors file under a temporary name, then rename it.

    Args:
        path: the file; replaced if it exists.
        tensors: by name; no two may share memory.
        metadata: text stored in the header.

    Raises:
        UsageError: the folder does not exist.
    """
    if not path.parent.is_dir():
        raise UsageError(str(path), expected="a path in a folder that exists", got="none such")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(contiguous, temporary, metadata={"format": "pt", **(metadata or {})})
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
