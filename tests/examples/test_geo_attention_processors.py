"""The example's processors against the ones that diffusers' models bring."""

from __future__ import annotations

import copy
import inspect
import sys
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch
from diffusers_models import diffusers_model, random_transformer
from torch import Tensor

from seqtex_backbones.cogvideox.configs import COGVIDEOX_TINY_2B, COGVIDEOX_TINY_5B
from seqtex_backbones.hunyuan_video.configs import HUNYUAN_VIDEO_TINY
from seqtex_backbones.ltx.configs import LTX_TINY
from seqtex_core import GeometryLatents

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "geo_attention_processors.py"
TOLERANCE = 4e-6  # fp32, numbers of order 1, a few blocks


def _load() -> ModuleType:
    spec = util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[EXAMPLE.stem] = module
    spec.loader.exec_module(module)
    return module


example = _load()


def cogvideox_inputs(model: Any) -> dict[str, Tensor]:
    given: dict[str, Any] = {
        "hidden_states": torch.randn(2, 3, model.config.in_channels, 8, 12),
        "timestep": torch.tensor([500, 300]),
    }
    if model.config.use_rotary_positional_embeddings:
        given["image_rotary_emb"] = diffusers.models.embeddings.get_3d_rotary_pos_embed(
            model.config.attention_head_dim, ((0, 0), (4, 6)), (4, 6), 3
        )
    return given


def ltx_inputs(model: Any) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, 3 * 4 * 6, model.config.in_channels),
        "timestep": torch.tensor([500, 300]),
        "encoder_attention_mask": torch.tensor([[1] * 5 + [0] * 3, [1] * 8]),
        "num_frames": 3,
        "height": 4,
        "width": 6,
        "rope_interpolation_scale": (0.3, 32.0, 32.0),
    }


def hunyuan_inputs(model: Any) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(2, model.config.in_channels, 3, 8, 12),
        "timestep": torch.tensor([500, 300]),
        "encoder_attention_mask": torch.tensor([[1] * 5 + [0] * 3, [1] * 8]),
        "pooled_projections": torch.randn(2, model.config.pooled_projection_dim),
        "guidance": torch.tensor([6000.0, 6000.0]),
    }


MODELS = {
    "cogvideox-2b": (COGVIDEOX_TINY_2B, cogvideox_inputs, "text_embed_dim"),
    "cogvideox-5b": (COGVIDEOX_TINY_5B, cogvideox_inputs, "text_embed_dim"),
    "ltx-video": (LTX_TINY, ltx_inputs, "caption_channels"),
    "hunyuan-video": (HUNYUAN_VIDEO_TINY, hunyuan_inputs, "text_embed_dim"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_itself_until_its_casters_are_not_zero(name: str) -> None:
    entry, inputs_of, text_dim = MODELS[name]
    changes = {"sample_width": 12, "sample_height": 8, "sample_frames": 9}
    model = diffusers_model(
        random_transformer(entry), entry, **(changes if name.startswith("cog") else {})
    )
    length = model.config.max_text_seq_length if name.startswith("cog") else 8
    given = inputs_of(model)
    given["encoder_hidden_states"] = torch.randn(2, length, model.config[text_dim])

    @torch.no_grad()
    def call(one: Any = model) -> Tensor:
        made: Tensor = one(**given, return_dict=False)[0].float()
        return made

    want, before = call(), set(model.state_dict())
    geo = example.GeoAttentionLayers(model, geometry_dim=5)
    torch.testing.assert_close(call(), want, rtol=0, atol=TOLERANCE)
    rows = torch.randn(1, 3 * 4 * 6, 5)
    geo.show(rows)
    torch.testing.assert_close(call(), want, rtol=0, atol=TOLERANCE)
    for processor in geo.processors:
        torch.nn.init.normal_(processor.geometry_caster.weight, std=0.2)
    told = call()
    assert float((told - want).abs().max()) > 1e-2
    geo.show(rows.roll(1, dims=1))  # every row counts, and in its place
    assert float((call() - told).abs().max()) > 1e-3
    geo.show(None)
    torch.testing.assert_close(call(), want, rtol=0, atol=TOLERANCE)
    geo.show(rows)
    model(**given, return_dict=False)[0].square().mean().backward()
    casters = [processor.geometry_caster.weight for processor in geo.processors]
    assert all(float(weight.grad.abs().max()) > 0 for weight in casters)
    assert len(set(model.state_dict()) - before) == 2 * len(casters)
    half = copy.deepcopy(model).to(torch.bfloat16)
    geo.remove()
    assert set(model.state_dict()) == before
    assert torch.equal(call(), want)
    # in half precision as accurate as the original; geometry is given in fp32
    own = copy.deepcopy(model).to(torch.bfloat16)
    for name, value in given.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            given[name] = value.bfloat16()
    error, allowed = ((call(m) - w).norm() for m, w in ((half, told), (own, want)))
    assert 0 < float(error) <= 2 * float(allowed)


def test_rows_are_in_the_order_of_the_tokens() -> None:
    position = torch.arange(1 * 2 * 2 * 4 * 4.0).view(1, 2, 2, 4, 4)
    maps = GeometryLatents(position=position, normal=-position)
    rows = example.rows_of(maps, (1, 2, 2))
    assert rows.shape == (1, 2 * 2 * 2, 2 * 2 * 4)
    patch = position[0, :, 1, 2:, :2]  # frame 1, row 1, column 0: token 4 + 2
    assert torch.equal(rows[0, 6], torch.cat([patch.flatten(), -patch.flatten()]))


def test_the_example_runs() -> None:
    assert example.main().shape == (1, 4, 4, 8, 8)


def test_processors_are_given_what_they_name() -> None:
    """diffusers' layers pass on what the signature of the processor's ``__call__`` names."""
    for kind, _ in example.PROCESSORS.values():
        named = inspect.signature(kind.__call__).parameters
        assert {"hidden_states", "attention_mask", "image_rotary_emb"} <= set(named)
