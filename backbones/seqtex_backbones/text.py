"""Text encoders: prompts to the rows that cross-attention reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from seqtex_core.errors import MissingDependencyError, WeightsError

Padding = Literal["zero", "cut", "kept"]
"""Rows beyond the prompt: zeros, the encoder reading the prompt alone (Wan, Cosmos) or what pads it
as well (LTX-Video); or what the encoder makes of padding (CogVideoX)."""


class TextEncoder(Protocol):
    """Prompts to text rows."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows ``[B, S, E]``."""
        ...


class T5TextEncoder:
    """umT5 or T5 as video models use it: a fixed number of rows that are read without a mask.

    Args:
        tokenizer: a transformers tokenizer.
        model: a transformers T5 or umT5 encoder.
        max_length: rows; longer prompts are cut.
        padding: ``"zero"``: padding is masked in the encoder and its rows are zero; ``"cut"``: no
            mask, its rows are zero; ``"kept"``: no mask, its rows are used.
    """

    def __init__(
        self, tokenizer: Any, model: Any, *, max_length: int = 512, padding: Padding = "zero"
    ) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self.max_length = max_length
        self.padding = padding

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows ``[B, max_length, E]``; beyond each prompt's length as ``padding`` says."""
        batch = self.tokenizer(
            [" ".join(prompt.split()) for prompt in prompts],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        mask = batch.attention_mask.to(device)
        seen = mask if self.padding == "zero" else None
        rows: Tensor = self.model(batch.input_ids.to(device), attention_mask=seen).last_hidden_state
        return rows if self.padding == "kept" else rows * mask.unsqueeze(-1).to(rows.dtype)


def load_text_encoder(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_length: int = 512,
    padding: Padding = "zero",
) -> TextEncoder:
    """The encoder in a local folder with ``tokenizer/`` and ``text_encoder/`` (diffusers' layout).

    Args:
        folder: holds both.
        device: where the encoder goes.
        dtype: of its weights.
        max_length: rows that the backbone was trained with.
        padding: see ``T5TextEncoder``.

    Raises:
        MissingDependencyError: transformers, or what the tokenizer needs, is not installed.
        WeightsError: a folder is missing, or the weights are not safetensors.
    """
    try:
        from transformers import AutoConfig, AutoTokenizer, T5EncoderModel, UMT5EncoderModel
    except ImportError as error:
        raise MissingDependencyError(
            "transformers",
            expected="an installed package, for text prompts",
            got="none",
            remedy="pip install transformers sentencepiece",
        ) from error
    folder = Path(folder)
    for part in ("tokenizer", "text_encoder"):
        if not (folder / part).is_dir():
            raise WeightsError(
                f"text encoder {folder}", expected=f"a folder {part}/ inside", got="no such folder"
            )
    kind = AutoConfig.from_pretrained(folder / "text_encoder", local_files_only=True).model_type
    encoder_class = UMT5EncoderModel if kind == "umt5" else T5EncoderModel
    try:
        model = encoder_class.from_pretrained(
            folder / "text_encoder", dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except OSError as error:
        raise WeightsError(
            f"text encoder {folder}", expected="safetensors weights", got=str(error)
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (ImportError, ValueError) as error:
        raise MissingDependencyError(
            f"tokenizer in {folder}",
            expected="one that transformers can read here",
            got=(str(error).strip().splitlines() or [repr(error)])[0],
            remedy="pip install sentencepiece",
        ) from error
    return T5TextEncoder(tokenizer, model.to(device).eval(), max_length=max_length, padding=padding)
