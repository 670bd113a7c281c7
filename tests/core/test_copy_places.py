"""The copy head inside a transformer: which tokens it reads, and where its changes go."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from copying_models import CHANNELS, SIGMA, SIZES, dense, keeps, known, make, scene
from torch import Tensor

from seqtex_backbones.registry import load_backbone
from seqtex_core.branch_data import StepCache
from seqtex_core.copy_head import CopyConfig, CopyHead, area_shares
from seqtex_core.copy_places import CopyPlaces
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError
from seqtex_core.frames import TokenLayout
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.packed_layout import AnyLayout, PackedLayout
from seqtex_core.tasks import PROJECTION, TEXTURE, VIEWS
from seqtex_core.transformer import SeqTexTransformer


@torch.no_grad()
def velocity(
    model: SeqTexTransformer, layout: AnyLayout, batch: int, *, sample: int | None = None
) -> dict[str, Tensor]:
    latents, sigmas, geometry = scene(batch)
    if sample is not None:
        one = slice(sample, sample + 1)
        latents = {n: x[one] for n, x in latents.items()}
        sigmas = {n: x[one] for n, x in sigmas.items()}
        geometry = {n: maps.each(lambda x: x[one]) for n, maps in geometry.items()}
    count = next(iter(latents.values())).shape[0]
    cache = model.prepare(layout, geometry=geometry, clean=known(latents), batch_size=count)
    made: dict[str, Tensor] = model(latents, sigmas, cache)
    return made


def test_it_changes_the_present_tokens_of_its_target_and_nothing_else() -> None:
    keep = {name: indices[0] for name, indices in keeps(1).items()}
    with_head, without = make(CopyConfig(heads=3)), make(None)
    shared = {k: v for k, v in with_head.state_dict().items() if not k.startswith("copy_head.")}
    without.load_state_dict(shared)
    layout = TokenLayout(groups=dense(without).groups, keep=keep)
    one, other = velocity(with_head, layout, 1), velocity(without, layout, 1)
    for name in (VIEWS, PROJECTION):
        assert torch.equal(one[name], other[name])
    moved = (one[TEXTURE] - other[TEXTURE]).abs().sum(1).flatten()
    assert set(moved.nonzero()[:, 0].tolist()) == set(keep[TEXTURE].tolist())


def test_what_is_copied_is_the_clean_latents() -> None:
    """A head that copies one token everywhere makes that token, measured from the source."""
    model = make(CopyConfig(heads=1))
    head = model.copy_head
    assert isinstance(head, CopyHead)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.gate[2].bias.copy_(torch.tensor([50.0, 0.0]))
    layout = TokenLayout(groups=dense(model).groups, keep={PROJECTION: torch.tensor([7])})
    latents, _, _ = scene(1)
    base = known(latents)[PROJECTION]
    copied = base.flatten(2)[:, :, 7][:, :, None, None, None]
    clean = latents[TEXTURE] - SIGMA * velocity(model, layout, 1)[TEXTURE]
    torch.testing.assert_close(clean, copied - base, rtol=1e-5, atol=1e-5)


def first_places(cache: StepCache) -> CopyPlaces:
    assert cache.copies is not None
    return cache.copies.places[0]


def test_tokens_without_a_normal_are_not_known() -> None:
    model = make(CopyConfig(heads=3))
    layout = TokenLayout(groups=dense(model).groups, keep={PROJECTION: torch.tensor([2, 7, 11])})
    latents, sigmas, geometry = scene(1)
    points = geometry[PROJECTION].points
    assert points is not None
    points[:, 3:].flatten(2)[:, :, [2, 11]] = 0
    with torch.no_grad():
        cache = model.prepare(layout, geometry=geometry, clean=known(latents))
        assert first_places(cache).source_texels.tolist() == [7]
        model(latents, sigmas, cache)


def test_known_tokens_count_by_their_share_of_the_surface() -> None:
    model = make(CopyConfig(heads=3))
    latents, sigmas, geometry = scene(1)
    points = geometry[PROJECTION].points
    assert points is not None
    kept = torch.tensor([2, 7, 11, 12, 13])
    layout = TokenLayout(groups=dense(model).groups, keep={PROJECTION: kept})
    with torch.no_grad():
        cache = model.prepare(layout, geometry=geometry, clean=known(latents))
        place = first_places(cache)
        texels = points.flatten(2)[0, :3].T
        surface = geometry[TEXTURE].points.flatten(2)[0, :3].T.index_copy(0, kept, texels[kept])
        assert len(place.source_shares.unique()) > 1
        # another origin and scale
        torch.testing.assert_close(
            place.source_shares, area_shares(texels[kept], surface), rtol=1e-3, atol=0
        )
        even = replace(place, source_shares=torch.ones(5))
        other = replace(cache, copies=replace(cache.copies, places=(even,)))
        made, evenly = (model(latents, sigmas, c)[TEXTURE] for c in (cache, other))
        assert float((made - evenly).abs().max()) > 1e-3


def test_packed_samples_equal_samples_alone() -> None:
    model = make(CopyConfig(heads=3))
    keep = keeps(3)
    packed = PackedLayout.of(dense(model), keep)
    together = velocity(model, packed, 3)
    for row in range(3):
        alone = velocity(model, packed.samples[row], 3, sample=row)
        for name in SIZES:
            torch.testing.assert_close(together[name][row], alone[name][0], rtol=2e-4, atol=2e-5)


def test_a_batch_of_one_layout_equals_samples_alone() -> None:
    model = make(CopyConfig(heads=3))
    together = velocity(model, dense(model), 2)
    for row in range(2):
        alone = velocity(model, dense(model), 2, sample=row)
        torch.testing.assert_close(together[TEXTURE][row], alone[TEXTURE][0], rtol=2e-4, atol=2e-5)


def test_views_alone_need_no_copies() -> None:
    model = make(CopyConfig())
    latents, sigmas, geometry = scene(1)
    layout = model.layout({VIEWS: SIZES[VIEWS]}, {VIEWS: "mv"})
    cache = model.prepare(layout, geometry={VIEWS: geometry[VIEWS]})
    made = model({VIEWS: latents[VIEWS]}, {VIEWS: sigmas[VIEWS]}, cache)
    assert set(made) == {VIEWS}


def test_off_the_surface_nothing_counts_into_the_box() -> None:
    """A part far from the origin: tokens without surface lie at 0, and are there in dense runs."""
    model = make(CopyConfig())
    latents, _, geometry = scene(1)
    surface = torch.tensor([0, 1, 2, 7, 9])
    for name in (PROJECTION, TEXTURE):
        points = geometry[name].points
        assert points is not None
        rows = points.flatten(2)
        rows[:, :3] += 5
        off = torch.ones(20).bool().index_fill(0, surface, False)
        rows[:, :, off] = 0
    keep = dict.fromkeys((PROJECTION, TEXTURE), surface)
    fitting, all_tokens = (
        first_places(model.prepare(layout, geometry=geometry, clean=known(latents)))
        for layout in (TokenLayout(groups=dense(model).groups, keep=keep), dense(model))
    )
    assert torch.equal(all_tokens.source_points, fitting.source_points)
    assert torch.equal(all_tokens.target_points[surface], fitting.target_points)
    assert float(fitting.source_points[:, :3].abs().amax()) <= 1 + 1e-5


def test_what_a_copy_head_needs_is_asked_for() -> None:
    model = make(CopyConfig())
    latents, _, geometry = scene(1)
    with pytest.raises(UsageError, match="clean"):
        model.prepare(dense(model), geometry=geometry)
    other = {PROJECTION: latents[PROJECTION][..., :2]}
    with pytest.raises(UsageError, match="clean"):
        model.prepare(dense(model), geometry=geometry, clean=other)
    groups = {VIEWS: "mv", TEXTURE: "uv"}
    layout = model.layout({name: SIZES[name] for name in groups}, groups)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="projection"):
        model.prepare(layout, geometry={name: geometry[name] for name in groups})


@pytest.mark.parametrize("shape", [(1, 6, 1, 4, 5), (1, 3, 1, 5, 4), (2, 6, 1, 5, 4)])
def test_points_are_those_of_the_maps(shape: tuple[int, ...]) -> None:
    maps = torch.zeros(1, CHANNELS, 1, 5, 4)
    with pytest.raises(UsageError, match="points"):
        GeometryLatents(position=maps, normal=maps, points=torch.zeros(shape))


def test_geometry_without_points_is_refused() -> None:
    model = make(CopyConfig())
    _, _, geometry = scene(1)
    bare = {n: GeometryLatents(position=g.position, normal=g.normal) for n, g in geometry.items()}
    with pytest.raises(UsageError, match="points"):
        model.prepare(dense(model), geometry=bare)


def test_groups_on_different_grids_are_refused() -> None:
    model = make(CopyConfig(source=VIEWS, target=TEXTURE))
    _, _, geometry = scene(1)
    with pytest.raises(UsageError, match="one grid"):
        model.prepare(dense(model), geometry=geometry)


def test_models_that_cannot_copy_are_refused() -> None:
    with pytest.raises(UsageError, match="uv branch"):
        DecoupledConfig(copy=CopyConfig(), uv_branch="joint")
    config = DecoupledConfig(mv_train="full", copy=CopyConfig())
    with pytest.raises(UsageError, match="one latent texel"):
        SeqTexTransformer(load_backbone("wan-tiny", seed=0), config)
