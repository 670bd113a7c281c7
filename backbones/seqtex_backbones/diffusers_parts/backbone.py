"""A transformer of diffusers taken apart: its key names, and its own forward to compare with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceInputs:
    """What the original forward is given; see ``Backbone.reference_velocity``.

    Args:
        dtype: of the weights, and of ``text``, ``image`` and ``pooled_text``.
        latents: ``x_sigma``, ``[B, C, F, H, W]``, in the dtype that the caller has.
        sigma: ``[B]`` or, where the model takes it, ``[B, F]``.
        levels: the same for every frame, ``[B, F]``.
        text: ``[B, S, text_dim]``.
        image: ``[B, S', image_dim]``, or ``None``.
        text_mask: boolean ``[B, S]``, or ``None``.
        pooled_text: ``[B, pooled_dim]``, or ``None``.
    """

    dtype: torch.dtype
    latents: Tensor
    sigma: Tensor
    levels: Tensor
    text: Tensor
    image: Tensor | None
    text_mask: Tensor | None
    pooled_text: Tensor | None

    def text_shown(self) -> Tensor:
        """Which text rows may be read, boolean ``[B, S]``, for models that must be told."""
        if self.text_mask is not None:
            return self.text_mask
        return torch.ones(self.text.shape[:2], dtype=torch.bool, device=self.text.device)


class DiffusersBackbone(Backbone):
    """A diffusers transformer, taken apart.

    Subclasses make shell, blocks and spec, and say how the original is called.

    Args:
        model: a transformer of diffusers. Its blocks and embedders are taken over; do not use it on
            its own afterwards.

    Attributes:
        renamed: beginnings of the shell's key names, with what they are in diffusers.
        block_list: what the list of blocks is called there.
        config: of the model.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    block_list: ClassVar[str] = "transformer_blocks"
    reference_levels_per_frame: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        parts: Any = model
        self.config: dict[str, Any] = dict(parts.config)
        self._model_class: Any = type(model)

    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights under the key names of diffusers."""
        state = {self._shell_key(key): value for key, value in shell.items()}
        for index, block in enumerate(blocks):
            name = self.block_name(index)
            state |= {f"{name}.{key}": value for key, value in block.items()}
        return state

    def block_name(self, index: int) -> str:
        """What a block is called in diffusers."""
        return f"{self.block_list}.{index}"

    def reference_velocity(
        self,
        state: Mapping[str, Tensor],
        latents: Tensor,
        sigma: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        *,
        text_mask: Tensor | None = None,
        pooled_text: Tensor | None = None,
    ) -> Tensor:
        """Velocity by the forward of diffusers.

        Raises:
            UsageError: inputs that the model does not have, or levels per frame where the original
                takes one for all of them.
        """
        dtype = state["proj_out.weight"].dtype
        inputs = ReferenceInputs(
            dtype=dtype,
            latents=latents,
            sigma=sigma,
            levels=sigma if sigma.ndim == 2 else sigma[:, None].expand(-1, latents.shape[2]),
            text=text.to(dtype),
            image=None if image is None else image.to(dtype),
            text_mask=text_mask,
            pooled_text=None if pooled_text is None else pooled_text.to(dtype),
        )
        self._check_reference(inputs)
        model = self.reference_model(state, latents.device)
        with torch.no_grad():
            predicted = self.reference_prediction(model, inputs)
        return self.shell.to_velocity(predicted, latents, inputs.levels)

    @abstractmethod
    def reference_prediction(self, model: Any, inputs: ReferenceInputs) -> Tensor:
        """The original model's own prediction, ``[B, C, F, H, W]``; without gradients.

        Args:
            model: from :meth:`reference_model`.
            inputs: checked.
        """

    def reference_model(self, state: Mapping[str, Tensor], device: torch.device) -> Any:
        """The original model with the given weights.

        Args:
            state: under the key names of diffusers.
            device: where it computes.
        """
        with torch.device("meta"):
            model = self._model_class.from_config(self.reference_config())
        self.complete_reference(model, device)
        model.load_state_dict(dict(state), strict=True, assign=True)
        return model

    def reference_config(self) -> dict[str, Any]:
        """The config of the original model."""
        return self.config

    def complete_reference(self, model: Any, device: torch.device) -> None:
        """What a model made without memory lacks besides its weights; nothing in most."""
        del model, device

    def _shell_key(self, key: str) -> str:
        for prefix, original in self.renamed.items():
            if key.startswith(prefix):
                return original + key.removeprefix(prefix)
        return key

    def _check_reference(self, inputs: ReferenceInputs) -> None:
        spec = self.spec
        refused = {
            "levels per frame": inputs.sigma.ndim == 2 and not self.reference_levels_per_frame,
            "an image": inputs.image is not None and spec.image_dim is None,
            "a text mask": inputs.text_mask is not None and not spec.masks_text,
            "a summary of the text": inputs.pooled_text is not None and spec.pooled_dim is None,
            "no summary of the text": inputs.pooled_text is None and spec.pooled_dim is not None,
        }
        for name, found in refused.items():
            if found:
                raise UsageError(
                    "reference", expected=f"what the original {spec.name} reads", got=name
                )


class HeadSizes(TypedDict):
    """Fields of ``BackboneSpec`` that diffusers says in two numbers."""

    dim: int
    num_heads: int
    head_dim: int


def head_sizes(config: Any) -> HeadSizes:
    """The width of a model, from the config of its heads."""
    heads, head_dim = int(config.num_attention_heads), int(config.attention_head_dim)
    return HeadSizes(dim=heads * head_dim, num_heads=heads, head_dim=head_dim)


def require_config(family: str, fields: Mapping[str, tuple[Any, Any]], *, remedy: str = "") -> None:
    """Refuse a model that the adapter cannot take apart.

    Args:
        family: what the models are called.
        fields: by name in the config, what is found and what the adapter needs.
        remedy: what to do about it.

    Raises:
        UsageError: the first field that is another.
    """
    for name, (found, needed) in fields.items():
        if found != needed:
            subject = f"{name} of the {family} config"
            raise UsageError(subject, expected=repr(needed), got=repr(found), remedy=remedy)
