"""What a doubled model refuses: incomplete backbones, inputs that do not fit, stale caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from seqtex_backbones.registry import empty_backbone, load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.checks import check_levels
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.transformer import SeqTexTransformer, StepCache

SIZES = {"views": (2, 4, 4), "texture": (1, 8, 8)}
STREAMS: dict[str, Any] = {"views": "mv", "texture": "uv"}
LORA = DecoupledConfig(lora_rank=2)


def backbone(**spec: object) -> Backbone:
    made = load_backbone("wan-tiny", seed=0)
    made.spec = replace(made.spec, **spec)  # type: ignore[arg-type]
    return made


def draw(batch: int = 1) -> dict[str, Tensor]:
    return {name: torch.randn(batch, 16, *size) for name, size in SIZES.items()}


def levels(value: float = 0.5) -> dict[str, Tensor]:
    return {name: torch.full((1, size[0]), value) for name, size in SIZES.items()}


def maps() -> dict[str, GeometryLatents]:
    return {name: GeometryLatents(position=x, normal=x) for name, x in draw().items()}


@pytest.fixture(scope="module")
def model() -> SeqTexTransformer:
    return SeqTexTransformer(backbone(), LORA)


def prepared(model: SeqTexTransformer, **options: Any) -> StepCache:
    given = {"geometry": maps()} | options
    return model.prepare(model.layout(SIZES, STREAMS), **given)


def learn(model: SeqTexTransformer, cache: StepCache) -> None:
    out = model(draw(), levels(), cache)
    torch.stack([x.square().mean() for x in out.values()]).sum().backward()


@pytest.mark.parametrize("targets", [("b.qvk",), ("attn1.to_q", "attn1.to_qq")])
def test_adapter_targets_that_no_block_has_are_named(targets: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"lora_targets.*'{targets[-1]}', which no block has"):
        SeqTexTransformer(backbone(lora_targets=targets), LORA)
    SeqTexTransformer(backbone(lora_targets=targets), DecoupledConfig(mv_train="full"))


def test_a_backbone_serves_one_model() -> None:
    made = backbone()
    SeqTexTransformer(made, LORA)
    with pytest.raises(UsageError, match="taken over by another SeqTexTransformer"):
        SeqTexTransformer(made, LORA)


@pytest.mark.parametrize("name", ["patch_embed", "time_text", "proj_out"])
def test_parts_that_a_shell_does_not_declare_are_not_copied_in_silence(name: str) -> None:
    made = backbone()
    declared = type(made.shell).shareable
    made.shell.shareable = {n: p for n, p in declared.items() if n != name}  # type: ignore[misc]
    with pytest.raises(UsageError, match=f"uv_share.*got {name}, which it does not"):
        SeqTexTransformer(made, LORA)
    SeqTexTransformer(made, replace(LORA, uv_branch="shared", mv_train="full"))
    SeqTexTransformer(made, replace(LORA, uv_share=LORA.uv_share - {name}))


def test_a_cross_attention_that_is_not_declared_is_not_copied_in_silence() -> None:
    made = backbone()
    made.blocks[1].shareable = {}  # type: ignore[misc]
    with pytest.raises(UsageError, match="got cross_attn, which it does not"):
        SeqTexTransformer(made, LORA)


@pytest.mark.parametrize(
    ("told", "call"),
    [
        ("backbone: expected a Backbone", lambda m: made_of(torch.nn.Linear(2, 2))),
        ("config: expected a Decoup", lambda m: made_of(backbone(), {"lora_rank": 2})),
        ("'views': expected latent", lambda m: m.layout({"views": (4, 4)}, {"views": "mv"})),
        ("layout: expected a TokenLayout", lambda m: m.prepare(SIZES)),
        ("text: expected a Tensor", lambda m: prepared(m, text="a chair")),
        ("geometry: expected a mapping", lambda m: prepared(m, geometry=maps()["views"])),
        ("geometry of 'views'.*got Tensor", lambda m: prepared(m, geometry=draw())),
        ("cache: expected a StepCache", lambda m: m(draw(), levels(), None)),
        ("latents: expected a mapping", lambda m: m(draw()["views"], levels(), prepared(m))),
        ("sigmas: expected a mapping", lambda m: m(draw(), 0.5, prepared(m))),
        ("latents.*floating", lambda m: m(whole(draw()), levels(), prepared(m))),
        ("sigmas.*floating", lambda m: m(draw(), whole(levels()), prepared(m))),
        ("latents.*on cpu", lambda m: m(away(draw()), levels(), prepared(m))),
        ("sigmas.*on cpu", lambda m: m(draw(), away(levels()), prepared(m))),
        ("500 to 500.*Divide", lambda m: m(draw(), levels(500.0), prepared(m))),
        ("-0.1 to -0.1", lambda m: m(draw(), levels(-0.1), prepared(m))),
        ("got nan", lambda m: m(draw(), levels(float("nan")), prepared(m))),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    model: SeqTexTransformer, told: str, call: Callable[[SeqTexTransformer], object]
) -> None:
    with pytest.raises(UsageError, match=told):
        call(model)


def made_of(backbone: Any, config: Any = None) -> SeqTexTransformer:
    return SeqTexTransformer(backbone, config)


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.long() for name, x in tensors.items()}


def away(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.to("meta") for name, x in tensors.items()}


def test_levels_are_read_on_a_cpu_only() -> None:
    """A meta tensor has no values, so that reading one would raise; so would a GPU wait."""
    check_levels("sigma", torch.full((2,), 5.0, device="meta"))
    with pytest.raises(UsageError):
        check_levels("sigma", torch.full((2,), 5.0))


def test_a_step_reads_no_value_from_its_device() -> None:
    """All weights and inputs on the meta device, which has no values to read."""
    empty = SeqTexTransformer(empty_backbone("wan-tiny"), LORA)
    with torch.no_grad():
        given = {name: GeometryLatents(position=x, normal=x) for name, x in away(draw()).items()}
        cache = prepared(empty, geometry=given)
        assert empty(away(draw()), away(levels(5.0)), cache)["views"].is_meta


def test_training_through_a_cache_without_gradients_is_refused(model: SeqTexTransformer) -> None:
    for precompute in (True, False):
        with torch.no_grad():
            cache = prepared(model, precompute=precompute)
            model(draw(), levels(), cache)
        with pytest.raises(UsageError, match="Call prepare in every training step"):
            model(draw(), levels(), cache)
    learn(model, prepared(model))
    assert all(p.grad is not None for p in model.geometry.parameters())
    model.zero_grad(set_to_none=True)


def test_a_frozen_model_gives_gradients_of_its_inputs_through_any_cache() -> None:
    frozen = SeqTexTransformer(backbone(), LORA).requires_grad_(False)
    with torch.no_grad():
        cache = prepared(frozen)
    given = {name: x.requires_grad_() for name, x in draw().items()}
    frozen(given, levels(), cache)["texture"].sum().backward()
    assert given["texture"].grad is not None


def _optimize(model: SeqTexTransformer) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    learn(model, prepared(model))
    optimizer.step()


def _load(model: SeqTexTransformer) -> None:
    model.load_state_dict(model.state_dict())


@pytest.mark.parametrize("change", [_optimize, _load, SeqTexTransformer.bfloat16])
def test_a_cache_of_weights_that_have_changed_is_refused(
    change: Callable[[SeqTexTransformer], object],
) -> None:
    model = SeqTexTransformer(backbone(), LORA)
    with torch.no_grad():
        cache = prepared(model)
        model(draw(), levels(), cache)
    change(model)
    with torch.no_grad():
        with pytest.raises(UsageError, match=r"before they changed\. Call prepare again"):
            model(draw(), levels(), cache)
        model(draw(), levels(), prepared(model))


def test_a_cache_made_in_inference_mode_serves_there() -> None:
    with torch.inference_mode():
        model = SeqTexTransformer(backbone(), LORA)
        cache = prepared(model)
        assert cache.versions is None
        model(draw(), levels(), cache)
