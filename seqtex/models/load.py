"""Models by name or folder: config, weights, and what is said about them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqtex_backbones.codecs.protocol import Codec, codec_from_config
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.text import TextEncoder, load_text_encoder
from seqtex_core import checkpoint
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.transformer import SeqTexTransformer

from ..manifest import ModelRecord, file_sha256
from .config import CODEC_WEIGHTS_NAME, WEIGHTS_NAME, ModelConfig
from .folder import BUILT_IN, model_folder


@dataclass(frozen=True, kw_only=True, eq=False)
class SeqTexModel:
    """A model ready to run.

    Args:
        config: what it is.
        transformer: the doubled backbone, in evaluation mode.
        codec: images to latents and back.
        record: name and hash, for manifests; ``notes`` holds "untrained" for seeded weights.
        text_encoder: of models that take a prompt.
    """

    config: ModelConfig
    transformer: SeqTexTransformer
    codec: Codec
    record: ModelRecord
    text_encoder: TextEncoder | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the weights come from a file, not from a seed."""
        return "untrained" not in self.record.notes

    @property
    def state(self) -> str:
        """One word or two on the weights, for the user."""
        return "trained" if self.is_trained else "untrained: seeded random weights"

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformer's weights."""
        return next(self.transformer.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.transformer.parameters()).device

    def encode_text(self, prompt: str | None) -> Tensor | None:
        """Text rows ``[1, S, text_dim]`` for the transformer; ``None`` gives all-zero rows.

        Raises:
            UsageError: a prompt for a model without a text encoder.
        """
        self.check_prompt(prompt)
        return None if self.text_encoder is None else self.text_encoder.encode([prompt or ""])

    def check_sizes(self, **sizes: int | None) -> None:
        """Refuse sizes in pixels that the codec and the transformer cannot cut into tokens.

        Args:
            sizes: by the setting's name, such as ``view_size=512``; ``None`` is not checked.

        Raises:
            UsageError: not a multiple of the token's edge in pixels.
        """
        multiple = self.codec.spatial_factor * max(self.transformer.spec.patch_size[1:])
        for name, size in sizes.items():
            if size is not None and size % multiple:
                near = max(round(size / multiple), 1) * multiple
                raise UsageError(
                    name,
                    expected=f"a multiple of {multiple} with this model",
                    got=str(size),
                    remedy=f"The nearest is {near}.",
                )

    def check_prompt(self, prompt: str | None) -> None:
        """Refuse text that the model cannot read; costs nothing.

        Raises:
            UsageError: a prompt for a model without a text encoder.
        """
        if prompt and self.text_encoder is None:
            raise UsageError(
                "prompt",
                expected="none: this model was made without text",
                got=repr(prompt),
                remedy="Leave out --prompt; the reference image decides.",
            )


def load_model(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SeqTexModel:
    """A model by built-in name or from a local folder.

    A built-in model without trained weights gets seeded random ones and is marked "untrained"; a
    folder without weights is an error.

    Args:
        name_or_path: name or folder.
        device: where the transformer goes.
        dtype: of its weights.

    Raises:
        WeightsError: nothing there, or weights that do not fit the config.
    """
    folder = model_folder(name_or_path)
    config = ModelConfig.read(folder)
    weights = folder / WEIGHTS_NAME
    built_in = str(name_or_path) in BUILT_IN
    if not weights.is_file() and not built_in:
        raise WeightsError(
            f"model {folder}", expected=f"weights in {WEIGHTS_NAME}", got="no such file"
        )
    transformer = build_transformer(config)
    if weights.is_file():
        checkpoint.load_model(transformer, weights)
        record = ModelRecord(name=config.name, sha256=file_sha256(weights))
    else:
        digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode()).hexdigest()
        record = ModelRecord(name=config.name, sha256=digest, notes=("untrained",))
    text_encoder = None
    if config.text_encoder is not None:
        text_encoder = load_text_encoder(folder / config.text_encoder, device=device)
    return SeqTexModel(
        config=config,
        transformer=transformer.to(device=device, dtype=dtype).eval(),
        codec=load_codec(folder, config, device=device),
        record=record,
        text_encoder=text_encoder,
    )


def load_codec(folder: Path, config: ModelConfig, *, device: torch.device | str = "cpu") -> Codec:
    """The codec of a model folder, with its weights if it has any.

    Args:
        folder: holds ``codec.safetensors`` if the codec is a network.
        config: of the model.
        device: where such a network goes.

    Raises:
        WeightsError: the weights are missing, or of another codec.
    """
    codec = codec_from_config(config.codec)
    if isinstance(codec, nn.Module):
        weights = folder / CODEC_WEIGHTS_NAME
        if not weights.is_file():
            raise WeightsError(
                f"codec of model {folder}",
                expected=f"the weights of {config.codec['codec']} in {CODEC_WEIGHTS_NAME}",
                got="no such file",
                remedy="Write them with seqtex_core.checkpoint.save_model(codec, path).",
            )
        checkpoint.load_model(codec, weights)
        codec.to(device)
    return codec


def build_transformer(config: ModelConfig, **options: Any) -> SeqTexTransformer:
    """The model's transformer with random weights drawn from the config's seed.

    The global random state is left as it was.

    Args:
        config: what to build.
        options: passed on to ``SeqTexTransformer``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SeqTexTransformer(
            entry_from_config(config.backbone).build(), config.decoupled, **options
        )
