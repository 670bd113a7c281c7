"""The released transformer, loaded, computes what its description says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from released_peer import PeerSizes, released_forward, released_sampling, released_state
from safetensors.torch import save_file
from torch import Tensor

from seqtex_backbones.seqtex_release import RELEASED_DECOUPLED, load_released
from seqtex_backbones.unipc import UniPCSampler
from seqtex_backbones.wan.configs import WanConfig, WanEntry
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.frame_plan import FramePlan
from seqtex_core.frame_run import KnownLatents
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.lora import merge_lora, unmerge_lora
from seqtex_core.sampling import sample
from seqtex_core.tasks import geo2mv, img2tex, mv2tex, tex2mv
from seqtex_core.transformer import SeqTexTransformer, StepCache

SIZES = PeerSizes()
CONFIG = replace(RELEASED_DECOUPLED, lora_rank=SIZES.rank, lora_alpha=SIZES.alpha)
MV, UV = (2, 16, 4, 4, 6), (2, 16, 1, 8, 8)
ASKED = 1e-5  # of the whole model in fp32, whose outputs have deviation about 1


def entry(sizes: PeerSizes) -> WanEntry:
    config = WanConfig(
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_dim,
        num_layers=sizes.layers,
        ffn_dim=sizes.ffn,
        text_dim=sizes.text,
        freq_dim=sizes.freq,
    )
    return WanEntry(name="released-tiny", summary="for tests", config=config)


def loaded(
    folder: Path, sizes: PeerSizes = SIZES, config: DecoupledConfig = CONFIG
) -> SeqTexTransformer:
    save_file(released_state(sizes), folder / "released.safetensors")
    return load_released(folder / "released.safetensors", model=entry(sizes), config=config)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MAPS = {
    name: GeometryLatents(position=drawn(*shape, seed=seed), normal=drawn(*shape, seed=seed + 1))
    for name, shape, seed in (("views", MV, 10), ("texture", UV, 20))
}
TEXT = drawn(2, 7, SIZES.text, seed=5)


def ours(
    model: SeqTexTransformer, mv: Tensor, uv: Tensor, sigmas: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    out = model({"views": mv, "texture": uv}, sigmas, prepared(model))
    return out["views"], out["texture"]


def prepared(model: SeqTexTransformer) -> StepCache:
    sizes = {"views": MV[2:], "texture": UV[2:]}
    layout = model.layout(sizes, {"views": "mv", "texture": "uv"})
    return model.prepare(layout, geometry=MAPS, text=TEXT)


def peer(
    mv: Tensor, uv: Tensor, timestep: Tensor, *, sizes: PeerSizes = SIZES
) -> tuple[Tensor, Tensor]:
    """In fp64: the error of the comparison is then the library's own."""
    state = {name: tensor.double() for name, tensor in released_state(sizes).items()}
    joined = [
        torch.cat([x, MAPS[name].position, MAPS[name].normal], dim=1).double()
        for name, x in (("views", mv), ("texture", uv))
    ]
    return released_forward(state, sizes, *joined, timestep, TEXT)


TASKS = [
    img2tex(condition_views=(2,)),
    img2tex(condition_views=(0, 3)),
    geo2mv(),
    mv2tex(),
    tex2mv(),
]


@pytest.mark.parametrize("plan", TASKS, ids=lambda plan: str(plan.name))
@torch.no_grad()
def test_the_whole_model_at_the_levels_of_every_task(tmp_path: Path, plan: FramePlan) -> None:
    model = loaded(tmp_path)
    mv, uv = drawn(*MV, seed=1), drawn(*UV, seed=2)
    sigmas = plan.sigmas(torch.tensor([0.993, 0.266]))
    timestep = 1000 * torch.cat([sigmas["views"], sigmas["texture"]], dim=1)
    wanted = peer(mv, uv, timestep)
    for got, exact in zip(ours(model, mv, uv, sigmas), wanted, strict=True):
        assert exact.std() > 0.3
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=ASKED)


@torch.no_grad()
def test_wide_heads_and_more_layers(tmp_path: Path) -> None:
    sizes = replace(SIZES, heads=1, head_dim=128, layers=5, ffn=160, rank=128, alpha=64.0)
    model = loaded(tmp_path, sizes, RELEASED_DECOUPLED)
    mv, uv = drawn(*MV, seed=1), drawn(*UV, seed=2)
    sigmas = img2tex().sigmas(torch.tensor([0.5, 0.15]))
    timestep = 1000 * torch.cat([sigmas["views"], sigmas["texture"]], dim=1)
    for got, exact in zip(
        ours(model, mv, uv, sigmas), peer(mv, uv, timestep, sizes=sizes), strict=True
    ):
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=ASKED)


