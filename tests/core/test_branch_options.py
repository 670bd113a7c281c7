"""Options of the doubled model that are there to be compared with the paper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seqtex_backbones.registry import load_backbone
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import DEFAULT_STREAMS
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.tasks import TEXTURE, VIEWS, geo2mv, img2tex, img2uv
from seqtex_core.transformer import SeqTexTransformer

SIZES = {VIEWS: (2, 4, 4), TEXTURE: (1, 8, 8)}


def make(**options: Any) -> SeqTexTransformer:
    config = DecoupledConfig(mv_train="full", **options)
    torch.manual_seed(1)
    return SeqTexTransformer(load_backbone("wan-tiny", seed=0), config)


def inputs() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(2)
    latents = {n: torch.randn(1, 16, *size, generator=draw) for n, size in SIZES.items()}
    return latents, {name: torch.full((1, size[0]), 0.7) for name, size in SIZES.items()}


@torch.no_grad()
def velocity(
    model: SeqTexTransformer, *, geometry_seed: int = 3, texture_shift: float = 0.0
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(geometry_seed)
    maps = {
        name: GeometryLatents(
            position=torch.randn(1, 16, *size, generator=draw),
            normal=torch.randn(1, 16, *size, generator=draw),
        )
        for name, size in SIZES.items()
    }
    streams = model.config.streams(DEFAULT_STREAMS)
    layout = model.layout(SIZES, {name: streams[name] for name in SIZES})
    latents, sigmas = inputs()
    latents[TEXTURE] = latents[TEXTURE] + texture_shift
    return model(latents, sigmas, model.prepare(layout, geometry=maps))


def count(model: SeqTexTransformer) -> int:
    return sum(p.numel() for p in model.parameters())


def test_views_read_the_texture_in_the_joint_model_only() -> None:
    for branch, reads in (("copy", False), ("shared", False), ("joint", True)):
        model = make(uv_branch=branch)
        moved = velocity(model, texture_shift=1.0)[VIEWS] - velocity(model)[VIEWS]
        assert bool(moved.any()) == reads


def test_a_shared_branch_computes_what_its_copy_computes_and_has_no_weights_of_its_own() -> None:
    copied, shared, joint = (make(uv_branch=b) for b in ("copy", "shared", "joint"))
    for name, expected in velocity(copied).items():
        torch.testing.assert_close(velocity(shared)[name], expected, rtol=0, atol=0)
    assert count(shared) == count(joint) < count(copied)


def test_a_joint_model_computes_the_texture_of_geo2mv() -> None:
    joint = DecoupledConfig(uv_branch="joint").streams(DEFAULT_STREAMS)
    assert geo2mv().required_groups(joint) == (VIEWS, TEXTURE)
    assert geo2mv().required_groups(DecoupledConfig().streams(DEFAULT_STREAMS)) == (VIEWS,)


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({"geometry_use": "none", "geometry_gain": 1.0}, False),
        ({"geometry_use": "attention"}, False),  # the casters start at zero
        ({"geometry_use": "attention", "geometry_gain": 1.0}, True),
        ({"geometry_use": "input"}, True),
    ],
)
def test_where_geometry_is_read_at_the_start(options: dict[str, Any], reads: bool) -> None:
    model = make(**options)
    one, other = velocity(model, geometry_seed=3), velocity(model, geometry_seed=4)
    for name in SIZES:
        assert torch.equal(one[name], other[name]) != reads


@pytest.mark.parametrize(
    ("use", "embedding", "casters"),
    [("attention", True, True), ("input", True, False), ("none", False, False)],
)
def test_what_geometry_does_not_pass_through_does_not_train(
    use: str, embedding: bool, casters: bool
) -> None:
    model = make(geometry_use=use)
    assert {p.requires_grad for p in model.geometry.parameters()} == {embedding}
    for block in model.muv_blocks():
        assert {p.requires_grad for p in block.geometry_caster.parameters()} == {casters}


@pytest.mark.parametrize(
    "options", [{"uv_branch": "none"}, {"geometry_use": "keys"}, {"geometry_gain": -1.0}]
)
def test_other_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        DecoupledConfig(**options)


def test_img2uv_makes_no_views() -> None:
    plan, full = img2uv(condition_views=(1,)), img2tex(condition_views=(1,))
    assert [s.role.value for s in plan.groups[VIEWS]] == [
        "nonsense",
        "condition",
        "nonsense",
        "nonsense",
    ]
    assert plan.groups[TEXTURE] == full.groups[TEXTURE]
