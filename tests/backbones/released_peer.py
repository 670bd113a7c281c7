"""The released SeqTex transformer written out once more, from its description alone.

Plain functions over a table of weights under the released keys; nothing of the library is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]
ADAPTED = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ffn.net.0.proj",
    "ffn.net.2",
)


@dataclass(frozen=True, kw_only=True)
class PeerSizes:
    heads: int = 2
    head_dim: int = 24
    layers: int = 2
    ffn: int = 96
    channels: int = 16
    text: int = 32
    freq: int = 64
    rank: int = 4
    alpha: float = 2.0

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim


def released_shapes(sizes: PeerSizes) -> dict[str, tuple[int, ...]]:
    """Every key of a released checkpoint."""
    dim, shapes = sizes.dim, dict[str, tuple[int, ...]]()

    def linear(name: str, out: int, inner: int, *, adapted: bool = False) -> None:
        own = f"{name}.base_layer" if adapted else name
        shapes[f"{own}.weight"], shapes[f"{own}.bias"] = (out, inner), (out,)
        if adapted:
            shapes[f"{name}.lora_A.default.weight"] = (sizes.rank, inner)
            shapes[f"{name}.lora_B.default.weight"] = (out, sizes.rank)

    for name in ("patch_embedding", "pos_patch_embedding", "norm_patch_embedding"):
        shapes[f"{name}.weight"] = (dim, sizes.channels, 1, 2, 2)
        shapes[f"{name}.bias"] = (dim,)
    shapes["scale_shift_table"] = shapes["scale_shift_table_uv"] = (1, 2, dim)
    linear("condition_embedder.time_embedder.linear_1", dim, sizes.freq)
    linear("condition_embedder.time_embedder.linear_2", dim, dim)
    linear("condition_embedder.time_proj", 6 * dim, dim)
    linear("condition_embedder.text_embedder.linear_1", dim, sizes.text)
    linear("condition_embedder.text_embedder.linear_2", dim, dim)
    linear("proj_out", 4 * sizes.channels, dim)
    for layer in range(sizes.layers):
        block = f"blocks.{layer}"
        shapes[f"{block}.scale_shift_table"] = (1, 6, dim)
        shapes[f"{block}.scale_shift_table_uv"] = (1, 6, dim)
        for attention in ("attn1", "attn2", "attnuv"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                linear(f"{block}.{attention}.{part}", dim, dim, adapted=attention == "attn1")
            for part in ("norm_q", "norm_k"):
                shapes[f"{block}.{attention}.{part}.weight"] = (dim,)
        for norm in ("norm2", "normuv2"):
            shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (dim,)
        for ffn in ("ffn", "ffnuv"):
            linear(f"{block}.{ffn}.net.0.proj", sizes.ffn, dim, adapted=ffn == "ffn")
            linear(f"{block}.{ffn}.net.2", dim, sizes.ffn, adapted=ffn == "ffn")
        linear(f"{block}.geometry_caster", dim, dim)
    return shapes


def released_state(sizes: PeerSizes, *, seed: int = 0) -> State:
    """Random weights of a size that lets every part matter."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in released_shapes(sizes).items():
        drawn = torch.randn(shape, generator=generator)
        if ".norm" in name and name.endswith("weight"):
            state[name] = 1 + 0.1 * drawn
        elif "scale_shift_table" in name:
            state[name] = 0.3 * drawn
        elif name.endswith("bias"):
            state[name] = 0.05 * drawn
        else:
            state[name] = drawn / math.sqrt(math.prod(shape[1:]))
    return state


