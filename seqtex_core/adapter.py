"""The contract with a backbone: what a video diffusion transformer must be able to do.

A pretrained model is a weight container; the library owns the forward. An adapter takes the model
apart into one ``BackboneBlock`` per transformer block and one ``BackboneShell`` for all that
surrounds them, and says in a ``BackboneSpec`` what the numbers mean. It knows nothing of branches,
roles or tasks: a UV branch is a second set of the same objects.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from .attention import Attend
from .backbone_data import BackboneSpec as BackboneSpec
from .backbone_data import KeyValue as KeyValue
from .backbone_data import TextContext as TextContext
from .backbone_data import TimeEmbedding as TimeEmbedding
from .errors import UsageError
from .frames import Grid, StreamLayout, TokenLayout
from .query_key import QKNorm
from .rope import Rope

ModuleT = TypeVar("ModuleT", bound=nn.Module)

SHAREABLE = ("cross_attn", "patch_embed", "time_text", "proj_out")


class RowSublayers(ABC):
    """What one transformer block does to one set of rows: those of a stream, or the text rows.

    ``MUVBlock`` calls the parts in order: ``pre_attention``, projections, attention,
    ``post_attention``, ``feed_forward``. ``modulation`` is whatever the part's own ``modulation``
    returned; nobody else looks inside.
    """

    num_heads: int

    @property
    @abstractmethod
    def q_norm(self) -> QKNorm | None:
        """Norm of the queries; ``None`` for none."""

    @property
    @abstractmethod
    def k_norm(self) -> QKNorm | None:
        """Norm of the keys; ``None`` for none."""

    @abstractmethod
    def modulation(self, time: TimeEmbedding) -> Any:
        """The block's shifts, scales and gates, one row per frame."""

    @abstractmethod
    def pre_attention(self, hidden_states: Tensor, modulation: Any, rows: StreamLayout) -> Tensor:
        """Normalised and modulated input of self-attention, ``[B, L, D]``."""

    @abstractmethod
    def query(self, normed: Tensor) -> Tensor:
        """Projected queries before norm and RoPE, ``[B, L, N*D]``."""

    @abstractmethod
    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys (before norm and RoPE) and values, each ``[B, L, N*D]``."""

    def query_key_value(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``query`` and ``key_value`` of the same rows."""
        return self.query(normed), *self.key_value(normed)

    @abstractmethod
    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: Any,
        rows: StreamLayout,
    ) -> Tensor:
        """The residual stream after self-attention.

        Args:
            hidden_states: the stream before it, ``[B, L, D]``.
            attended: what attention gives, ``[B, L, N, D]``.
            normed: what ``pre_attention`` gave, for sublayers that run beside attention.
            modulation: the part's own.
            rows: which row belongs to which frame.
        """

    @abstractmethod
    def feed_forward(self, hidden_states: Tensor, modulation: Any, rows: StreamLayout) -> Tensor:
        """The residual stream after the feed-forward sublayer."""


class BackboneBlock(nn.Module, RowSublayers):
    """The sublayers of one transformer block, for the rows of one stream.

    A model whose text is a context overrides the two methods of cross-attention, which comes
    between ``post_attention`` and ``feed_forward``. A model that attends text and video jointly
    overrides ``text_rows`` instead.

    Attributes:
        shareable: submodules, by sharing name, that a UV branch may share with its origin;
            ``"cross_attn"`` holds everything that ``cross_key_values`` computes with.
        common: submodules of which there is one for both branches, so that a copy refers to the
            same ones: what only text rows pass through after attention or what makes them (there
            is one text stream), and what places the tokens of both streams.
        joint_projections: linear layers, by name, that read the same rows and go through
            ``joint_projection.project``; each tuple may be made one product.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    common: ClassVar[tuple[str, ...]] = ()
    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = ()

    def own_lora_targets(self, spec: BackboneSpec) -> list[str]:
        """Those of ``spec.lora_targets`` that this block has."""
        layers = dict(self.named_modules())
        return [name for name in spec.lora_targets if name in layers]

    @classmethod
    def modulations(
        cls, blocks: Sequence[BackboneBlock], time: TimeEmbedding
    ) -> Sequence[Any] | None:
        """``modulation`` of all blocks at once, or ``None`` where each block makes its own.

        Only for inference, and only where what it is made of lies on the device of ``time``.

        Args:
            blocks: of one branch, in order.
            time: noise levels.
        """
        del blocks, time
        return None

    def text_rows(self) -> RowSublayers | None:
        """What the block does to text rows; ``None`` if text is only a context."""
        return None

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the context; constant over steps. Empty without cross-attention."""
        del context
        return ()

    def cross_attention(
        self,
        hidden_states: Tensor,
        key_values: tuple[KeyValue, ...],
        modulation: Any,
        rows: StreamLayout,
        attend: Attend,
    ) -> Tensor:
        """The residual stream after cross-attention; unchanged without it."""
        del key_values, modulation, rows, attend
        return hidden_states


