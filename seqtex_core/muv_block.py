"""The MUV block: one backbone block doubled into a multi-view and a UV branch.

The only place that knows there are two streams, and the unit of compilation, gradient
checkpointing and sharding. Where text is attended jointly, its rows belong to the mv branch: they
read text and mv, never uv, and the uv branch reads them as keys and values only.

Source:
    SeqTex (arXiv 2507.04285), section 3.2, Eq. 5-7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .adapter import BackboneBlock, KeyValue
from .attention import Attend
from .branch_data import BlockCache as BlockCache
from .branch_data import BlockModulations
from .branch_data import BranchInputs as BranchInputs
from .branch_data import BranchTimes as BranchTimes
from .branch_data import Hidden as Hidden
from .frames import STREAMS, Stream
from .joint_rows import JointRows
from .query_key import GeometryOrder, QKNorm, qk_prep, rotate_geometry
from .split_block import SplitBlock, SplitCrossBlock, after_attention, before_attention
from .stream_attention import Keys, attend_streams, per_sample
from .text_rows import TextRows

UVKeySource = Literal["norm_pre_attn", "norm_post_attn", "raw_post_attn"]
UV_KEY_SOURCES: tuple[UVKeySource, ...] = ("norm_pre_attn", "norm_post_attn", "raw_post_attn")


class _Reads(NamedTuple):
    """What a block reads besides the residual streams; see ``MUVBlock.forward``."""

    inputs: Mapping[Stream, BranchInputs]
    times: BranchTimes
    cache: BlockCache
    attend: Attend
    modulations: BlockModulations


class _Attended(NamedTuple):
    """A residual stream after self-attention, with what the sublayers after it need.

    Attributes:
        x: the stream, ``[B, L, D]``.
        modulation: of the block.
        normed: input of the next sublayer, where it was made together with ``x``.
        text: text rows that asked with the stream.
        x_text: their own residual stream.
    """

    x: Tensor
    modulation: Any
    normed: Tensor | None = None
    text: TextRows | None = None
    x_text: Tensor | None = None


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
        cross_together: rows of both streams pass through a shared cross-attention at once in a
            ``SplitCrossBlock``; by default (``None``) except on a CPU, where it gains nothing.
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
        reads = _Reads(inputs, times, cache, attend, self._modulations(times, STREAMS))
        joint = self._joint_cross(hidden, reads)
        places = [None, None] if joint is None else joint.places
        mv = self._mv_attention(hidden, reads, place=places[0])
        if hidden.uv is None:
            return self._mv_rest(mv, reads)
        source = self._uv_source(hidden, mv)
        uv = self._uv_attention(hidden.uv, source, reads, place=places[1])
        if joint is None or mv.normed is None or uv.normed is None:
            x_uv = self._rest(self.uv, "uv", uv, reads)
            return self._mv_rest(mv, reads, x_uv)
        assert isinstance(self.mv, SplitCrossBlock)
        assert isinstance(self.uv, SplitCrossBlock)
        to_text = per_sample(attend, inputs["mv"].rows)
        normed = joint.joined(mv.normed, uv.normed)
        update = self.mv.cross_update(normed, cache.cross["mv"], to_text)
        of_mv, of_uv = update.split([mv.x.shape[1], uv.x.shape[1]], dim=1)
        return Hidden(
            mv=self.mv.after_cross(mv.x, of_mv, mv.modulation, inputs["mv"].rows),
            uv=self.uv.after_cross(uv.x, of_uv, uv.modulation, inputs["uv"].rows),
        )

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
        reads = _Reads(inputs, times, cache, attend, self._modulations(times, ("mv",)))
        mv = self._mv_attention(hidden, reads)
        after = self._mv_rest(mv, reads)
        return after, self._uv_source(hidden, mv)

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
        reads = _Reads(inputs, times, cache, attend, self._modulations(times, ("uv",)))
        uv = self._uv_attention(x_uv, source, reads)
        return self._rest(self.uv, "uv", uv, reads)

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

    def _modulations(self, times: BranchTimes, streams: Sequence[Stream]) -> BlockModulations:
        """Shifts, scales and gates of some branches, made here unless they exist already."""
        if times.modulations is not None:
            return times.modulations
        mv = self.mv.modulation(times.mv) if "mv" in streams else None
        uv = mv_as_keys = None
        if "uv" in streams and times.uv is not None:
            uv = self.uv.modulation(times.uv)
            if self.uv_key_source != "raw_post_attn":
                assert times.mv_as_keys is not None
                mv_as_keys = self.uv.modulation(times.mv_as_keys)
        return BlockModulations(mv=mv, uv=uv, mv_as_keys=mv_as_keys)

    def _mv_attention(
        self,
        hidden: Hidden,
        reads: _Reads,
        *,
        place: Tensor | None = None,
    ) -> _Attended:
        """The mv stream and its text after self-attention; ``place`` is for its next norm."""
        block, rows = self.mv, reads.inputs["mv"].rows
        modulation = reads.modulations.mv
        normed = block.pre_attention(hidden.mv, modulation, rows)
        query, key, value = block.query_key_value(normed)
        query = self._prepare(query, block.q_norm, "mv", reads)
        keys = self._keys(block, key, value, "mv", reads)
        text = TextRows.before(
            block, hidden.text, reads.times.text, mask=reads.inputs["mv"].context.mask
        )
        out = attend_streams(reads.attend, rows, query, [keys], text=text, text_asks=True)
        x, normed_after = after_attention(
            block, hidden.mv, out.stream, normed, modulation, rows, place=place
        )
        x_text = None if text is None or out.text is None else text.attended(out.text)
        return _Attended(x, modulation, normed_after, text, x_text)

    def _uv_source(self, before: Hidden, mv: _Attended) -> Hidden:
        """The state of the mv stream that the uv branch's keys and values are made of."""
        if self.uv_key_source == "norm_pre_attn":
            return before
        return Hidden(mv=mv.x, text=mv.x_text)

    def _uv_attention(
        self,
        x_uv: Tensor,
        source: Hidden,
        reads: _Reads,
        *,
        place: Tensor | None = None,
    ) -> _Attended:
        """The uv stream after self-attention; ``place`` is for its next norm."""
        block, rows = self.uv, reads.inputs["uv"].rows
        lengths = (source.mv.shape[1], x_uv.shape[1])
        joint = JointRows(x_uv, lengths, written=isinstance(block, SplitBlock))
        modulation = reads.modulations.uv
        normed = before_attention(block, x_uv, modulation, rows, place=joint.places[1])
        normalised = self.uv_key_source != "raw_post_attn"
        if normalised:
            of_mv = reads.modulations.mv_as_keys
            mv_rows = reads.inputs["mv"].rows
            mv_source = before_attention(block, source.mv, of_mv, mv_rows, place=joint.places[0])
        else:
            mv_source = joint.put(0, source.mv)
        query = self._prepare(block.query(normed), block.q_norm, "uv", reads)
        keys = self._uv_keys(mv_source, normed, joint, reads)
        text = TextRows.before(
            block,
            source.text,
            reads.times.text_as_keys,
            mask=reads.inputs["mv"].context.mask,
            normalised=normalised,
        )
        out = attend_streams(reads.attend, rows, query, keys, text=text)
        x, normed_after = after_attention(
            block, x_uv, out.stream, normed, modulation, rows, place=place
        )
        return _Attended(x, modulation, normed_after)

    def _joint_cross(self, hidden: Hidden, reads: _Reads) -> JointRows | None:
        """Rows of both streams as one in front of cross-attention, if they pass it together.

        They do where both pass through the same modules, except on a CPU: larger products fill a
        GPU better. Their kernels may then be others than those for mv alone. The norms before it
        are each branch's own.
        """
        x = hidden.mv
        wanted = x.device.type != "cpu" if self.cross_together is None else self.cross_together
        if hidden.uv is None or not wanted or reads.inputs["mv"].rows.sample_lengths:
            return None
        split = isinstance(self.mv, SplitCrossBlock) and isinstance(self.uv, SplitCrossBlock)
        if not split or reads.cache.cross["uv"] is not reads.cache.cross["mv"]:
            return None
        return JointRows(x, (x.shape[1], hidden.uv.shape[1]))

    def _mv_rest(self, mv: _Attended, reads: _Reads, x_uv: Tensor | None = None) -> Hidden:
        """The mv stream and its text after the sublayers behind self-attention, beside ``x_uv``."""
        x_mv, x_text, text = self._rest(self.mv, "mv", mv, reads), mv.x_text, mv.text
        if text is not None and x_text is not None:
            x_text = text.sublayers.feed_forward(x_text, text.modulation, text.rows)
        return Hidden(mv=x_mv, uv=x_uv, text=x_text)

    def _rest(
        self,
        block: BackboneBlock,
        stream: Stream,
        attended: _Attended,
        reads: _Reads,
    ) -> Tensor:
        """One stream after cross-attention and feed-forward."""
        rows, pairs = reads.inputs[stream].rows, reads.cache.cross[stream]
        x, modulation, to_text = attended.x, attended.modulation, per_sample(reads.attend, rows)
        if attended.normed is not None:
            assert isinstance(block, SplitBlock)
            return block.after_sum(x, attended.normed, modulation, rows, pairs, to_text)
        x = block.cross_attention(x, pairs, modulation, rows, to_text)
        return block.feed_forward(x, modulation, rows)

    def _uv_keys(
        self,
        mv_source: Tensor,
        normed: Tensor,
        joint: JointRows,
        reads: _Reads,
    ) -> list[Keys]:
        """Keys and values of mv rows and uv rows, as one where samples are the batch."""
        block, branch = self.uv, reads.inputs["uv"]
        if branch.rows.sample_lengths or (branch.rope is not None and branch.key_rope is None):
            parts: tuple[tuple[Tensor, Stream], ...] = ((mv_source, "mv"), (normed, "uv"))
            return [
                self._keys(block, *block.key_value(part), stream, reads) for part, stream in parts
            ]
        key, value = block.key_value(joint.joined(mv_source, normed))
        key = qk_prep(
            key,
            block.k_norm,
            num_heads=block.num_heads,
            rope=branch.key_rope,
            geometry=reads.cache.key_geometry,
        )
        value = value.unflatten(-1, (block.num_heads, -1))
        return [Keys(rows=branch.rows, key=key, value=value)]

    def _keys(
        self,
        block: BackboneBlock,
        key: Tensor,
        value: Tensor,
        stream: Stream,
        reads: _Reads,
    ) -> Keys:
        return Keys(
            rows=reads.inputs[stream].rows,
            key=self._prepare(key, block.k_norm, stream, reads),
            value=value.unflatten(-1, (block.num_heads, -1)),
        )

    def _prepare(
        self,
        projected: Tensor,
        norm: QKNorm | None,
        stream: Stream,
        reads: _Reads,
    ) -> Tensor:
        return qk_prep(
            projected,
            num_heads=self.mv.num_heads,
            norm=norm,
            rope=reads.inputs[stream].rope,
            geometry=reads.cache.geometry.get(stream),
        )
