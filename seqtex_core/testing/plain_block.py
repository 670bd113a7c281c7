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
from ..muv_block import BlockCache, BranchInputs, BranchTimes, Hidden, MUVBlock
from ..query_key import QKNorm, qk_prep_reference
from ..text_rows import text_layout


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
        hidden: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: BlockCache | None,
        attend: Attend,
    ) -> Hidden:
        """See ``MUVBlock.forward``; the cache and the attention implementation are not used."""
        del cache, attend

        def heads(projected: Tensor, norm: QKNorm | None, stream: Stream | None) -> Tensor:
            branch = inputs[stream] if stream else None
            tokens = branch.geometry_tokens if branch else None
            cast = None if tokens is None else self.geometry_caster(tokens)
            return qk_prep_reference(
                projected,
                norm,
                num_heads=self.mv.num_heads,
                rope=branch.rope if branch else None,
                geometry=None if cast is None else cast.unflatten(-1, (self.mv.num_heads, -1)),
                geometry_order=self.geometry_order,
            )

        def rest(block: BackboneBlock, x: Tensor, modulation: object, stream: Stream) -> Tensor:
            pairs = block.cross_key_values(inputs[stream].context)
            rows = inputs[stream].rows
            x = block.cross_attention(x, pairs, modulation, rows, REFERENCE)
            return block.feed_forward(x, modulation, rows)

        mv, uv = self.mv, self.uv
        x_mv, x_uv, x_text = hidden.mv, hidden.uv, hidden.text
        mv_rows = inputs["mv"].rows
        mod_mv = mv.modulation(times.mv)
        n_mv = mv.pre_attention(x_mv, mod_mv, mv_rows)
        q = heads(mv.query(n_mv), mv.q_norm, "mv")
        k_raw, v = mv.key_value(n_mv)
        k = heads(k_raw, mv.k_norm, "mv")

        text, h_text, length = mv.text_rows(), None, 0
        if text is not None:
            assert x_text is not None
            assert times.text is not None
            length = x_text.shape[1]
            rows = text_layout(length)
            mod_text = text.modulation(times.text)
            n_text = text.pre_attention(x_text, mod_text, rows)
            k_raw, v_text = text.key_value(n_text)
            q = torch.cat([heads(text.query(n_text), text.q_norm, None), q], dim=1)
            k = torch.cat([heads(k_raw, text.k_norm, None), k], dim=1)
            v = torch.cat([v_text, v], dim=1)
        text_mask = inputs["mv"].context.mask if text is not None else None
        out = _attention(q, k, v.unflatten(-1, (mv.num_heads, -1)), text_mask)
        h_mv = mv.post_attention(x_mv, out[:, length:], n_mv, mod_mv, mv_rows)
        end = Hidden(mv=rest(mv, h_mv, mod_mv, "mv"))
        if text is not None and x_text is not None:
            h_text = text.post_attention(x_text, out[:, :length], n_text, mod_text, rows)
            end = end._replace(text=text.feed_forward(h_text, mod_text, rows))
        if x_uv is None:
            return end

        assert times.uv is not None
        assert times.mv_as_keys is not None
        uv_rows = inputs["uv"].rows
        mod_uv = uv.modulation(times.uv)
        n_uv = uv.pre_attention(x_uv, mod_uv, uv_rows)
        before = self.uv_key_source == "norm_pre_attn"
        source = x_mv if before else h_mv
        if self.uv_key_source != "raw_post_attn":
            source = uv.pre_attention(source, uv.modulation(times.mv_as_keys), mv_rows)
        k_mv, v_mv = uv.key_value(source)
        k_uv, v_uv = uv.key_value(n_uv)
        q = heads(uv.query(n_uv), uv.q_norm, "uv")
        k = torch.cat([heads(k_mv, uv.k_norm, "mv"), heads(k_uv, uv.k_norm, "uv")], dim=1)
        v = torch.cat([v_mv, v_uv], dim=1)
        text = uv.text_rows()
        if text is not None:
            assert times.text_as_keys is not None
            source_text = x_text if before else h_text
            assert source_text is not None
            if self.uv_key_source != "raw_post_attn":
                mod_text = text.modulation(times.text_as_keys)
                source_text = text.pre_attention(source_text, mod_text, rows)
            k_raw, v_text = text.key_value(source_text)
            k = torch.cat([heads(k_raw, text.k_norm, None), k], dim=1)
            v = torch.cat([v_text, v], dim=1)
        out = _attention(q, k, v.unflatten(-1, (uv.num_heads, -1)), text_mask)
        h_uv = uv.post_attention(x_uv, out, n_uv, mod_uv, uv_rows)
        return end._replace(uv=rest(uv, h_uv, mod_uv, "uv"))


def _attention(q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor | None) -> Tensor:
    """Plain attention; ``text_mask [B, S]`` says which of the first S keys may be read."""
    if text_mask is None:
        return attention_reference(q, k, v)
    others = text_mask.new_ones(text_mask.shape[0], k.shape[1] - text_mask.shape[1])
    mask = torch.cat([text_mask, others], dim=1)
    return attention_reference(q, k, v, mask=mask[:, None, None])
