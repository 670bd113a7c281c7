"""Where Cosmos puts tokens, against diffusers; grids of different sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seqtex_backbones.cosmos.positions import CosmosPositions
from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.rope import apply_rope
from seqtex_core.testing.harness import randomize


def close(got: Tensor, want: Tensor) -> None:
    """A few roundings of numbers of unit size."""
    torch.testing.assert_close(got, want, rtol=2e-6, atol=2e-6)


VIEWS, TEXTURE = Grid(frames=2, height=3, width=4), Grid(frames=1, height=6, width=8)


def layout(keep: dict[str, Tensor] | None = None, texture: Grid = TEXTURE) -> TokenLayout:
    groups = (
        FrameGroup(name="views", stream="mv", grid=VIEWS),
        FrameGroup(name="texture", stream="uv", grid=texture),
    )
    return TokenLayout(groups=groups, keep=keep or {})


def positions(**changes: Any) -> CosmosPositions:
    given: dict[str, Any] = {"head_dim": 16, "rope_scale": (1.0, 4.0, 4.0)}
    return CosmosPositions(**(given | changes))


def test_rotary_tables_are_those_of_diffusers() -> None:
    """Scaling of each axis, frames per second, and the pairing, by rotating the same rows."""
    from diffusers.models.embeddings import apply_rotary_emb
    from diffusers.models.transformers.transformer_cosmos import CosmosRotaryPosEmbed

    rows = torch.randn(1, 24, 2, 16, generator=torch.Generator().manual_seed(0))
    for scale, fps in (((1.0, 4.0, 4.0), None), ((20 / 24, 2.0, 3.0), 16.0)):
        theirs = CosmosRotaryPosEmbed(hidden_size=16, rope_scale=scale)
        cos, sin = theirs(torch.zeros(1, 1, 2, 6, 8), fps=fps)
        want = apply_rotary_emb(
            rows.transpose(1, 2), (cos, sin), use_real=True, use_real_unbind_dim=-2
        )
        table = positions(rope_scale=scale, fps=fps).tables(layout())["mv"]
        close(apply_rope(rows, table), want.transpose(1, 2))


def test_a_texture_is_a_larger_picture_or_lies_over_the_views() -> None:
    extrapolated, interpolated = (
        positions(spread=spread).tables(layout())["uv"].cos.view(6, 8, 8)
        for spread in ("extrapolate", "interpolate")
    )
    mv = positions().tables(layout())["mv"].cos.view(2, 3, 4, 8)
    still = positions().axis_dims[0] // 2  # pairs that turn with frames
    assert torch.equal(extrapolated[:3, :4, still:], mv[0, ..., still:])
    assert torch.equal(interpolated[::2, ::2, still:], mv[0, ..., still:])
    assert not torch.equal(interpolated[1, 1, still:], mv[0, 0, 0, still:])


def learned() -> Any:
    from diffusers.models.transformers.transformer_cosmos import CosmosLearnablePositionalEmbed

    made = CosmosLearnablePositionalEmbed(
        hidden_size=12, max_size=(5, 10, 12), patch_size=(1, 2, 2)
    )
    randomize(made, seed=2)
    return made


@torch.no_grad()
def test_learned_positions_are_those_of_diffusers_and_blended_between() -> None:
    made = learned()
    tables = positions(spread="interpolate").learned(layout(), made)
    close(tables["mv"], made(torch.zeros(1, 1, 2, 6, 8))[0])
    uv = tables["uv"].view(6, 8, 12)
    third = made.pos_emb_t[2] + made.pos_emb_h[1] + made.pos_emb_w[2]
    close(uv[2, 4], third / (1e-6 + third.pow(2).mean().sqrt()))
    half = made.pos_emb_h[1:3].mean(0) + made.pos_emb_t[2] + made.pos_emb_w[0]
    close(uv[3, 0], half / (1e-6 + half.pow(2).mean().sqrt()))
    keep = {"views": torch.tensor([0, 5, 23]), "texture": torch.tensor([7])}
    packed = positions(spread="interpolate").learned(layout(keep), made)
    assert torch.equal(packed["mv"], tables["mv"][keep["views"]])
    assert torch.equal(packed["uv"], tables["uv"][keep["texture"]])


def test_grids_beyond_the_learned_positions_are_refused() -> None:
    with pytest.raises(UsageError, match="rows of 'texture'"):
        positions().learned(layout(), learned())
    assert positions().learned(layout(texture=Grid(frames=1, height=5, width=6)), learned())
    with pytest.raises(UsageError, match="frames of 'texture'"):
        positions().learned(layout(texture=Grid(frames=4, height=2, width=2)), learned())


def test_positions_that_nothing_has_been_learned_for_can_be_trained() -> None:
    """They are zero; a gradient that is not a number would spoil every weight."""
    made = learned()
    for table in made.parameters():
        torch.nn.init.zeros_(table)
    tables = positions(spread="interpolate").learned(layout(), made)
    assert not any(bool(rows.any()) for rows in tables.values())
    sum(rows.sum() for rows in tables.values()).backward()  # type: ignore[union-attr]
    assert all(bool(table.grad.isfinite().all()) for table in made.parameters())
