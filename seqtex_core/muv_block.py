"""The MUV block: one backbone block doubled into a multi-view and a UV branch.

The only place that knows there are two streams, and the unit of compilation, gradient
checkpointing and sharding. Where text is attended jointly, its rows belong to the mv branch: they
read text and mv, never uv, and the uv branch reads them as keys and values only.

Source:
    SeqTex (arXiv 2507.04285), section 3.2, Eq. 5-7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .adapter import BackboneBlock, KeyValue
from .attention import Attend
from .branch_data import BlockCache as BlockCache
from .branch_data import BranchInputs as BranchInputs
from .branch_data import BranchTimes as BranchTimes
from .branch_data import Hidden as Hidden
from .frames import Stream, StreamLayout
from .qk_prep import GeometryOrder, QKNorm, qk_prep, rotate_geometry
from .stream_attention import Keys, attend_streams, per_sample
from .text_rows import TextRows

UVKeySource = Literal["norm_pre_attn", "norm_post_attn", "raw_post_attn"]
UV_KEY_SOURCES: tuple[UVKeySource, ...] = ("norm_pre_attn", "norm_post_attn", "raw_post_attn")


class _AttendedMV(NamedTuple):
    """The mv stream and its text after self-attention, with what the sublayers after it need."""

    hidden: Hidden
    modulation: Any
    text: TextRows | None


class MUVBlock(nn.Module):
    """One transformer block for both streams; mv never reads uv.

    Args:
        mv: the backbone's block (with LoRA, if any).
        uv: its copy for the UV stream.
        caster: ``c_geo`` from the embedded geometry, shared by both branches, queries and keys.
        geometry_order: ``"post_rope"`` adds geometry after RoPE (paper), ``"pre_rope"`` before it
            (released weights).
        uv_key_source: state of the mv tokens that the uv branch's keys and values are made of.

    Attributes:
        cross_together: rows of both streams pass through a shared cross-attention at once where it
            goes row by row; by default (``None``) except on a CPU, where it gains nothing.
    """

    def __init__(
        self,
        mv: BackboneBlock,
        uv: BackboneBlock,
        caster: nn.Linear,
        *,
        geometry_order: GeometryOrder,
        uv_key_source: UVKeySource,
    ) -> None:
        super().__init__()
        self.mv = mv
        self.uv = uv
        self.geometry_caster = caster
        self.geometry_order: GeometryOrder = geometry_order
        self.uv_key_source: UVKeySource = uv_key_source
        self.cross_together: bool | None = None

    def forward(
        self,
        hidden: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: BlockCache | None,
        attend: Attend,
    ) -> Hidden:
        """The residual streams after the block.

        Args:
            hidden: before it; without ``uv`` that branch is skipped.
            inputs: per stream.
            times: noise levels.
            cache: geometry and context of this block; computed here (with gradients) if ``None``.
            attend: attention implementation.
        """
        if cache is None:
            cache = self.build_cache(inputs)
        mv = self._mv_attention(hidden, inputs, times, cache, attend)
        x_uv, modulation_uv = hidden.uv, None
        if x_uv is not None:
            source = self._uv_source(hidden, mv.hidden)
            x_uv, modulation_uv = self._uv_attention(x_uv, source, inputs, times, cache, attend)
        modulations = (mv.modulation, modulation_uv)
        x_mv, x_uv = self._cross(mv.hidden.mv, x_uv, modulations, inputs, cache, attend)
        if x_uv is not None:
            x_uv = self.uv.feed_forward(x_uv, modulation_uv, inputs["uv"].rows)
        return self._mv_feed_forward(x_mv, mv, inputs["mv"].rows)._replace(uv=x_uv)

    def mv_branch(
        self,
        hidden: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: BlockCache,
        attend: Attend,
    ) -> tuple[Hidden, Hidden]:
        """The mv stream after the block, and the state of it that the uv branch reads.

        With ``uv_branch`` it is ``forward`` in two parts, for branches that are not computed
        together.
        """
        mv = self._mv_attention(hidden, inputs, times, cache, attend)
        modulations = (mv.modulation, None)
        x_mv, _ = self._cross(mv.hidden.mv, None, modulations, inputs, cache, attend)
        after = self._mv_feed_forward(x_mv, mv, inputs["mv"].rows)
        return after, self._uv_source(hidden, mv.hidden)

    def uv_branch(
        self,
        x_uv: Tensor,
        source: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: BlockCache,
        attend: Attend,
    ) -> Tensor:
        """The uv stream ``[B, L_uv, D]`` after the block.

        Args:
            x_uv: before it.
            source: what ``mv_branch`` says that it reads.
            inputs: as ``forward``.
            times: as ``forward``.
            cache: geometry and context of this block.
            attend: attention implementation.
        """
        rows = inputs["uv"].rows
        x_uv, modulation = self._uv_attention(x_uv, source, inputs, times, cache, attend)
        pairs, to_text = cache.cross["uv"], per_sample(attend, rows)
        x_uv = self.uv.cross_attention(x_uv, pairs, modulation, rows, to_text)
        return self.uv.feed_forward(x_uv, modulation, rows)

    def build_cache(self, inputs: Mapping[Stream, BranchInputs]) -> BlockCache:
        """Geometry (cast, split into heads, rotated if it goes before RoPE) and context keys.

        Where both branches read one context with one cross-attention, its keys are made once.
        """
        geometry: dict[Stream, Tensor] = {}
        cross: dict[Stream, tuple[KeyValue, ...]]
        for stream, branch in inputs.items():
            if branch.geometry_tokens is not None:
                cast = self.geometry_caster(branch.geometry_tokens)
                heads = cast.unflatten(-1, (self.mv.num_heads, -1))
                if self.geometry_order == "pre_rope" and branch.rope is not None:
                    heads = rotate_geometry(heads, branch.rope)
                geometry[stream] = heads
        both = None
        if len(geometry) == 2 and not inputs["uv"].rows.sample_lengths:
            batch = max(part.shape[0] for part in geometry.values())
            parts = [geometry[s].expand(batch, -1, -1, -1) for s in ("mv", "uv")]
            both = torch.cat(parts, dim=1)
            length = geometry["mv"].shape[1]
            geometry = {"mv": both[:, :length], "uv": both[:, length:]}
        cross = {"mv": self.mv.cross_key_values(inputs["mv"].context)}
        if "uv" in inputs:
            same = self.shares_cross_attention and inputs["uv"].context is inputs["mv"].context
            own = cross["mv"] if same else self.uv.cross_key_values(inputs["uv"].context)
            cross["uv"] = own
        return BlockCache(geometry=geometry, cross=cross, key_geometry=both)

    @property
    def shares_cross_attention(self) -> bool:
        """Whether both branches compute context keys with the same modules."""
        names = self.mv.shareable.get("cross_attn", ())
        return bool(names) and all(
            self.mv.get_submodule(name) is self.uv.get_submodule(name) for name in names
        )

    def _mv_attention(
        self,
        hidden: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: BlockCache,
        attend: Attend,
    ) -> _AttendedMV:
        """The mv stream and its text after self-attention."""
        block, rows = self.mv, inputs["mv"].rows
        modulation = block.modulation(times.mv)
        normed = block.pre_attention(hidden.mv, modulation, rows)
        query = self._prepare(block.query(normed), block.q_norm, "mv", inputs, cache)
        keys = self._keys(block, normed, "mv", inputs, cache)
        text = TextRows.before(block, hidden.text, times.text, mask=inputs["mv"].context.mask)
        out = attend_streams(attend, rows, query, [keys], text=text, text_asks=True)
        attended = Hidden(
            mv=block.post_attention(hidden.mv, out.stream, normed, modulation, rows),
            text=None if text is None or out.text is None else text.attended(out.text),
        )
        return _AttendedMV(attended, modulation, text)

    def _mv_feed_forward(self, x_mv: Tensor, mv: _AttendedMV, rows: StreamLayout) -> Hidden:
        x_text, text = mv.hidden.text, mv.text
        if text is not None and x_text is not None:
            x_text = text.sublayers.feed_forward(x_text, text.modulation, text.rows)
        return Hidden(mv=self.mv.feed_forward(x_mv, mv.modulation, rows), text=x_text)

    def _uv_source(self, before: Hidden, attended: Hidden) -> Hidden:
        """The state of the mv stream that the uv branch's keys and values are made of."""
        return before if self.uv_key_source == "norm_pre_attn" else attended

    def _cross(
        self,
        x_mv: Tensor,
        x_uv: Tensor | None,
        modulations: tuple[Any, Any],
        inputs: Mapping[Stream, BranchInputs],
        cache: BlockCache,
        attend: Attend,
    ) -> tuple[Tensor, Tensor | None]:
        """Both streams after cross-attention.

        Where both pass through the same modules row by row, they do so together, except on a CPU:
        larger products fill a GPU better. Their kernels may then be others than those for mv alone.
        The norms before it are each branch's own.
        """
        mv_rows, to_text = inputs["mv"].rows, per_sample(attend, inputs["mv"].rows)
        pairs = cache.cross["mv"]
        wanted = x_mv.device.type != "cpu" if self.cross_together is None else self.cross_together
        together = wanted and self.mv.cross_attends_row_by_row
        if x_uv is not None and together and self._share_context(inputs, cache):
            normed = torch.cat([self.mv.cross_norm(x_mv), self.uv.cross_norm(x_uv)], dim=1)
            update = self.mv.cross_update(normed, pairs, to_text)
            return x_mv + update[:, : x_mv.shape[1]], x_uv + update[:, x_mv.shape[1] :]
        x_mv = self.mv.cross_attention(x_mv, pairs, modulations[0], mv_rows, to_text)
        if x_uv is not None:
            rows = inputs["uv"].rows
            to_text = per_sample(attend, rows)
            pairs = cache.cross["uv"]
            x_uv = self.uv.cross_attention(x_uv, pairs, modulations[1], rows, to_text)
        return x_mv, x_uv

    @staticmethod
    def _share_context(inputs: Mapping[Stream, BranchInputs], cache: BlockCache) -> bool:
        return cache.cross["uv"] is cache.cross["mv"] and not inputs["mv"].rows.sample_lengths

    def _uv_attention(
        self,
        x_uv: Tensor,
        source: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: BlockCache,
        attend: Attend,
    ) -> tuple[Tensor, Any]:
        """The uv stream after self-attention, and its modulation."""
        assert times.uv is not None
        assert times.mv_as_keys is not None
        block, rows = self.uv, inputs["uv"].rows
        modulation = block.modulation(times.uv)
        normed = block.pre_attention(x_uv, modulation, rows)
        mv_source = source.mv
        normalised = self.uv_key_source != "raw_post_attn"
        if normalised:
            mv_modulation = block.modulation(times.mv_as_keys)
            mv_source = block.pre_attention(mv_source, mv_modulation, inputs["mv"].rows)
        query = self._prepare(block.query(normed), block.q_norm, "uv", inputs, cache)
        keys = self._uv_keys(mv_source, normed, inputs, cache)
        text = TextRows.before(
            block,
            source.text,
            times.text_as_keys,
            mask=inputs["mv"].context.mask,
            normalised=normalised,
        )
        out = attend_streams(attend, rows, query, keys, text=text)
        return block.post_attention(x_uv, out.stream, normed, modulation, rows), modulation

    def _uv_keys(
        self,
        mv_source: Tensor,
        normed: Tensor,
        inputs: Mapping[Stream, BranchInputs],
        cache: BlockCache,
    ) -> list[Keys]:
        """Keys and values of mv rows and uv rows, as one where samples are the batch."""
        block, branch = self.uv, inputs["uv"]
        if branch.rows.sample_lengths or (branch.rope is not None and branch.key_rope is None):
            parts: tuple[tuple[Tensor, Stream], ...] = ((mv_source, "mv"), (normed, "uv"))
            return [self._keys(block, part, stream, inputs, cache) for part, stream in parts]
        key, value = block.key_value(torch.cat([mv_source, normed], dim=1))
        key = qk_prep(
            key,
            block.k_norm,
            num_heads=block.num_heads,
            rope=branch.key_rope,
            geometry=cache.key_geometry,
        )
        value = value.unflatten(-1, (block.num_heads, -1))
        return [Keys(rows=branch.rows, key=key, value=value)]

    def _keys(
        self,
        block: BackboneBlock,
        normed: Tensor,
        stream: Stream,
        inputs: Mapping[Stream, BranchInputs],
        cache: BlockCache,
    ) -> Keys:
        key, value = block.key_value(normed)
        return Keys(
            rows=inputs[stream].rows,
            key=self._prepare(key, block.k_norm, stream, inputs, cache),
            value=value.unflatten(-1, (block.num_heads, -1)),
        )

    def _prepare(
        self,
        projected: Tensor,
        norm: QKNorm,
        stream: Stream,
        inputs: Mapping[Stream, BranchInputs],
        cache: BlockCache,
    ) -> Tensor:
        return qk_prep(
            projected,
            num_heads=self.mv.num_heads,
            norm=norm,
            rope=inputs[stream].rope,
            geometry=cache.geometry.get(stream),
        )