class BackboneShell(nn.Module, ABC):
    """Everything around the blocks: patches in, time, text, positions, prediction out.

    Attributes:
        shareable: see ``BackboneBlock``.
        common: see ``BackboneBlock``.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    common: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of ``x_sigma`` ``[B, C, F, H, W]`` with sigma ``[B, F]``.

        The conversion of the library's ``x_sigma`` into the scale a backbone was trained with
        happens here.
        """

    @abstractmethod
    def new_latent_embed(self) -> nn.Module:
        """A fresh copy of the patch embedding, ``[B, C, F, H, W] -> [B, L, D]``, for geometry."""

    @abstractmethod
    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Embedding of the noise levels ``[B, F]``, in [0, 1], fp32.

        The text rows of joint models are a single frame whose level is ``text_sigma``. ``pooled``
        is what the text adds to every level, ``TextContext.pooled``.
        """

    @abstractmethod
    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """Context from text-encoder rows ``[B, S, text_dim]`` (and image-encoder rows).

        ``mask`` (boolean ``[B, S]``, or ``None`` for all) says which text rows may be read; it
        goes on into the context. ``pooled`` is the summary ``[B, pooled_dim]`` of the text, for
        backbones with ``spec.pooled_dim``.
        """

    def initial_text(self, context: TextContext, sigma: Tensor) -> Tensor:
        """Text rows of a joint model before the first block, ``[B, S, ...]``.

        Args:
            context: from ``encode_text``.
            sigma: the noise level of the text rows, ``[B, 1]``, for models that make them anew in
                every step.
        """
        del sigma
        return context.text

    @abstractmethod
    def rope(self, layout: TokenLayout) -> Mapping[str, Rope] | None:
        """Rotary tables per stream, rows in stream order; ``None`` for a model without RoPE."""

    def position_embedding(self, layout: TokenLayout) -> Mapping[str, Tensor] | None:
        """What is added to the tokens per stream, ``[L, D]``; ``None`` for models that rotate."""
        del layout
        return None

    @abstractmethod
    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """The model's own prediction per token, ``[B, L, patch * C]``, rows in stream order."""

    @abstractmethod
    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Prediction ``[B, C, F, H, W]`` of one group from its tokens ``[B, L, patch * C]``."""

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """``u = eps - x0`` from the model's own prediction; the identity for rectified flow."""
        del latents, sigma
        return prediction


class Backbone(ABC):
    """A pretrained model, taken apart.

    Attributes:
        spec: its numbers.
        shell: what surrounds the blocks.
        blocks: the blocks, in order.
        reference_levels_per_frame: whether ``reference_velocity`` takes a level for every frame;
            most originals take one for all of them.
    """

    reference_levels_per_frame: ClassVar[bool] = True

    spec: BackboneSpec
    shell: BackboneShell
    blocks: list[BackboneBlock]

    @abstractmethod
    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights of a shell and its blocks under the original model's own key names.

        Only renames: every tensor comes back as the same object, and entries that belong to no
        weight of the original (adapters) are renamed by the same rules. Works on any subset.
        """

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
        """What the original implementation predicts, as velocity; for the conformance suite.

        A model without one leaves it out; the checks against the original are skipped then.

        Args:
            state: weights under the original key names.
            latents: ``x_sigma``, ``[B, C, F, H, W]``.
            sigma: ``[B]`` or per frame ``[B, F]``.
            text: ``[B, S, text_dim]``.
            image: ``[B, S', image_dim]``, for backbones that read one.
            text_mask: boolean ``[B, S]``, for backbones with ``spec.masks_text``.
            pooled_text: ``[B, pooled_dim]``, for backbones with ``spec.pooled_dim``.

        Raises:
            NotImplementedError: there is none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no original")


def copy_for_branch(module: ModuleT, share: frozenset[str]) -> ModuleT:
    """A deep copy of a block or shell in which shared and common parts stay the same objects.

    Args:
        module: a ``BackboneBlock`` or ``BackboneShell``.
        share: any of ``SHAREABLE``.

    Raises:
        UsageError: an unknown sharing name.
    """
    unknown = sorted(share - set(SHAREABLE))
    if unknown:
        raise UsageError("uv_share", expected=f"names among {SHAREABLE}", got=str(unknown))
    shareable: Mapping[str, tuple[str, ...]] = getattr(module, "shareable", {})
    common: tuple[str, ...] = getattr(module, "common", ())
    names = [name for key, names in shareable.items() if key in share for name in names]
    names += common
    shared = [module.get_submodule(name) for name in names]
    return copy.deepcopy(module, {id(part): part for part in shared})
