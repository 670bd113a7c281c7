"""Geo-Attention: geometry is added to queries and keys, so that attention follows the surface.

The function and the module work in any diffusion transformer: self-attention, cross-attention to
rows of another length, and joint attention with text rows, which have no geometry and no position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..checks import check_attention, check_callable, check_like, check_shape, check_type
from ..errors import UsageError
from ..query_key import (
    GeometryOrder,
    QKNorm,
    check_geometry,
    check_order,
    qk_prep,
    rotate_and_add,
    split_heads,
)
from ..rope.rotate import OWN_TABLES, Rope, apply_rope_reference, check_rope, compute_dtype
from .attend import Attend
from .choose import choose_attention
from .reference import attention_reference


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Where token rows lie: their rotary table, their geometry, and which of them are text.

    Args:
        rope: table of the rows that are not text, or ``None``.
        geometry: geometry of the rows that are not text, or ``None``: for the function
            ``[B, L - num_text, N, D]`` (B may be 1); for the module also its embedding
            ``[B, L - num_text, G]``.
        num_text: text rows; they get neither rotation nor geometry.
        text_at: text rows come first or last.

    Raises:
        UsageError: a negative number of text rows, an unknown place, or what is no ``Rope``.
    """

    rope: Rope | None = None
    geometry: Tensor | None = None
    num_text: int = 0
    text_at: Literal["front", "end"] = "front"

    def __post_init__(self) -> None:
        if self.num_text < 0:
            raise UsageError("num_text", expected="0 or more", got=str(self.num_text))
        if self.text_at not in ("front", "end"):
            raise UsageError("text_at", expected="'front' or 'end'", got=repr(self.text_at))
        if self.rope is not None:
            check_type("rope", self.rope, Rope, remedy=OWN_TABLES)

    def rows(self, which: slice) -> Placement:
        """Position and geometry of some of the rows.

        Raises:
            UsageError: some rows are text.
        """
        if self.num_text:
            raise UsageError("num_text", expected="0, to take rows", got=str(self.num_text))
        return Placement(
            rope=None if self.rope is None else self.rope.rows(which),
            geometry=None if self.geometry is None else self.geometry[:, which],
        )

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Text rows and the others, of ``rows [B, L, ...]``.

        Raises:
            UsageError: fewer rows than text rows.
        """
        others = rows.shape[1] - self.num_text
        if others < 0:
            raise UsageError("num_text", expected=f"<= {rows.shape[1]}", got=str(self.num_text))
        if self.text_at == "front":
            return rows[:, : self.num_text], rows[:, self.num_text :]
        return rows[:, others:], rows[:, :others]

    def join(self, text: Tensor, others: Tensor) -> Tensor:
        """Inverse of :meth:`split`."""
        if self.num_text == 0:
            return others
        return torch.cat((text, others) if self.text_at == "front" else (others, text), dim=1)


NOWHERE = Placement()
"""Rows without position and geometry."""


def geo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_placement: Placement = NOWHERE,
    k_placement: Placement | None = None,
    geometry_order: GeometryOrder = "post_rope",
    attend: Attend | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """``softmax(q' k'^T / sqrt(D)) v`` with ``q' = rope(q) + geometry``, ``[B, Lq, N, D]``.

    Rotation and addition run in fp32 (fp64 for fp64 inputs) and are rounded once.

    Args:
        q: queries after the model's own q norm, ``[B, Lq, N, D]``.
        k: keys after its k norm, ``[B, Lk, N, D]``.
        v: values, ``[B, Lk, N, D]``.
        q_placement: position and geometry of the query rows.
        k_placement: of the key rows; ``None``: the same as the queries' (self-attention).
        geometry_order: ``"post_rope"``: geometry is added after the rotation (paper);
            ``"pre_rope"``: before it (released weights).
        attend: attention implementation; by default the first that fits.
        mask: boolean (True = may attend) or additive, broadcastable to ``[B, N, Lq, Lk]``.

    Raises:
        UsageError: shapes that do not fit, an unknown order, or a name for ``attend``.
        UnsupportedError: ``attend`` cannot run on these inputs.

    Source: paper Eq. 5-7.
    """
    check_attention(q, k, v, mask)
    check_order(geometry_order)
    attend = choose_attention() if attend is None else attend
    check_callable("attend", attend, expected="an implementation, as choose_attention(name) gives")
    q = _place(q, q_placement, geometry_order)
    k = _place(k, q_placement if k_placement is None else k_placement, geometry_order)
    return attend(q, k, v, mask=mask)


def geo_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_placement: Placement = NOWHERE,
    k_placement: Placement | None = None,
    geometry_order: GeometryOrder = "post_rope",
    mask: Tensor | None = None,
) -> Tensor:
    """The definition of :func:`geo_attention`: fp32 (fp64 for fp64 inputs) from end to end."""
    check_order(geometry_order)

    def place(rows: Tensor, placement: Placement) -> Tensor:
        text, others = placement.split(rows)
        if placement.geometry is not None and geometry_order == "pre_rope":
            others = others + placement.geometry
        if placement.rope is not None:
            others = apply_rope_reference(others, placement.rope)
        if placement.geometry is not None and geometry_order == "post_rope":
            others = others + placement.geometry
        return placement.join(text, others)

    wide = compute_dtype(q)
    q_rows = place(q.to(wide), q_placement)
    k_rows = place(k.to(wide), q_placement if k_placement is None else k_placement)
    return attention_reference(q_rows, k_rows, v.to(wide), mask=mask).to(q.dtype)


def _place(rows: Tensor, placement: Placement, order: GeometryOrder) -> Tensor:
    text, others = placement.split(rows)
    rope, geometry = placement.rope, placement.geometry
    if rope is None and geometry is None:
        return rows
    if rope is not None:
        check_rope(others, rope)
    if geometry is not None:
        check_geometry(geometry, others)
    turned = rotate_and_add(others.to(compute_dtype(others)), rope, geometry, order)
    return placement.join(text, turned.to(rows.dtype))


@dataclass(frozen=True, kw_only=True)
class GeoAttentionConfig:
    """Sizes and options of :class:`GeoAttention`.

    Args:
        dim: channels of the hidden states.
        num_heads: N.
        head_dim: D; ``dim / num_heads`` by default.
        context_dim: channels of the context that keys and values come from; ``dim`` by default.
        geometry_dim: G, channels of the geometry embedding; 0 leaves the caster out.
        qk_norm: norm of queries and keys, ``None`` for none.
        qk_norm_scope: over all heads together or each head alone.
        eps: of that norm.
        bias: whether the four projections have one.
        geometry_order: geometry after (paper) or before (released weights) the rotation.
        attention: name of an attention implementation.

    Raises:
        UsageError: sizes that are not positive or do not divide, unknown options.
    """

    dim: int
    num_heads: int
    head_dim: int | None = None
    context_dim: int | None = None
    geometry_dim: int = 0
    qk_norm: Literal["rms", "layer"] | None = "rms"
    qk_norm_scope: Literal["inner", "head"] = "inner"
    eps: float = 1e-6
    bias: bool = True
    geometry_order: GeometryOrder = "post_rope"
    attention: str = "auto"

    def __post_init__(self) -> None:
        optional = [size for size in (self.head_dim, self.context_dim) if size is not None]
        sizes = [self.dim, self.num_heads, *optional]
        whole = all(isinstance(size, int) for size in (*sizes, self.geometry_dim))
        if not whole or min(sizes) < 1 or self.geometry_dim < 0:
            raise UsageError("GeoAttentionConfig", expected="positive whole sizes", got=str(self))
        if self.head_dim is None and self.dim % self.num_heads:
            raise UsageError(
                "num_heads", expected=f"a divisor of {self.dim}", got=str(self.num_heads)
            )
        if self.qk_norm not in ("rms", "layer", None):
            raise UsageError("qk_norm", expected="'rms', 'layer' or None", got=repr(self.qk_norm))
        if self.qk_norm_scope not in ("inner", "head"):
            raise UsageError(
                "qk_norm_scope", expected="'inner' or 'head'", got=repr(self.qk_norm_scope)
            )
        if not self.eps >= 0:
            raise UsageError("eps", expected="0 or more", got=repr(self.eps))
        check_order(self.geometry_order)

    @property
    def inner_dim(self) -> int:
        """``N * D``."""
        return self.num_heads * (self.head_dim or self.dim // self.num_heads)


class GeoAttention(nn.Module):
    """An attention layer with projections, qk norm and a geometry caster.

    The caster is one linear layer from the geometry embedding, shared by queries and keys, and
    starts at zero: a new layer attends exactly as it would without geometry.

    Args:
        config: sizes and options.

    Source: paper Eq. 5-7 and Fig. 3.
    """

    def __init__(self, config: GeoAttentionConfig) -> None:
        super().__init__()
        self.config = config
        inner, bias = config.inner_dim, config.bias
        context_dim = config.context_dim or config.dim
        self.to_q = nn.Linear(config.dim, inner, bias=bias)
        self.to_k = nn.Linear(context_dim, inner, bias=bias)
        self.to_v = nn.Linear(context_dim, inner, bias=bias)
        self.to_out = nn.Linear(inner, config.dim, bias=bias)
        self.norm_q = _norm_layer(config)
        self.norm_k = _norm_layer(config)
        self.geometry_caster = (
            nn.Linear(config.geometry_dim, inner) if config.geometry_dim else None
        )
        if self.geometry_caster is not None:
            nn.init.zeros_(self.geometry_caster.weight)
            nn.init.zeros_(self.geometry_caster.bias)
        self.attend: Attend = choose_attention(config.attention)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        placement: Placement = NOWHERE,
        context: Tensor | None = None,
        context_placement: Placement = NOWHERE,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attention output before gate and residual, ``[B, L, dim]``.

        Args:
            hidden_states: query rows, ``[B, L, dim]``; keys and values too unless ``context``.
            placement: position and geometry of these rows. The geometry is an embedding
                ``[B, L - num_text, G]``, or the result of :meth:`cast_geometry`, which may be
                kept over all sampling steps.
            context: rows that keys and values come from, ``[B, Lk, context_dim]``.
            context_placement: their position and geometry.
            mask: boolean (True = may attend) or additive, broadcastable to ``[B, N, L, Lk]``.

        Raises:
            UsageError: shapes that do not fit; another dtype or device than the weights have;
                geometry although there is no caster; a placement of a context that is not given.
        """
        for name, where in (("placement", placement), ("context_placement", context_placement)):
            check_type(name, where, Placement)
        if context is None and context_placement is not NOWHERE:
            raise UsageError("context_placement", expected="none without a context", got="one")
        check_shape("hidden_states", hidden_states, (None, None, self.config.dim), "B L C")
        rows = hidden_states if context is None else context
        check_like("hidden_states", hidden_states, self.to_q.weight)
        if context is not None:
            batch, width = hidden_states.shape[0], self.to_k.in_features
            check_shape("context", context, (batch, None, width), "B L C")
            check_like("context", context, self.to_k.weight)
        placement = self._cast(placement)
        other = placement if context is None else self._cast(context_placement)
        q = self._prepare(self.to_q(hidden_states), self.norm_q, placement)
        k = self._prepare(self.to_k(rows), self.norm_k, other)
        v = split_heads(self.to_v(rows), self.config.num_heads)
        out: Tensor = self.to_out(self.attend(q, k, v, mask=mask).flatten(2))
        return out

    def cast_geometry(self, embedding: Tensor) -> Tensor:
        """Geometry ``[B, L, N, D]`` from its embedding ``[B, L, G]``.

        Raises:
            UsageError: this layer has no caster, or the embedding has other channels.
        """
        if self.geometry_caster is None:
            raise UsageError(
                "geometry", expected="None, as geometry_dim is 0", got=str(list(embedding.shape))
            )
        check_shape("geometry", embedding, (None, None, self.config.geometry_dim), "B L G")
        check_like("geometry", embedding, self.geometry_caster.weight)
        return split_heads(self.geometry_caster(embedding), self.config.num_heads)

    def _cast(self, placement: Placement) -> Placement:
        geometry = placement.geometry
        if geometry is None or geometry.ndim == 4:
            return placement
        return Placement(  # not replace, which torch.export of torch 2.6 does not trace
            rope=placement.rope,
            geometry=self.cast_geometry(geometry),
            num_text=placement.num_text,
            text_at=placement.text_at,
        )

    def _prepare(
        self, x: Tensor, layer: nn.RMSNorm | nn.LayerNorm | None, placement: Placement
    ) -> Tensor:
        config = self.config
        norm = None
        if layer is not None and config.qk_norm is not None:
            norm = QKNorm(
                weight=layer.weight,
                bias=getattr(layer, "bias", None),
                eps=config.eps,
                kind=config.qk_norm,
                scope=config.qk_norm_scope,
            )
        text, others = placement.split(x)
        heads = config.num_heads
        placed = qk_prep(
            others,
            norm,
            num_heads=heads,
            rope=placement.rope,
            geometry=placement.geometry,
            geometry_order=config.geometry_order,
        )
        if placement.num_text == 0:
            return placed
        return placement.join(qk_prep(text, norm, num_heads=heads), placed)


def _norm_layer(config: GeoAttentionConfig) -> nn.RMSNorm | nn.LayerNorm | None:
    size = config.inner_dim
    if config.qk_norm_scope == "head":
        size //= config.num_heads
    if config.qk_norm == "rms":
        return nn.RMSNorm(size, eps=config.eps)
    return nn.LayerNorm(size, eps=config.eps) if config.qk_norm == "layer" else None