@pytest.mark.parametrize(
    "change",
    [{"geometry_order": "post_rope"}, {"uv_key_source": "norm_post_attn"}, {"lora_alpha": 4.0}],
    ids=lambda change: str(next(iter(change))),
)
@torch.no_grad()
def test_every_option_of_the_preset_matters(tmp_path: Path, change: dict[str, object]) -> None:
    mv, uv = drawn(*MV, seed=1), drawn(*UV, seed=2)
    sigmas = img2tex().sigmas(torch.tensor([0.5, 0.5]))
    changed = loaded(tmp_path, config=replace(CONFIG, **change))  # type: ignore[arg-type]
    outputs = [ours(model, mv, uv, sigmas)[1] for model in (loaded(tmp_path), changed)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2


@torch.no_grad()
def test_merged_and_unmerged_adapters_give_the_same(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    mv, uv = drawn(*MV, seed=1), drawn(*UV, seed=2)
    sigmas = img2tex().sigmas(torch.tensor([0.5, 0.8]))
    apart = ours(model, mv, uv, sigmas)
    merge_lora(model)
    for got, wanted in zip(ours(model, mv, uv, sigmas), apart, strict=True):
        assert not torch.equal(got, wanted)
        # both are rounded in fp32 (6e-8 of outputs below 8) in some twenty layers one after another
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    unmerge_lora(model)
    assert all(torch.equal(*pair) for pair in zip(ours(model, mv, uv, sigmas), apart, strict=True))


@pytest.mark.parametrize("shift", [3.0, 5.0])
@pytest.mark.parametrize("view", [0, 2])
@torch.no_grad()
def test_the_whole_sampling_loop(tmp_path: Path, shift: float, view: int) -> None:
    model, steps = loaded(tmp_path), 4
    clean = drawn(*MV, seed=7)
    plan = replace(img2tex(condition_views=(view,)), whole_timesteps=True)
    got = sample(
        partial(model, cache=prepared(model)),
        plan,
        KnownLatents(clean={"views": clean}, shapes={"texture": UV}),
        sigmas=inference_sigmas(steps, shift),
        generator=torch.Generator().manual_seed(3),
        sampler=UniPCSampler,
    )
    generator = torch.Generator().manual_seed(3)  # start noise of both groups, then the conditions'
    start = tuple(torch.randn(shape, generator=generator) for shape in (MV, UV))
    fresh = [torch.randn(2, 16, 1, 4, 6, generator=generator)[:, :, 0] for _ in range(steps)]

    def exact_peer(mv: Tensor, uv: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        first, second = peer(mv, uv, timestep)
        return first.float(), second.float()

    wanted = released_sampling(
        exact_peer,
        (start[0], start[1]),
        condition=clean[:, :, view],
        view=view,
        fresh_noise=fresh,
        shift=shift,
    )
    assert torch.equal(got["views"][:, :, view], clean[:, :, view])
    for name, exact in zip(("views", "texture"), wanted, strict=True):
        torch.testing.assert_close(got[name], exact, rtol=0, atol=2e-5)


def test_exact_timesteps_are_another_result(tmp_path: Path) -> None:
    """Told 999, 985, ... instead of 1000, 985.9, ...: the option is no formality."""
    model = loaded(tmp_path)
    outputs = [
        sample(
            partial(model, cache=prepared(model)),
            replace(img2tex(), whole_timesteps=whole),
            KnownLatents(clean={"views": drawn(*MV, seed=7)}, shapes={"texture": UV}),
            sigmas=inference_sigmas(4, 3.0),
            generator=torch.Generator().manual_seed(3),
        )["texture"]
        for whole in (False, True)
    ]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_baseline_of_the_benchmarks_is_the_released_model(tmp_path: Path) -> None:
    """What our speed is measured against computes the same, from weights that all differ."""
    from benchmarks.models import Scene
    from benchmarks.released import ReleasedModel

    model = loaded(tmp_path)
    latents = {"views": drawn(*MV, seed=1), "texture": drawn(*UV, seed=2)}
    sigmas = img2tex().sigmas(torch.tensor([0.993, 0.266]))
    layout = prepared(model).layout
    scene = Scene(layout=layout, latents=latents, sigmas=sigmas, geometry=MAPS, text=TEXT)
    got = ReleasedModel(model, model.attend)(scene)
    timestep = 1000 * torch.cat([sigmas["views"], sigmas["texture"]], dim=1)
    wanted = peer(latents["views"], latents["texture"], timestep)
    for name, exact in zip(("views", "texture"), wanted, strict=True):
        torch.testing.assert_close(got[name].double(), exact, rtol=0, atol=ASKED)
