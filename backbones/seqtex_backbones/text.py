"""Text encoders: prompts to the rows that cross-attention reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from seqtex_core.errors import MissingDependencyError, WeightsError


class TextEncoder(Protocol):
    """Prompts to text rows."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows ``[B, S, E]``, zero beyond each prompt's length."""
        ...


class T5TextEncoder:
    """umT5 or T5 as Wan uses it: 512 rows, zeros beyond the prompt, no mask.

    Args:
        tokenizer: a transformers tokenizer.
        model: a transformers T5 or umT5 encoder.
        max_length: rows; longer prompts are cut.
    """

    def __init__(self, tokenizer: Any, model: Any, *, max_length: int = 512) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self.max_length = max_length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows ``[B, max_length, E]``, zero beyond each prompt's length."""
        batch = self.tokenizer(
            [" ".join(prompt.split()) for prompt in prompts],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        mask = batch.attention_mask.to(device)
        rows = self.model(batch.input_ids.to(device), attention_mask=mask).last_hidden_state
        encoded: Tensor = rows * mask.unsqueeze(-1).to(rows.dtype)
        return encoded


def load_text_encoder(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_length: int = 512,
) -> TextEncoder:
    """The encoder in a local folder with ``tokenizer/`` and ``text_encoder/`` (diffusers' layout).

    Args:
        folder: holds both.
        device: where the encoder goes.
        dtype: of its weights.
        max_length: rows that the backbone was trained with.

    Raises:
        MissingDependencyError: transformers is not installed.
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
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return T5TextEncoder(tokenizer, model.to(device).eval(), max_length=max_length)
