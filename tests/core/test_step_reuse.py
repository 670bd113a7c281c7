"""Steps that repeat the last one computed: exact at threshold 0, only denoised frames decide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqtex_backbones.registry import load_backbone
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UnsupportedError, UsageError
from seqtex_core.fp8_linear import Fp8Linear, reason_fp8_unsupported, use_fp8_linears
from seqtex_core.frame_run import KnownLatents
from seqtex_core.lora import merge_lora
from seqtex_core.packed_layout import PackedLayout
from seqtex_core.sampling import sample
from seqtex_core.step_reuse import ResidualReuse, relative_change
from seqtex_core.tasks import img2tex
from seqtex_core.transformer import SeqTexTransformer, StepCache
from seqtex_core.trunk import Trunk, run_blocks

SIZES = {"views": (2, 4, 6), "texture": (1, 8, 8)}
STREAMS: dict[str, Any] = {"views": "mv", "texture": "uv"}
SIGMAS = [1.0, 0.95, 0.9, 0.8, 0.6, 0.3, 0.0]


def seeded(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


@pytest.fixture(scope="module")
def model() -> SeqTexTransformer:
    config = DecoupledConfig(lora_rank=2, lora_alpha=1.0)
    model = SeqTexTransformer(load_backbone("wan-tiny", seed=0), config).eval()
    merge_lora(model, keep_base=False)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def cache(model: SeqTexTransformer) -> StepCache:
    with torch.no_grad():
        return model.prepare(model.layout(SIZES, STREAMS))


def textured(model: SeqTexTransformer, cache: StepCache, trunk: Trunk, *, seed: int = 0) -> Tensor:
    model.trunk = trunk
    known = KnownLatents(
        clean={"views": torch.ones(1, 16, *SIZES["views"])},
        shapes={"texture": (1, 16, *SIZES["texture"])},
    )
    try:
        made = sample(
            lambda x, sigmas: model(x, sigmas, cache),
            img2tex(num_views=2),
            known,
            sigmas=SIGMAS,
            generator=torch.Generator().manual_seed(seed),
        )
    finally:
        model.trunk = run_blocks
    return made["texture"]


def test_threshold_zero_is_exact_bit_by_bit(model: SeqTexTransformer, cache: StepCache) -> None:
    reuse = ResidualReuse(threshold=0.0)
    assert torch.equal(textured(model, cache, reuse), textured(model, cache, run_blocks))
    assert (reuse.computed, reuse.reused) == (6, 0)


def test_higher_thresholds_skip_more_and_stay_near(
    model: SeqTexTransformer, cache: StepCache
) -> None:
    exact = textured(model, cache, run_blocks)
    skipped = []
    for threshold in (0.02, 0.2, 0.9):
        reuse = ResidualReuse(threshold=threshold)
        made = textured(model, cache, reuse)
        skipped.append(reuse.reused)
        assert reuse.computed + reuse.reused == 6
        # what the blocks add is at most of the order of the stream itself
        assert float((made - exact).norm() / exact.norm()) < 1.0
        assert bool(reuse.reused) == (not torch.equal(made, exact))
    assert skipped == sorted(skipped)
    assert skipped[-1] > skipped[0]


def test_no_more_steps_in_a_row_than_allowed(model: SeqTexTransformer, cache: StepCache) -> None:
    reuse = ResidualReuse(threshold=1e6, max_reuses=2)
    textured(model, cache, reuse)
    assert (reuse.computed, reuse.reused) == (2, 4)  # c r r c r r


def test_a_new_run_begins_with_a_computed_step(model: SeqTexTransformer, cache: StepCache) -> None:
    reuse = ResidualReuse(threshold=1e6, max_reuses=99)
    first = textured(model, cache, reuse)
    assert (reuse.computed, reuse.reused) == (1, 5)
    again = textured(model, cache, reuse)
    assert (reuse.computed, reuse.reused) == (2, 10)
    assert torch.equal(first, again)


def test_only_rows_whose_level_fell_count() -> None:
    before, now = torch.ones(1, 4, 3), torch.ones(1, 4, 3)
    now[:, 0] = 100.0  # a condition, with noise drawn anew
    now[:, 2:] = 1.5
    fall = torch.tensor([[0.0, 0.0, 0.1, 0.1]])
    assert float(relative_change(now, before, fall)) == 0.5
    assert float(relative_change(now, before, torch.zeros(1, 4))) == 0.0
    assert float(relative_change(now, before, -fall)) == float("inf")


def test_the_sample_that_changed_most_decides_packed_or_not() -> None:
    torch.manual_seed(0)
    before, fall = torch.randn(3, 5, 4), torch.full((3, 5), 0.1)
    now = before.clone()
    now[1] += 1.0
    alone = relative_change(now[1:2], before[1:2], fall[1:2])
    assert torch.equal(relative_change(now, before, fall), alone)
    packed = [x.flatten(0, 1)[None] for x in (now, before, fall)]
    # one sum per sample either way, in another order
    torch.testing.assert_close(relative_change(*packed, sample_lengths=(5, 5, 5)), alone)
    last = relative_change(*packed, sample_lengths=(7, 3, 5))
    torch.testing.assert_close(last, relative_change(*(x[:, 7:10] for x in packed)))


def test_one_changed_sample_of_a_pack_is_computed(model: SeqTexTransformer) -> None:
    """Of 8 samples one changed wholly: on average over all they moved by an eighth of that."""
    sizes: Any = {"views": (1, 2, 2), "texture": (1, 4, 4)}
    sample_layout = model.layout(sizes, STREAMS)
    start = {n: torch.randn(8, 16, *s, generator=seeded(n)) for n, s in sizes.items()}
    moved = {n: x.clone() for n, x in start.items()}
    for n, x in moved.items():
        x[2] = torch.randn(x[2].shape, generator=seeded(n + "moved"))
    decided = []
    for layout in (sample_layout, PackedLayout(samples=(sample_layout,) * 8)):
        model.trunk = reuse = ResidualReuse(threshold=0.5)
        try:
            with torch.no_grad():
                cache = model.prepare(layout, batch_size=8)
                for latents, level in ((start, 0.5), (moved, 0.49)):
                    model(latents, {n: torch.full((8, 1), level) for n in sizes}, cache)
        finally:
            model.trunk = run_blocks
        decided.append(reuse.reused)
    assert decided == [0, 0]


def test_gradients_and_bad_options_are_refused(model: SeqTexTransformer, cache: StepCache) -> None:
    with pytest.raises(UsageError, match="threshold"):
        ResidualReuse(threshold=-0.1)
    with pytest.raises(UsageError, match="max_reuses"):
        ResidualReuse(threshold=0.1, max_reuses=0)
    x = {name: torch.zeros(1, 16, *size) for name, size in SIZES.items()}
    sigmas = {name: torch.ones(1, size[0]) for name, size in SIZES.items()}
    model.trunk = ResidualReuse(threshold=0.1)
    try:
        with torch.enable_grad(), pytest.raises(UnsupportedError, match="gradients"):
            model(x, sigmas, cache)
    finally:
        model.trunk = run_blocks


def test_fp8_linear_is_as_near_as_its_format() -> None:
    """e4m3 has 3 stored bits: relative steps of 1/8, errors up to 1/16 and uniform in between.

    Their root mean square is about 0.026 per factor, 0.037 for a product of two; sums of
    independent errors keep that ratio to the norm of the output.
    """
    if why := reason_fp8_unsupported(torch.device("cpu")):
        pytest.skip(f"this torch has no 8-bit products on the CPU: {why}")
    torch.manual_seed(0)
    layer = nn.Linear(64, 48)
    x = torch.randn(5, 7, 64) * torch.logspace(-3, 3, 7)[:, None]
    with torch.no_grad():
        exact, found = layer(x), Fp8Linear(layer)(x)
    error = (found - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert found.dtype == x.dtype
    assert 1e-3 < float(error.mean()) < 0.06
    with pytest.raises(UsageError, match="16"):
        Fp8Linear(nn.Linear(64, 40))


@pytest.mark.parametrize("shape", [(0, 64), (2, 0, 64)])
def test_fp8_gives_no_rows_for_none(shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        found = Fp8Linear(nn.Linear(64, 48))(torch.zeros(shape))
    assert (found.shape, found.dtype) == ((*shape[:-1], 48), torch.float32)


def test_fp8_replaces_layers_of_merged_models_only(cache: StepCache) -> None:
    if why := reason_fp8_unsupported(torch.device("cpu")):
        pytest.skip(f"this torch has no 8-bit products on the CPU: {why}")
    config = DecoupledConfig(lora_rank=2, lora_alpha=1.0)
    model = SeqTexTransformer(load_backbone("wan-tiny", seed=0), config).eval()
    with pytest.raises(UsageError, match="merged"):
        use_fp8_linears(model)
    merge_lora(model, keep_base=False)
    exact = textured(model.requires_grad_(False), cache, run_blocks)
    assert len(use_fp8_linears(model)) > 10
    made = textured(model, cache, run_blocks)
    assert 0.0 < float((made - exact).norm() / exact.norm()) < 0.2
