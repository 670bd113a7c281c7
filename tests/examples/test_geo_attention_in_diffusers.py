"""The live-pipeline example against diffusers itself and against this library's own adapter."""

from __future__ import annotations

import copy
import inspect
import sys
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor

from seqtex_backbones.wan.backbone import WanBackbone
from seqtex_core import DecoupledConfig, GeometryLatents, SeqTexTransformer, geo2mv, img2tex
from seqtex_core.roles import CONDITION_SIGMA

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "geo_attention_in_diffusers.py"
SHAPES = {"views": (4, 4, 6), "texture": (1, 8, 10)}
TOLERANCE = 2e-6  # fp32, numbers of order 1, two blocks: as in the conformance suite


def _load() -> ModuleType:
    spec = util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[EXAMPLE.stem] = module
    spec.loader.exec_module(module)
    return module


live = _load()


def transformer() -> Any:
    torch.manual_seed(3)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    ).eval()


def draw(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, 4, *size, generator=generator) for name, size in SHAPES.items()}


def maps() -> dict[str, GeometryLatents]:
    position, normal = draw(1), draw(2)
    return {n: GeometryLatents(position=position[n], normal=normal[n]) for n in SHAPES}


def randomize_casters(geo: Any, seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    for block in geo.transformer.blocks:
        weight = block.attn1.processor.geometry_caster.weight
        weight.data.normal_(std=0.2, generator=generator)


TEXT = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def call(model: Any, latents: Tensor, level: float = 0.6) -> Tensor:
    timestep = torch.full((len(latents),), 1000 * level)
    result: Tensor = model(
        hidden_states=latents, timestep=timestep, encoder_hidden_states=TEXT, return_dict=False
    )[0]
    return result


def test_with_zero_geometry_and_views_only_it_is_diffusers_own_output() -> None:
    model, views = transformer(), draw()["views"]
    want = call(model, views)
    geo = live.GeoWan(model)
    torch.testing.assert_close(call(model, views), want, rtol=0, atol=TOLERANCE)
    scene = live.Scene(shapes={"views": SHAPES["views"]}, geometry={"views": maps()["views"]})
    geo.show(scene)  # geometry is there, its casters are zero
    got = scene.unpack(call(model, scene.pack({"views": views})))
    torch.testing.assert_close(got["views"], want, rtol=0, atol=TOLERANCE)
    randomize_casters(geo)
    changed = scene.unpack(call(model, scene.pack({"views": views})))["views"]
    assert float((changed - want).abs().max()) > 1e-3
    geo.remove()
    assert torch.equal(call(model, views), want)
    assert set(model.state_dict()) == set(transformer().state_dict())


@pytest.mark.parametrize("with_geometry", [False, True])
def test_it_is_the_adapter_whose_texture_branch_is_still_a_copy(with_geometry: bool) -> None:
    """At the start the uv branch has the weights of the mv branch: the same model, shared."""
    model = transformer()
    adapted = SeqTexTransformer(WanBackbone(copy.deepcopy(model)), DecoupledConfig()).eval()
    geo, plan, clean = live.GeoWan(model), img2tex(), draw(4)
    if with_geometry:
        randomize_casters(geo)
        for block, ours in zip(model.blocks, adapted.blocks, strict=True):
            caster = block.attn1.processor.geometry_caster
            ours.geometry_caster.load_state_dict(caster.state_dict())
    scene = live.Scene(
        shapes=SHAPES, plan=plan, clean=clean, geometry=maps() if with_geometry else {}
    )
    geo.show(scene)
    seen, tokens = scene.seen_by_model(scene.pack(draw()), torch.full((2,), 600.0))
    latents, levels = scene.unpack(seen), plan.sigmas(torch.full((2,), 0.6))
    got = scene.unpack(call(model, scene.pack(draw())))
    layout = adapted.layout(SHAPES, {"views": "mv", "texture": "uv"})
    cache = adapted.prepare(layout, geometry=scene.geometry or None, text=TEXT)
    with torch.no_grad():
        want = adapted(latents, levels, cache)
    for name in SHAPES:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=TOLERANCE)
    # six tokens a view: the first view is told its own level, all others the pipeline's
    assert tokens.shape == (2, 4 * 6 + 20)
    torch.testing.assert_close(tokens[:, :6], torch.full((2, 6), 1000 * CONDITION_SIGMA))
    torch.testing.assert_close(tokens[:, 6:], torch.full((2, 38), 600.0))
    noisy = (latents["views"][:, :, 0] - (1 - CONDITION_SIGMA) * clean["views"][:, :, 0]).std()
    assert float(noisy) == pytest.approx(CONDITION_SIGMA, rel=0.25)  # 192 normal numbers


