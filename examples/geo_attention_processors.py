"""Geo-Attention in diffusers' HunyuanVideo, LTX-Video and CogVideoX, by their attention processors.

Needs ``seqtex_core`` and diffusers. The transformer keeps its forward, its positions and its
weights; every self-attention adds geometry to queries and keys, by a caster that starts at zero: at
first the model computes what it did before. Frames are the views of one object, all of one size.
For a texture of another size and a noise level per frame see ``geo_attention_in_diffusers.py``.

What differs between the models is how they call a processor and where their text goes:

* HunyuanVideo: text rows come last; in dual blocks they have projections of their own, in single
  ones they pass through those of the video. Padding is hidden by a mask.
* LTX-Video: no text in self-attention; one rotation over all heads together.
* CogVideoX: text rows come first and share the projections. Without rotation in the 2B model.

A processor for another model is the nearest of these with other names: what it gets is in the
processor that the model brings (``transformer.attn_processors``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from seqtex_core import GeometryLatents, Placement, Rope, geo_attention

Patch = tuple[int, int, int]


def table_of(cos: Tensor, sin: Tensor) -> Rope:
    """A table of diffusers, which has every angle twice (once per channel of a pair)."""
    return Rope(cos=cos[..., 0::2].float(), sin=sin[..., 0::2].float())


def rows_of(maps: GeometryLatents, patch: Patch) -> Tensor:
    """Encoded maps ``[B, C, F, H, W]`` as one row per token, in the order of the model's tokens."""
    pt, ph, pw = patch
    pattern = "b c (f pt) (h ph) (w pw) -> b (f h w) (c pt ph pw)"
    both = torch.cat([maps.position, maps.normal], dim=1)
    return rearrange(both, pattern, pt=pt, ph=ph, pw=pw)


