"""Steps that repeat an earlier one, of models with a copy head: what it found is repeated too."""

from __future__ import annotations

import pytest
import torch
from copying_models import SIGMA, SIZES, dense, keeps, known, make, scene
from torch import Tensor

from seqtex_core.branch_data import StepCache
from seqtex_core.copy_head import CopyConfig
from seqtex_core.packed_layout import AnyLayout, PackedLayout
from seqtex_core.step_reuse import ResidualReuse
from seqtex_core.tasks import PROJECTION, TEXTURE, VIEWS
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.trunk import run_blocks

BATCH = 2
LATER = SIGMA - 0.3
Groups = dict[str, Tensor]


def step(start: Groups, sigma: float) -> tuple[Groups, Groups]:
    """Latents and levels of a step: the texture's noise fell, as if it was made of ones."""
    latents = {**start, TEXTURE: 1 + sigma * start[TEXTURE]}
    sigmas = {name: torch.full((BATCH, size[0]), 0.07) for name, size in SIZES.items()}
    sigmas[TEXTURE].fill_(sigma)
    return latents, sigmas


@pytest.fixture(scope="module")
def model() -> SeqTexTransformer:
    return make(CopyConfig(heads=3)).eval().requires_grad_(False)


def prepared(model: SeqTexTransformer, *, packed: bool) -> tuple[Groups, StepCache]:
    start, _, geometry = scene(BATCH)
    layout: AnyLayout = dense(model)
    if packed:
        layout = PackedLayout.of(dense(model), keeps(BATCH))
    with torch.no_grad():
        cache = model.prepare(layout, geometry=geometry, clean=known(start), batch_size=BATCH)
    return start, cache


def clean_texture(latents: Groups, sigmas: Groups, velocity: Groups) -> Tensor:
    shown = velocity[TEXTURE] != 0
    level = sigmas[TEXTURE][:, None, :, None, None]
    return (latents[TEXTURE] - level * velocity[TEXTURE]) * shown


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_a_repeated_step_leads_to_what_was_found_before(
    model: SeqTexTransformer, packed: bool
) -> None:
    assert model.copy_head is not None
    start, cache = prepared(model, packed=packed)
    first, later = step(start, SIGMA), step(start, LATER)
    computed = [model(*x, cache) for x in (first, later)]
    calls: list[int] = []
    hook = model.copy_head.register_forward_hook(lambda *_: calls.append(1))
    model.trunk = reuse = ResidualReuse(threshold=1e6)
    try:
        made = [model(*x, cache) for x in (first, later)]
    finally:
        model.trunk = run_blocks
        hook.remove()
    assert (reuse.computed, reuse.reused) == (1, 1)
    assert len(calls) == BATCH  # once per sample, in the first step alone
    for name in SIZES:
        assert torch.equal(made[0][name], computed[0][name])
    found, again = (clean_texture(*x, v) for x, v in zip((first, later), made, strict=True))
    # x - sigma * v cancels what the velocity divided by sigma: a few roundings of values near 5
    torch.testing.assert_close(again, found, rtol=0, atol=5e-6)
    assert float((clean_texture(*later, computed[1]) - found).abs().amax()) > 1e-3


@torch.no_grad()
def test_without_a_repeated_step_the_head_makes_bit_equal_latents(model: SeqTexTransformer) -> None:
    start, cache = prepared(model, packed=False)
    for sigma in (SIGMA, LATER):
        want = model(*step(start, sigma), cache)
        model.trunk = ResidualReuse(threshold=0.0)
        try:
            got = model(*step(start, sigma), cache)
        finally:
            model.trunk = run_blocks
        assert all(torch.equal(got[name], want[name]) for name in (VIEWS, PROJECTION, TEXTURE))


@torch.no_grad()
def test_views_alone_are_repeated_without_a_head(model: SeqTexTransformer) -> None:
    start, cache = prepared(model, packed=False)
    model.trunk = reuse = ResidualReuse(threshold=1e6)
    try:
        for sigma in (SIGMA, LATER):
            levels = torch.full((BATCH, SIZES[VIEWS][0]), sigma)
            made = model({VIEWS: start[VIEWS]}, {VIEWS: levels}, cache)
            assert set(made) == {VIEWS}
    finally:
        model.trunk = run_blocks
    assert reuse.reused == 1
