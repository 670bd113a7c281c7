"""Prompts as rows: from an encoder that is held only while it works, or from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from seqtex_backbones.text import Padding, TextEncoder, load_text_encoder
from seqtex_core.errors import WeightsError
from seqtex_core.weight_files import WeightFiles, write_tensors

from .prompt_file import PromptFile, check_prompts


class VisitingTextEncoder:
    """A text encoder that is loaded for new prompts and dropped after them; rows are kept.

    Args:
        folder: holds ``tokenizer/`` and ``text_encoder/``.
        device: where it runs.
        dtype: of its weights.
        max_length: rows that the backbone was trained with.
        padding: what the rows beyond a prompt are.
        default_prompt: what a run without a prompt reads; ``None`` for all-zero rows, so that no
            encoder is loaded unasked.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        max_length: int = 512,
        padding: Padding = "zero",
        default_prompt: str | None = None,
    ) -> None:
        self.default_prompt = default_prompt
        self.folder = folder
        self.device = torch.device(device)
        self.dtype = dtype
        self.max_length = max_length
        self.padding: Padding = padding
        self._rows: dict[str, Tensor] = {}

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows ``[B, max_length, E]``, on the CPU; see :func:`load_text_encoder` for the errors."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]
        if new:
            encoder = load_text_encoder(
                self.folder,
                device=self.device,
                dtype=self.dtype,
                max_length=self.max_length,
                padding=self.padding,
            )
            for prompt in new:
                self._rows[prompt] = encoder.encode([prompt]).cpu()
            del encoder
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return torch.cat([self._rows[prompt] for prompt in prompts])


class CachedText:
    """Encoded prompts from a file.

    Args:
        rows: by prompt, ``[S, E]``.
        max_length: rows that the backbone was trained with; shorter ones are filled with zeros.
        source: of the rows, for messages.
    """

    def __init__(self, rows: Mapping[str, Tensor], *, max_length: int, source: str) -> None:
        self.rows = dict(rows)
        self.max_length = max_length
        self.source = source
        for row in self.rows.values():
            if row.shape[0] > max_length:
                raise WeightsError(
                    source, expected=f"at most {max_length} text rows", got=str(row.shape[0])
                )

    @property
    def default_prompt(self) -> str:
        """The first prompt of the file: what a run without a prompt uses."""
        return next(iter(self.rows))

    def check(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that the file does not have.

        Raises:
            UsageError: one that it does not have.
        """
        check_prompts(prompts, self.rows, source=self.source)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows ``[B, max_length, E]``.

        Raises:
            UsageError: a prompt that the file does not have.
        """
        self.check(prompts)
        filled = [
            functional.pad(rows, (0, 0, 0, self.max_length - len(rows)))
            for rows in (self.rows[prompt] for prompt in prompts)
        ]
        return torch.stack(filled)

    @classmethod
    def read(cls, path: Path, *, max_length: int, width: int) -> CachedText:
        """The prompts of a file by :func:`write_prompts`, or one tensor of rows by others.

        Args:
            path: safetensors file.
            max_length: see the class.
            width: of the rows.

        Raises:
            WeightsError: no such file, or other tensors than text rows of this width.
        """
        held = PromptFile.of(path)
        held.check_rows(width)
        with WeightFiles([path]) as files:
            tensors = [files.read(name) for name in sorted(files)]
        rows = [t[0] if t.ndim == 3 else t for t in tensors]
        return cls(
            dict(zip(held.names, rows, strict=True)), max_length=max_length, source=path.name
        )


def write_prompts(path: Path, encoder: TextEncoder, prompts: Sequence[str]) -> None:
    """Encode prompts into a file for :meth:`CachedText.read`.

    Args:
        path: safetensors file; replaced if it exists.
        encoder: of the backbone that will read them.
        prompts: the first is what a run without a prompt uses.
    """
    encoded = encoder.encode(prompts).cpu()
    rows = {f"prompt{index:04d}": row.clone() for index, row in enumerate(encoded)}
    write_tensors(path, rows, metadata={"prompts": json.dumps(list(prompts))})
