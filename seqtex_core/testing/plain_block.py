"""The MUV block written out, without caches: the definition that the block is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ..adapter import BackboneBlock
from ..attention import Attend, attention_reference
from ..attention.reference import REFERENCE
from ..frames import Stream
from ..muv_block import BlockCache, BranchInputs, BranchTimes, MUVBlock
from ..qk_prep import QKNorm, qk_prep_reference


class PlainMUVBlock(MUVBlock):
    """A block with the forward of the paper, one equation after the other.

    Source:
        SeqTex (arXiv 2507.04285), Eq. 5-7.
    """

    @classmethod
    def of(cls, block: MUVBlock) -> Self:
        """The plain form of ``block``; the same parameters."""
        return cls(
            block.mv,
            block.uv,
            block.geometry_caster,
            geometry_order=block.geometry_order,
            uv_key_source=block.uv_key_source,
        )

    def forward(
        self,
        x_mv: Tensor,
        x_uv: Tensor | None,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: BlockCache | None,
        attend: Attend,
    ) -> tuple[Tensor, Tensor | None]:
        """See ``MUVBlock.forward``; the cache and the attention implementation are not used."""
        del cache, attend

        def heads(projected: Tensor, norm: QKNorm, stream: Stream, block: BackboneBlock) -> Tensor:
            tokens = inputs[stream].geometry_tokens
            cast = None if tokens is None else self.geometry_caster(tokens)
            return qk_prep_reference(
                projected,
                norm,
                num_heads=block.num_heads,
                rope=inputs[stream].rope,
                geometry=None if cast is None else cast.unflatten(-1, (block.num_heads, -1)),
                geometry_order=self.geometry_order,
            )

        def rest(block: BackboneBlock, x: Tensor, modulation: object, stream: Stream) -> Tensor:
            pairs = block.cross_key_values(inputs[stream].context)
            rows = inputs[stream].rows
            x = block.cross_attention(x, pairs, modulation, rows, REFERENCE)
            return block.feed_forward(x, modulation, rows)

        mv, uv = self.mv, self.uv
        mv_rows = inputs["mv"].rows
        mod_mv = mv.modulation(times.mv)
        n_mv = mv.pre_attention(x_mv, mod_mv, mv_rows)
        q = heads(mv.query(n_mv), mv.q_norm, "mv", mv)
        k_raw, v = mv.key_value(n_mv)
        k = heads(k_raw, mv.k_norm, "mv", mv)
        out = attention_reference(q, k, v.unflatten(-1, (mv.num_heads, -1)))
        h_mv = mv.post_attention(x_mv, out, mod_mv, mv_rows)
        if x_uv is None:
            return rest(mv, h_mv, mod_mv, "mv"), None

        assert times.uv is not None
        assert times.mv_as_keys is not None
        uv_rows = inputs["uv"].rows
        mod_uv = uv.modulation(times.uv)
        n_uv = uv.pre_attention(x_uv, mod_uv, uv_rows)
        source = {
            "norm_pre_attn": lambda: uv.pre_attention(
                x_mv, uv.modulation(times.mv_as_keys), mv_rows
            ),
            "norm_post_attn": lambda: uv.pre_attention(
                h_mv, uv.modulation(times.mv_as_keys), mv_rows
            ),
            "raw_post_attn": lambda: h_mv,
        }[self.uv_key_source]()
        k_mv, v_mv = uv.key_value(source)
        k_uv, v_uv = uv.key_value(n_uv)
        q = heads(uv.query(n_uv), uv.q_norm, "uv", uv)
        k = torch.cat([heads(k_mv, uv.k_norm, "mv", uv), heads(k_uv, uv.k_norm, "uv", uv)], dim=1)
        v = torch.cat([v_mv, v_uv], dim=1).unflatten(-1, (uv.num_heads, -1))
        h_uv = uv.post_attention(x_uv, attention_reference(q, k, v), mod_uv, uv_rows)
        return rest(mv, h_mv, mod_mv, "mv"), rest(uv, h_uv, mod_uv, "uv")
