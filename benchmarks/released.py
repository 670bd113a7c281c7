"""A baseline: the same model with the bookkeeping of the released inference code, step by step.

Everything is computed anew in every step and every block, as that code does: modulation expanded
to all tokens in fp32, norms in separate fp32 passes, RoPE in complex128, geometry projections and
text keys per block and step, adapters unmerged, MV and UV rows joined and split again. It exists
to be measured against; restated from a description of that code, on the library's own modules.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from seqtex_core.attention import Attend
from seqtex_core.errors import UsageError
from seqtex_core.frames import TokenLayout
from seqtex_core.muv_block import MUVBlock
from seqtex_core.rope import RopeSpec
from seqtex_core.transformer import SeqTexTransformer

from .models import Scene


class Rows(NamedTuple):
    """One branch's rows.

    Args:
        x: residual stream, ``[B, L, C]``.
        time: time projection of every token, ``[B, L, 6, C]``.
        phase: rotations, complex128, ``[L, 1, D/2]``.
    """

    x: Tensor
    time: Tensor
    phase: Tensor


class ReleasedModel:
    """Velocities of a scene, the released way.

    Args:
        model: built with ``released=True, merged=False``; its modules are used as they are.
        attend: attention implementation.

    Raises:
        UsageError: a model with other options than the released ones.
    """

    def __init__(self, model: SeqTexTransformer, attend: Attend) -> None:
        found = (model.config.geometry_order, model.config.uv_key_source)
        if found != ("pre_rope", "raw_post_attn"):
            raise UsageError(
                "released baseline", expected="pre_rope, raw_post_attn", got=", ".join(found)
            )
        self.model = model
        self.attend = attend

    def __call__(self, scene: Scene) -> dict[str, Tensor]:
        """All velocities of one step."""
        shell: Any = self.model.shells["mv"]
        mv, mv_time = self._rows(scene, "views")
        uv, uv_time = self._rows(scene, "texture")
        text = shell.encode_text(scene.text).text
        geometry = torch.cat(
            [self.model.geometry(scene.geometry[name]) for name in ("views", "texture")], dim=1
        )
        for block in self.model.muv_blocks():
            x_mv, x_uv = released_block(block, mv, uv, geometry, text, self.attend)
            mv, uv = mv._replace(x=x_mv), uv._replace(x=x_uv)
        return {
            "views": self._head("mv", mv.x, mv_time, scene, "views"),
            "texture": self._head("uv", uv.x, uv_time, scene, "texture"),
        }

    def block_inputs(self, scene: Scene) -> tuple[Rows, Rows, Tensor, Tensor]:
        """What the first block reads: rows of both branches, geometry tokens, text."""
        shell: Any = self.model.shells["mv"]
        geometry = [self.model.geometry(scene.geometry[name]) for name in ("views", "texture")]
        return (
            self._rows(scene, "views")[0],
            self._rows(scene, "texture")[0],
            torch.cat(geometry, dim=1),
            shell.encode_text(scene.text).text,
        )

    def _rows(self, scene: Scene, name: str) -> tuple[Rows, Tensor]:
        """A group's rows, and the time embedding of every token."""
        shell: Any = self.model.shells[scene.layout.group(name).stream]
        latents = scene.latents[name]
        tokens = shell.embed(latents, scene.sigmas[name])
        time = shell.project_time(scene.sigmas[name])
        repeats = scene.layout.group(name).grid.tokens_per_frame
        rows = Rows(
            x=tokens,
            time=time.projected.repeat_interleave(repeats, dim=1),
            phase=phases(scene.layout, name, shell.rope_spec, latents.device),
        )
        return rows, time.embedding.repeat_interleave(repeats, dim=1)

    def _head(self, stream: str, x: Tensor, time: Tensor, scene: Scene, name: str) -> Tensor:
        shell: Any = self.model.shells[stream]
        table = shell.scale_shift_table.unsqueeze(0) + time.unsqueeze(2)
        shift, scale = table.unbind(2)
        normed = functional.layer_norm(x.float(), x.shape[-1:], eps=shell.eps)
        tokens = shell.proj_out((normed * (1 + scale) + shift).type_as(x))
        velocity: Tensor = shell.unpatchify(tokens, scene.layout.group(name).grid)
        return velocity


