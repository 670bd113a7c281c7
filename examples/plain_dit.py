"""Geo-Attention, mixed-resolution RoPE and frame roles in a diffusion transformer of one's own.

Plain PyTorch and ``seqtex_core``; no diffusers, no adapter. The model is the two classes ``Block``
and ``PlainDiT``, under sixty lines. One set of weights serves views and texture; a texture row
reads all rows, a view row reads view rows, each frame has its own noise level.

The toy to learn: every object has a colour pattern in space, seen in four views and laid out in a
larger texture. Given one view, make the others and the texture (``img2tex``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from seqtex_core import (
    FrameGroup,
    GeoAttention,
    GeoAttentionConfig,
    Grid,
    KnownLatents,
    Placement,
    Rope,
    RopeSpec,
    TokenLayout,
    TrainingSchedule,
    flow_matching_loss,
    gated_residual,
    img2tex,
    inference_sigmas,
    modulate,
    rope_table,
    sample,
    wan_axis_dims,
)

ByGroup = Mapping[str, Tensor]


class Block(nn.Module):
    """Attention and feed-forward, shifted, scaled and gated by each frame's noise level."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        config = GeoAttentionConfig(dim=dim, num_heads=num_heads, geometry_dim=dim)
        self.attention = GeoAttention(config)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.to_modulation = nn.Linear(dim, 6 * dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(self, x: Tensor, time: Tensor, place: Placement, layout: TokenLayout) -> Tensor:
        """The residual stream ``[B, L, dim]``, rows of the views first."""
        frames, num_views = layout.all_rows, layout.streams["mv"].num_tokens
        shift, scale, gate, *ffn = self.to_modulation(nn.functional.silu(time)).chunk(6, dim=-1)
        normed = modulate(self.norm(x), shift, scale, frames)
        mv, uv = slice(0, num_views), slice(num_views, None)
        views = self.attention(normed[:, mv], placement=place.rows(mv))
        texture = self.attention(
            normed[:, uv], placement=place.rows(uv), context=normed, context_placement=place
        )
        x = gated_residual(x, torch.cat([views, texture], dim=1), gate, frames)
        update = self.ffn(modulate(self.norm(x), ffn[0], ffn[1], frames))
        return gated_residual(x, update, ffn[2], frames)


class PlainDiT(nn.Module):
    """Predicts the velocity of every group; a patch is one texel, to keep this short."""

    def __init__(self, *, channels: int = 3, dim: int = 48, num_heads: int = 2, depth: int = 2):
        super().__init__()
        self.embed, self.head = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.embed_geometry = nn.Linear(3, dim)
        self.embed_time = nn.Sequential(nn.Linear(1, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList([Block(dim, num_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.spec = RopeSpec(axis_dims=wan_axis_dims(dim // num_heads))

    def forward(self, latents: ByGroup, sigmas: ByGroup, positions: ByGroup) -> ByGroup:
        """``u`` of latents ``x_sigma [B, C, F, H, W]`` at noise levels ``[B, F]``, by group."""
        layout = layout_of(latents)
        tables = rope_table(layout, self.spec, device=self.head.weight.device)
        place = Placement(
            rope=Rope.cat(list(tables.values())),
            geometry=self.embed_geometry(to_tokens(positions, layout)),
        )
        levels = torch.cat([sigmas[group.name] for group in layout.groups], dim=1)
        time = self.embed_time(levels.unsqueeze(-1))  # [B, frames, dim]
        x = self.embed(to_tokens(latents, layout))
        for block in self.blocks:
            x = block(x, time, place, layout)
        return from_tokens(self.head(self.norm(x)), layout)


def layout_of(latents: ByGroup) -> TokenLayout:
    """The token layout: the texture reads the views, the views never read the texture."""
    grids = {
        name: Grid(frames=x.shape[2], height=x.shape[3], width=x.shape[4])
        for name, x in latents.items()
    }
    return TokenLayout.of(
        [
            FrameGroup(name="views", stream="mv", grid=grids["views"]),
            FrameGroup(name="texture", stream="uv", grid=grids["texture"]),
        ]
    )


def to_tokens(maps: ByGroup, layout: TokenLayout) -> Tensor:
    """Rows ``[B, L, C]`` of maps ``[B, C, F, H, W]``."""
    groups = {name: rearrange(x, "b c f h w -> b (f h w) c") for name, x in maps.items()}
    return layout.all_rows.join(groups)


def from_tokens(rows: Tensor, layout: TokenLayout) -> ByGroup:
    """Inverse of :func:`to_tokens`."""
    parts = layout.all_rows.split_groups(rows)
    grids = {group.name: group.grid for group in layout.groups}
    return {
        name: rearrange(x, "b (f h w) c -> b c f h w", h=grids[name].height, w=grids[name].width)
        for name, x in parts.items()
    }


def toy_objects(batch: int, *, generator: torch.Generator) -> tuple[ByGroup, ByGroup]:
    """Positions and colours of random objects, by group.

    Colours are a random linear function of the position, another one for every object: what the
    given view shows determines the others and the texture, but only through geometry.
    """
    shapes = {"views": (4, 4, 4), "texture": (1, 8, 8)}
    mix = torch.randn(batch, 3, 3, generator=generator)
    positions, colours = {}, {}
    for name, shape in shapes.items():
        positions[name] = 2 * torch.rand(batch, 3, *shape, generator=generator) - 1
        colours[name] = torch.einsum("bij,bjfhw->bifhw", mix, positions[name])
    return positions, colours


def train(model: PlainDiT, *, steps: int, batch: int = 16, seed: int = 0) -> list[float]:
    """Losses of a few steps of flow matching under the task's frame roles."""
    generator = torch.Generator().manual_seed(seed)
    schedule, plan = TrainingSchedule(shift=1.0), img2tex(num_views=4, condition_views=(0,))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        positions, colours = toy_objects(batch, generator=generator)
        drawn = schedule.sample_sigmas(batch, generator=generator)
        noisy = plan.training_sample(colours, drawn.sigma, generator=generator)
        velocity = model(noisy.latents, noisy.sigmas, positions)
        loss = flow_matching_loss(velocity, noisy, weight=drawn.weight).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def texture(model: PlainDiT, *, steps: int = 8, seed: int = 1) -> tuple[ByGroup, ByGroup]:
    """What the model makes of one unseen object, and the truth."""
    generator = torch.Generator().manual_seed(seed)
    positions, colours = toy_objects(1, generator=generator)
    made = sample(
        lambda latents, sigmas: model(latents, sigmas, positions),
        img2tex(num_views=4, condition_views=(0,)),
        KnownLatents(
            shapes={name: tuple(x.shape) for name, x in colours.items()},
            clean={"views": colours["views"]},
        ),
        sigmas=inference_sigmas(steps, shift=1.0),
        generator=generator,
    )
    return made, colours


if __name__ == "__main__":
    torch.manual_seed(0)
    dit = PlainDiT()
    history = train(dit, steps=400)
    print(f"loss {sum(history[:10]) / 10:.3f} -> {sum(history[-10:]) / 10:.3f}")
    made, truth = texture(dit)
    for group, result in made.items():
        error = (result - truth[group]).square().mean() / truth[group].square().mean()
        print(f"{group}: relative squared error {float(error):.2f} (the mean colour has 1)")
