"""The models whose machine code is looked at are those that there are."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from seqtex_backbones import BACKBONES, load_backbone
from seqtex_core.kernels import triton_launch, triton_residual, using_kernels
from seqtex_core.kernels.compile_report import MODELS, ModelKernels, cases
from seqtex_core.kernels.triton_backend import TritonKernels
from seqtex_core.transformer import SeqTexTransformer

FULL = tuple(name for name in BACKBONES if "tiny" not in name and "sketch" not in name)
TINY = {
    "wan-tiny": "Wan2.1 1.3B",
    "cosmos-tiny": "Cosmos 2B",
    "cogvideox-tiny-2b": "CogVideoX 2B",
    "cogvideox-tiny-5b": "CogVideoX 5B",
    "hunyuan-video-tiny": "HunyuanVideo",
    "ltx-video-tiny": "LTX-Video 2B",
    "mochi-tiny": "Mochi",
}
KINDS = ("NORM", "WEIGHT", "LAYER", "NORM_PER_HEAD", "ROPE", "ROPE_PER_HEAD", "HALF", "BIAS")


def named(name: str) -> ModelKernels:
    return next(model for model in MODELS if model.name == name)


@pytest.mark.parametrize("name", FULL)
def test_every_size_of_every_family(name: str) -> None:
    config: Any = BACKBONES.get(name)
    heads = (config.config.num_attention_heads, config.config.attention_head_dim)
    family = str(re.match("[a-z]+", name)[0])  # type: ignore[index]
    mine = [model for model in MODELS if model.name.lower().startswith(family)]
    assert heads in {(model.heads, model.head_dim) for model in mine}


class Recorder:
    """Stands for the modules of kernels; keeps the constants of every launch, computes nothing."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Recorder:
        return self

    def __getitem__(self, grid: object) -> Any:
        return lambda *inputs, **constants: self.seen.append(constants)


@pytest.mark.parametrize("name", TINY)
def test_a_family_launches_what_the_report_compiles(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms, rotation and centring of one block, at a size where nothing takes time."""
    recorder = Recorder()
    for module in (triton_launch, triton_residual):
        monkeypatch.setattr(module, "_kernels", lambda: recorder)
    monkeypatch.setattr(TritonKernels, "reason_unsupported", lambda self, inputs: None)
    model = SeqTexTransformer(load_backbone(name, seed=0)).eval().requires_grad_(False)
    spec = model.spec
    side = 4 * spec.patch_size[1]
    latents = {
        group: torch.zeros(1, spec.latent_channels, spec.patch_size[0], side, side)
        for group in ("views", "texture")
    }
    sizes = {group: (x.shape[2], side, side) for group, x in latents.items()}
    layout = model.layout(sizes, {"views": "mv", "texture": "uv"})
    sigmas = {group: torch.full((1, x.shape[2]), 0.5) for group, x in latents.items()}
    cache = model.prepare(layout)
    with torch.no_grad(), using_kernels(TritonKernels(interpreted=True)):
        model(latents, sigmas, cache)
    compiled = [case.constants for case in cases([named(TINY[name])])]
    prepared = {tuple(c[k] for k in KINDS) for c in recorder.seen if c.get("ROPE")}
    assert prepared <= {tuple(c[k] for k in KINDS) for c in compiled if "GEOMETRY" in c}
    assert bool(prepared) == (named(TINY[name]).rope is not None)
    norms, known = (
        {(c["CENTRED"], c["GATE"]) for c in launches if c.get("C") and c["NORM"] and c["PER_FRAME"]}
        for launches in (recorder.seen, compiled)
    )
    assert norms <= known
    assert (named(TINY[name]).centred, False) in norms