def released_block(
    block: MUVBlock, mv: Rows, uv: Rows, geometry: Tensor, text: Tensor, attend: Attend
) -> tuple[Tensor, Tensor]:
    """Both residual streams after one block.

    Args:
        block: its weights.
        mv: rows of the views.
        uv: rows of the texture.
        geometry: embedded geometry of all rows, views first, ``[B, L_mv + L_uv, C]``.
        text: context rows.
        attend: attention implementation.
    """
    first: Any = block.mv
    second: Any = block.uv
    length = mv.x.shape[1]
    cast = block.geometry_caster(geometry).unflatten(-1, (first.num_heads, -1))

    table = _modulation(first, mv.time)
    normed = _modulated(mv.x, table[0], table[1], first.eps)
    out = _self_attention(first.attn1, normed, normed, cast[:, :length], mv.phase, attend)
    x_mv = (mv.x.float() + out * table[2]).type_as(mv.x)

    uv_table = _modulation(second, uv.time)
    uv_normed = _modulated(uv.x, uv_table[0], uv_table[1], second.eps)
    keys = torch.cat([x_mv, uv_normed], dim=1)
    phase = torch.cat([mv.phase, uv.phase])
    out = _self_attention(second.attn1, uv_normed, keys, cast, phase, attend)
    x_uv = (uv.x.float() + out * uv_table[2]).type_as(uv.x)

    both = [b.norm2(x.float()).type_as(x) for b, x in ((first, x_mv), (second, x_uv))]
    update = _cross_attention(first, torch.cat(both, dim=1), text, attend)
    x_mv, x_uv = x_mv + update[:, :length], x_uv + update[:, length:]
    return _feed_forward(first, x_mv, table), _feed_forward(second, x_uv, uv_table)


def phases(layout: TokenLayout, name: str, spec: RopeSpec, device: torch.device) -> Tensor:
    """Rotations of a group's tokens as complex128, ``[L, 1, D/2]``."""
    grid, first = layout.group(name).grid, layout.first_frame(name)
    sizes = (grid.frames, grid.height, grid.width)
    starts = (first, 0, 0)
    parts = []
    for axis, frequencies in enumerate(spec.frequencies()):
        positions = torch.arange(sizes[axis], dtype=torch.float64) + starts[axis]
        angles = torch.outer(positions, frequencies)
        shape = [1, 1, 1, -1]
        shape[axis] = sizes[axis]
        rotation = torch.polar(torch.ones_like(angles), angles)
        parts.append(rotation.view(shape).expand(*sizes, -1))
    return torch.cat(parts, dim=-1).reshape(grid.num_tokens, 1, -1).to(device)


def rms_norm_eager(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm in separate fp32 passes, rounded before the weight is applied."""
    variance = x.to(torch.promote_types(x.dtype, torch.float32)).pow(2).mean(-1, keepdim=True)
    normed = x * torch.rsqrt(variance + eps)
    return normed.to(weight.dtype) * weight


def rotate_complex128(x: Tensor, phase: Tensor) -> Tensor:
    """``[B, L, N, D]`` turned in fp64."""
    planes = torch.view_as_complex(x.to(torch.float64).unflatten(-1, (-1, 2)))
    return torch.view_as_real(planes * phase).flatten(-2).type_as(x)


def _modulation(block: Any, time: Tensor) -> tuple[Tensor, ...]:
    table: Tensor = block.scale_shift_table
    return (table.unsqueeze(0) + time.float()).unbind(2)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    normed = functional.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (normed * (1 + scale) + shift).type_as(x)


def _self_attention(
    attn: Any, rows: Tensor, keys: Tensor, geometry: Tensor, phase: Tensor, attend: Attend
) -> Tensor:
    """Queries of the last rows over all keys; geometry joins both before the rotation."""
    heads = geometry.shape[2]
    query = rms_norm_eager(attn.to_q(rows), attn.norm_q.weight, attn.norm_q.eps)
    key = rms_norm_eager(attn.to_k(keys), attn.norm_k.weight, attn.norm_k.eps)
    value = attn.to_v(keys).unflatten(-1, (heads, -1))
    last = keys.shape[1] - rows.shape[1]
    query = query.unflatten(-1, (heads, -1)) + geometry[:, last:]
    key = key.unflatten(-1, (heads, -1)) + geometry
    turned = rotate_complex128(query, phase[last:]), rotate_complex128(key, phase)
    out: Tensor = attn.to_out[0](attend(*turned, value).flatten(2))
    return out


def _cross_attention(block: Any, normed: Tensor, text: Tensor, attend: Attend) -> Tensor:
    attn, heads = block.attn2, block.num_heads
    query = rms_norm_eager(attn.to_q(normed), attn.norm_q.weight, attn.norm_q.eps)
    key = rms_norm_eager(attn.to_k(text), attn.norm_k.weight, attn.norm_k.eps)
    rows = (r.unflatten(-1, (heads, -1)) for r in (query, key, attn.to_v(text)))
    out: Tensor = attn.to_out[0](attend(*rows).flatten(2))
    return out


def _feed_forward(block: Any, x: Tensor, table: tuple[Tensor, ...]) -> Tensor:
    update: Tensor = block.ffn(_modulated(x, table[3], table[4], block.eps))
    return (x.float() + update.float() * table[5]).type_as(x)