def test_views_do_not_read_the_texture() -> None:
    model = transformer()
    geo = live.GeoWan(model)
    randomize_casters(geo)
    scene = live.Scene(shapes=SHAPES, geometry=maps())
    geo.show(scene)
    latents = draw()
    base = scene.unpack(call(model, scene.pack(latents)))
    moved = {**latents, "texture": latents["texture"] + 1, "views": latents["views"]}
    other = scene.unpack(call(model, scene.pack(moved)))
    torch.testing.assert_close(other["views"], base["views"], rtol=0, atol=TOLERANCE)
    assert float((other["texture"] - base["texture"]).abs().max()) > 1e-2


def test_inside_the_pipelines_own_loop() -> None:
    model = transformer()
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    pipe = WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=model
    )
    pipe.set_progress_bar_config(disable=True)
    geo = live.GeoWan(pipe.transformer)
    randomize_casters(geo)

    def run(scene: Any, *, guidance: float = 1.0) -> dict[str, Tensor]:
        with torch.no_grad():
            geo.show(scene)
        frames = pipe(
            prompt_embeds=TEXT,
            negative_prompt_embeds=-TEXT,
            latents=scene.pack(draw()),
            guidance_scale=guidance,
            num_inference_steps=3,
            output_type="latent",
        ).frames
        made: dict[str, Tensor] = scene.finish(frames)
        return made

    clean = draw(4)
    scene = live.Scene(shapes=SHAPES, plan=img2tex(), clean=clean, geometry=maps())
    made = run(scene)
    assert torch.equal(made["views"][:, :, 0], clean["views"][:, :, 0])
    assert {name: tuple(x.shape[2:]) for name, x in made.items()} == SHAPES
    assert all(bool(x.isfinite().all()) for x in made.values())
    assert torch.equal(run(scene)["texture"], made["texture"])
    other = live.Scene(shapes=SHAPES, plan=img2tex(), clean=draw(8), geometry=maps())
    assert float((run(other)["texture"] - made["texture"]).abs().max()) > 1e-3
    assert run(scene, guidance=2.0)["texture"].shape == made["texture"].shape
    only = {"views": SHAPES["views"]}  # geo2mv: leave the texture out and it costs nothing
    plan = geo2mv()
    views = live.Scene(shapes=only, plan=plan, geometry={"views": maps()["views"]})
    assert set(run(views)) == {"views"}


def test_casters_and_embeddings_train_and_are_saved_with_the_transformer() -> None:
    model = transformer().requires_grad_(False)
    geo = live.GeoWan(model)
    for block in model.blocks:
        block.attn1.processor.requires_grad_(True)
    scene = live.Scene(shapes=SHAPES, geometry=maps())
    geo.show(scene)
    out = model(
        hidden_states=scene.pack(draw()),
        timestep=torch.full((2,), 600.0),
        encoder_hidden_states=TEXT,
        return_dict=False,
    )[0]
    out.square().mean().backward()
    casters = [block.attn1.processor.geometry_caster for block in model.blocks]
    assert all(float(c.weight.grad.abs().max()) > 0 for c in casters)
    assert "blocks.0.attn1.processor.geometry_caster.weight" in model.state_dict()


def test_strips_come_back_as_they_were() -> None:
    scene, latents = live.Scene(shapes=SHAPES), draw()
    strip = scene.pack(latents)
    assert strip.shape == (2, 4, 1, 2, 2 * (4 * 6 + 20))
    back = scene.unpack(strip)
    assert all(torch.equal(back[name], latents[name]) for name in latents)


def test_the_processor_is_given_the_rotation_by_name() -> None:
    """diffusers' ``Attention`` passes what the signature of the processor's ``__call__`` names."""
    named = inspect.signature(live.GeoProcessor.__call__).parameters
    assert {"hidden_states", "attention_mask", "rotary_emb"} <= set(named)