class GeoProcessor(nn.Module):
    """What the processors share: a caster, which starts at zero, and the rows that it casts.

    Args:
        attn: the attention layer that it is for.
        geometry_dim: channels of a geometry row.
    """

    def __init__(self, attn: Any, geometry_dim: int) -> None:
        super().__init__()
        like = attn.to_q.weight
        self.geometry_caster = nn.Linear(geometry_dim, len(like)).to(like)
        nn.init.zeros_(self.geometry_caster.weight)
        nn.init.zeros_(self.geometry_caster.bias)
        self.num_heads = attn.heads
        self.rows: Tensor | None = None  # [B, L, G]; B may be 1

    def heads(self, x: Tensor, norm: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``[B, L, N*D]`` as ``[B, L, N, D]``, normalised head by head."""
        split = x.unflatten(-1, (self.num_heads, -1))
        return split if norm is None else norm(split)

    def place(self, rope: Rope | None, **text: Any) -> Placement:
        """Where the video's rows lie; ``text`` says how many others there are and where."""
        geometry = None
        if self.rows is not None:
            rows = self.rows.to(self.geometry_caster.weight)  # the model's dtype and device
            geometry = self.heads(self.geometry_caster(rows))
        return Placement(rope=rope, geometry=geometry, **text)


class HunyuanVideoGeo(GeoProcessor):
    """For dual and single blocks of ``HunyuanVideoTransformer3DModel``."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Video rows and text rows after attention."""
        text, dual = encoder_hidden_states, attn.add_q_proj is not None
        x = hidden_states if dual else torch.cat([hidden_states, text], dim=1)
        q, k = self.heads(attn.to_q(x), attn.norm_q), self.heads(attn.to_k(x), attn.norm_k)
        v = self.heads(attn.to_v(x))
        if dual:
            q = torch.cat([q, self.heads(attn.add_q_proj(text), attn.norm_added_q)], dim=1)
            k = torch.cat([k, self.heads(attn.add_k_proj(text), attn.norm_added_k)], dim=1)
            v = torch.cat([v, self.heads(attn.add_v_proj(text))], dim=1)
        rope = None if image_rotary_emb is None else table_of(*image_rotary_emb)
        rows = self.place(rope, num_text=text.shape[1], text_at="end")
        out = geo_attention(q, k, v, q_placement=rows, mask=attention_mask).flatten(2)
        video, text = out.split([hidden_states.shape[1], text.shape[1]], dim=1)
        if dual:
            video, text = attn.to_out[1](attn.to_out[0](video)), attn.to_add_out(text)
        return video, text


class LTXVideoGeo(GeoProcessor):
    """For ``attn1`` of ``LTXVideoTransformer3DModel``."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Video rows after attention."""
        assert encoder_hidden_states is None
        assert attention_mask is None
        assert image_rotary_emb is not None
        q = self.heads(attn.norm_q(attn.to_q(hidden_states)))
        k = self.heads(attn.norm_k(attn.to_k(hidden_states)))
        v = self.heads(attn.to_v(hidden_states))
        cos, sin = (self.heads(table[0]) for table in image_rotary_emb)  # the same for all samples
        out = geo_attention(q, k, v, q_placement=self.place(table_of(cos, sin)))
        projected: Tensor = attn.to_out[1](attn.to_out[0](out.flatten(2)))
        return projected


class CogVideoXGeo(GeoProcessor):
    """For ``attn1`` of ``CogVideoXTransformer3DModel``."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Video rows and text rows after attention."""
        assert attention_mask is None
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k = self.heads(attn.to_q(x), attn.norm_q), self.heads(attn.to_k(x), attn.norm_k)
        v = self.heads(attn.to_v(x))
        rope = None if image_rotary_emb is None else table_of(*image_rotary_emb)
        length = encoder_hidden_states.shape[1]
        rows = self.place(rope, num_text=length)
        out = geo_attention(q, k, v, q_placement=rows).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        return out[:, length:], out[:, :length]


PROCESSORS: dict[str, tuple[type[GeoProcessor], Callable[[Any], list[Any]]]] = {
    "HunyuanVideoTransformer3DModel": (
        HunyuanVideoGeo,
        lambda m: [b.attn for b in (*m.transformer_blocks, *m.single_transformer_blocks)],
    ),
    "LTXVideoTransformer3DModel": (
        LTXVideoGeo,
        lambda m: [block.attn1 for block in m.transformer_blocks],
    ),
    "CogVideoXTransformer3DModel": (
        CogVideoXGeo,
        lambda m: [block.attn1 for block in m.transformer_blocks],
    ),
}
"""By the class of the transformer: the processor, and the layers that get one each."""


class GeoAttentionLayers:
    """Installs a processor in every self-attention of a transformer.

    The casters become part of it: ``transformer_blocks.0.attn1.processor.geometry_caster``.

    Args:
        transformer: of a class in ``PROCESSORS``; changed in place, :meth:`remove` undoes it.
        geometry_dim: channels of a geometry row, such as those of :func:`rows_of`.
    """

    def __init__(self, transformer: Any, geometry_dim: int) -> None:
        kind, layers_of = PROCESSORS[type(transformer).__name__]
        self.layers = layers_of(transformer)
        self.processors = [kind(layer, geometry_dim) for layer in self.layers]
        self._original = [layer.processor for layer in self.layers]
        for layer, processor in zip(self.layers, self.processors, strict=True):
            layer.set_processor(processor)

    def show(self, rows: Tensor | None) -> None:
        """From now on the tokens have this geometry, ``[B, L, G]``; ``None``: they have none."""
        for processor in self.processors:
            processor.rows = rows

    def remove(self) -> None:
        """Put the transformer back as it was."""
        for layer, processor in zip(self.layers, self._original, strict=True):
            layer.set_processor(processor)


def main() -> Tensor:
    """What a small CogVideoX of random weights says to four views of an object."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=13,
        max_text_seq_length=7,
    )
    maps = GeometryLatents(position=torch.randn(1, 4, 4, 8, 8), normal=torch.randn(1, 4, 4, 8, 8))
    rows = rows_of(maps, (1, 2, 2))
    geo = GeoAttentionLayers(transformer, rows.shape[-1])  # train the casters, or load them
    geo.show(rows)
    with torch.no_grad():
        made: Tensor = transformer(
            hidden_states=torch.randn(1, 4, 4, 8, 8),
            timestep=torch.tensor([500]),
            encoder_hidden_states=torch.randn(1, 7, 16),
            return_dict=False,
        )[0]
    return made


if __name__ == "__main__":
    made = main()
    print(f"prediction {list(made.shape)}, std {float(made.std()):.3f}")