def released_forward(
    state: State, sizes: PeerSizes, mv: Tensor, uv: Tensor, timestep: Tensor, text: Tensor
) -> tuple[Tensor, Tensor]:
    """Predictions for views and texture.

    ``mv`` and ``uv`` are ``[B, 3C, F, h, w]``: noisy latents, positions, normals. ``timestep`` is
    ``[B, F_mv + F_uv]``, in thousandths.
    """
    frames = mv.shape[2]
    grids = [tuple(a // b for a, b in zip(x.shape[2:], (1, 2, 2), strict=True)) for x in (mv, uv)]
    parts = [x.chunk(3, dim=1) for x in (mv, uv)]
    x_mv, x_uv = (_patches(state, "patch_embedding", rgb) for rgb, _, _ in parts)
    geometry = torch.cat(
        [
            _patches(state, "pos_patch_embedding", position)
            + _patches(state, "norm_patch_embedding", normal)
            for _, position, normal in parts
        ],
        dim=1,
    )
    angles = torch.cat(
        [_angles(grids[0], 0, sizes.head_dim), _angles(grids[1], frames, sizes.head_dim)]
    )
    embedding, projected = _time(state, sizes, timestep)
    context = _linear(state, "condition_embedder.text_embedder.linear_1", text.to(mv.dtype))
    context = functional.gelu(context, approximate="tanh")
    context = _linear(state, "condition_embedder.text_embedder.linear_2", context)
    per_frame = [grid[1] * grid[2] for grid in grids]

    def rows(x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x[:, :frames], x[:, frames:]
        return (
            first.repeat_interleave(per_frame[0], dim=1),
            second.repeat_interleave(per_frame[1], dim=1),
        )

    times = rows(projected.unflatten(-1, (6, -1)))
    for layer in range(sizes.layers):
        x_mv, x_uv = _block(
            state, sizes, f"blocks.{layer}.", (x_mv, x_uv), times, geometry, context, angles
        )
    outputs = []
    names = ("scale_shift_table", "scale_shift_table_uv")
    for x, name, time, grid in zip((x_mv, x_uv), names, rows(embedding), grids, strict=True):
        shift, scale = (state[name][:, None] + time[:, :, None]).unbind(2)
        tokens = _linear(state, "proj_out", _layer_norm(x) * (1 + scale) + shift)
        pixels = tokens.unflatten(1, grid).unflatten(-1, (1, 2, 2, sizes.channels))
        outputs.append(
            torch.einsum("bfhwpqrc->bcfphqwr", pixels).reshape(
                len(x), sizes.channels, grid[0], 2 * grid[1], 2 * grid[2]
            )
        )
    return outputs[0], outputs[1]


def _block(
    state: State,
    sizes: PeerSizes,
    at: str,
    hidden: tuple[Tensor, Tensor],
    times: tuple[Tensor, Tensor],
    geometry: Tensor,
    context: Tensor,
    angles: Tensor,
) -> tuple[Tensor, Tensor]:
    x_mv, x_uv = hidden
    length = x_mv.shape[1]
    cast = _linear(state, f"{at}geometry_caster", geometry)
    tables = [state[f"{at}scale_shift_table{end}"][:, None] for end in ("", "_uv")]
    m = (tables[0] + times[0]).unbind(2)
    u = (tables[1] + times[1]).unbind(2)

    def attend(name: str, rows: Tensor, keys: Tensor, first: int) -> Tensor:
        """Queries from row ``first`` on; geometry is added before the rotation."""
        last, end = first + rows.shape[1], keys.shape[1]
        query = _rms(state, f"{at}{name}.norm_q", lora(f"{name}.to_q", rows))
        query = _rotate(_heads(query + cast[:, first:last], sizes), angles[first:last])
        key = _rms(state, f"{at}{name}.norm_k", lora(f"{name}.to_k", keys))
        key = _rotate(_heads(key + cast[:, :end], sizes), angles[:end])
        value = _heads(lora(f"{name}.to_v", keys), sizes)
        return lora(f"{name}.to_out.0", _softmax_attention(query, key, value))

    def lora(name: str, x: Tensor) -> Tensor:
        if name not in ADAPTED:
            return _linear(state, at + name, x)
        update = x @ state[f"{at}{name}.lora_A.default.weight"].T
        update = update @ state[f"{at}{name}.lora_B.default.weight"].T
        return _linear(state, f"{at}{name}.base_layer", x) + sizes.alpha / sizes.rank * update

    normed = _layer_norm(x_mv) * (1 + m[1]) + m[0]
    x_mv = x_mv + attend("attn1", normed, normed, 0) * m[2]
    normed = _layer_norm(x_uv) * (1 + u[1]) + u[0]
    keys = torch.cat([x_mv, normed], dim=1)  # the views as they are now, not normalised
    x_uv = x_uv + attend("attnuv", normed, keys, length) * u[2]

    both = torch.cat(
        [_layer_norm(x_mv, state, f"{at}norm2"), _layer_norm(x_uv, state, f"{at}normuv2")], dim=1
    )
    query = _rms(state, f"{at}attn2.norm_q", _linear(state, f"{at}attn2.to_q", both))
    key = _rms(state, f"{at}attn2.norm_k", _linear(state, f"{at}attn2.to_k", context))
    value = _linear(state, f"{at}attn2.to_v", context)
    out = _softmax_attention(*(_heads(x, sizes) for x in (query, key, value)))
    out = _linear(state, f"{at}attn2.to_out.0", out)
    x_mv, x_uv = x_mv + out[:, :length], x_uv + out[:, length:]

    def feed(name: str, x: Tensor, table: Sequence[Tensor]) -> Tensor:
        inner = lora(f"{name}.net.0.proj", _layer_norm(x) * (1 + table[4]) + table[3])
        return x + lora(f"{name}.net.2", functional.gelu(inner, approximate="tanh")) * table[5]

    return feed("ffn", x_mv, m), feed("ffnuv", x_uv, u)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _patches(state: State, name: str, latents: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return functional.conv3d(latents, weight, bias, stride=(1, 2, 2)).flatten(2).transpose(1, 2)


def _layer_norm(x: Tensor, state: State | None = None, name: str = "") -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
    return normed if state is None else normed * state[f"{name}.weight"] + state[f"{name}.bias"]


def _rms(state: State, name: str, x: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6) * state[f"{name}.weight"]


def _heads(x: Tensor, sizes: PeerSizes) -> Tensor:
    return x.unflatten(-1, (sizes.heads, sizes.head_dim))


def _softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    logits = torch.einsum("blnd,bmnd->bnlm", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("bnlm,bmnd->blnd", logits.softmax(-1), value).flatten(2)


def _angles(grid: tuple[int, ...], first_frame: int, head_dim: int) -> Tensor:
    """Rotation angles of every token, ``[L, D/2]``, fp64; axes are frame, row, column."""
    side = 2 * (head_dim // 6)
    widths = (head_dim - 2 * side, side, side)
    frame, row, column = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij"
    )
    parts = []
    for position, width in zip((frame + first_frame, row, column), widths, strict=True):
        exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
        parts.append(position.flatten()[:, None] * 10000.0**-exponents)
    return torch.cat(parts, dim=1)


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = (f(angles).to(x.dtype)[:, None] for f in (torch.cos, torch.sin))
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2)


def _time(state: State, sizes: PeerSizes, timestep: Tensor) -> tuple[Tensor, Tensor]:
    # in fp32, as released: a phase near 1000 is rounded by up to 6e-5, which is part of the model
    half = sizes.freq // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
    phase = timestep.float()[..., None] * frequencies
    sinusoid = torch.cat([phase.cos(), phase.sin()], dim=-1).to(state["scale_shift_table"])
    hidden = functional.silu(_linear(state, "condition_embedder.time_embedder.linear_1", sinusoid))
    embedding = _linear(state, "condition_embedder.time_embedder.linear_2", hidden)
    return embedding, _linear(state, "condition_embedder.time_proj", functional.silu(embedding))


Model = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
CONDITION_LEVEL = 5 * 0.015 / (1 + 4 * 0.015)


def released_sampling(
    model: Model,
    start: tuple[Tensor, Tensor],
    *,
    condition: Tensor,
    view: int,
    fresh_noise: Sequence[Tensor],
    shift: float,
) -> tuple[Tensor, Tensor]:
    """The released img2tex loop; the reference view comes out as it was given.

    ``model(mv, uv, timestep)`` predicts ``eps - x0``; ``fresh_noise`` is that of the reference view
    for every step.
    """
    from diffusers import UniPCMultistepScheduler

    solvers = []
    for _ in range(2):
        solver = UniPCMultistepScheduler(
            num_train_timesteps=1000,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
            solver_order=2,
            solver_type="bh2",
        )
        solver.set_timesteps(len(fresh_noise))
        solvers.append(solver)
    mv, uv = start
    for step, noise in enumerate(fresh_noise):
        now = solvers[0].timesteps[step]
        timestep = torch.ones(mv.shape[0], mv.shape[2] + uv.shape[2]) * now
        timestep[:, view] = 1000 * CONDITION_LEVEL
        mv = mv.clone()
        mv[:, :, view] = (1 - CONDITION_LEVEL) * condition + CONDITION_LEVEL * noise
        answers = model(mv, uv, timestep)
        mv = solvers[0].step(answers[0], now, mv, return_dict=False)[0]
        uv = solvers[1].step(answers[1], now, uv, return_dict=False)[0]
    mv = mv.clone()
    mv[:, :, view] = condition
    return mv, uv
