"""A loaded model: what it can be asked and told before and while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from seqtex_backbones.codecs.protocol import Codec
from seqtex_backbones.text import TextEncoder
from seqtex_core.errors import UsageError
from seqtex_core.tasks import PROJECTION, TASKS
from seqtex_core.transformer import SeqTexTransformer

from ..fusion import Fusion
from ..manifest import ModelRecord
from .config import ModelConfig
from .memory import MemoryPlan
from .memory_moves import Residence
from .run_sizes import check_multiple, token_pixels
from .sources import missing_encoder
from .text import CachedText


@dataclass(frozen=True, kw_only=True, eq=False)
class SeqTexModel:
    """A model ready to run.

    Args:
        config: what it is.
        transformer: the doubled backbone, in evaluation mode.
        codec: images to latents and back.
        record: name and hash, for manifests; ``notes`` begins with "untrained" where the weights
            have not learned to make textures, and then says what they are.
        text_encoder: of models that take a prompt.
        residence: where the parts work, and which are there only while they do.
        memory: how a run holds its memory, where that was planned.
        fp8_layers: linear layers that compute in 8 bits, an approximation.
        fusion: weighs the model's texture against other ways to continue what was seen.
    """

    config: ModelConfig
    transformer: SeqTexTransformer
    codec: Codec
    record: ModelRecord
    text_encoder: TextEncoder | None = None
    residence: Residence = field(default_factory=lambda: Residence("cpu"))
    memory: MemoryPlan | None = None
    fp8_layers: int = 0
    fusion: Fusion | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the weights have learned to make textures."""
        return "untrained" not in self.record.notes

    @property
    def state(self) -> str:
        """A few words on the weights, for the user."""
        if self.is_trained:
            return "trained"
        return "untrained: " + (self.record.notes[1:] or ("seeded random weights",))[0]

    @property
    def dtype(self) -> torch.dtype:
        """That the transformer computes in."""
        return next(self.transformer.geometry.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the model works."""
        return self.residence.device

    @property
    def caches_geometry(self) -> bool | None:
        """What ``SeqTexTransformer.prepare`` is told: ``None`` is its own choice."""
        recast = self.memory is not None and self.memory.measures.recast_geometry
        return False if recast else None

    def encode_prompts(self, prompts: Sequence[str | None]) -> list[Tensor | None]:
        """Text rows ``[1, S, text_dim]`` per prompt for the transformer; ``None``: all-zero rows.

        Raises:
            UsageError: a prompt that the model cannot read.
        """
        for prompt in prompts:
            self.check_prompt(prompt)
        encoder = self.text_encoder
        if encoder is None:
            return [None for _ in prompts]
        default = getattr(encoder, "default_prompt", "")
        words = [default if prompt is None else prompt for prompt in prompts]
        known = [word for word in words if word is not None]
        rows = iter(encoder.encode(known).split(1)) if known else iter(())
        return [None if word is None else next(rows) for word in words]

    def text_state(self, prompt: str | None) -> str:
        """What the model reads as its text, for the user."""
        default = getattr(self.text_encoder, "default_prompt", "")
        if self.text_encoder is None or (prompt is None and default is None):
            unseen = self.config.text_padding == "kept"
            return "none, all-zero rows" + (", unlike in the backbone's training" * unseen)
        return repr(default if prompt is None else prompt)

    def check_sizes(self, **sizes: int | None) -> None:
        """Refuse sizes in pixels that the codec and the transformer cannot cut into tokens.

        Args:
            sizes: by the setting's name, such as ``view_size=512``; ``None`` is not checked.

        Raises:
            UsageError: not a multiple of the token's edge in pixels.
        """
        check_multiple(sizes, token_pixels=token_pixels(self.codec, self.transformer.spec))

    def check_prompt(self, prompt: str | None) -> None:
        """Refuse text that the model cannot read; costs nothing.

        Raises:
            UsageError: a prompt for a model without a text encoder, or one that was not encoded.
        """
        if prompt and self.text_encoder is None:
            raise missing_encoder(self.record.name, prompt)
        if prompt is not None and isinstance(self.text_encoder, CachedText):
            self.text_encoder.check([prompt])

    def check_task(self, task: str | None) -> None:
        """Refuse a task that the model's textures are not made by; ``None`` is its own.

        Raises:
            UsageError: no projection frame, from which this model's textures are measured.
        """
        if task is None or self.config.texture_base != "projection":
            return
        if PROJECTION not in TASKS.get(task)(num_views=4).groups:
            raise UsageError(
                "task",
                expected=f"one with a projection frame, as {self.config.task}: "
                "this model's textures are measured from it",
                got=task,
            )

    def moved(self, device: torch.device, dtype: torch.dtype | None = None) -> SeqTexModel:
        """The model on another device or in another dtype; its modules are the same ones.

        Raises:
            UsageError: its blocks stream, which was arranged for one device, or its layers compute
                in 8 bits, which a dtype would undo.
        """
        if self.fp8_layers:
            raise UsageError(
                "device, dtype",
                expected="those that the model was loaded for: it computes in 8 bits",
                got=f"{device}, {dtype}",
                remedy="Load the model again with device=...",
            )
        if self.memory is not None and self.memory.measures.stream_blocks:
            raise UsageError(
                "device",
                expected="the one that the model was loaded for: its blocks stream there",
                got=str(device),
                remedy="Load the model again with device=...",
            )
        if self.residence.visitors:
            self.transformer.to(dtype=dtype)
            return replace(self, residence=Residence(device, self.residence.visitors))
        self.transformer.to(device=device, dtype=dtype)
        for part in (self.codec, getattr(self.text_encoder, "model", None)):
            if isinstance(part, nn.Module):
                part.to(device)
        return replace(self, residence=Residence(device))
