"""Sums with the next norm, rows written in place, modulations of all blocks at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from seqtex_backbones.registry import load_backbone
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.joint_rows import JointRows
from seqtex_core.split_block import SplitBlock
from seqtex_core.testing.plain_block import PlainMUVBlock
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.trunk import run_blocks

SIZES: dict[str, tuple[int, int, int]] = {"views": (2, 4, 4), "texture": (1, 8, 8)}


@pytest.fixture(scope="module")
def model() -> SeqTexTransformer:
    config = DecoupledConfig(lora_rank=2, mv_train="full")
    return SeqTexTransformer(load_backbone("wan-tiny", seed=0), config).eval()


def inputs(model: SeqTexTransformer) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    generator = torch.Generator().manual_seed(0)
    layout = model.layout(SIZES, {"views": "mv", "texture": "uv"})
    channels = model.spec.latent_channels
    latents = {n: torch.randn(1, channels, *s, generator=generator) for n, s in SIZES.items()}
    sigmas = {n: torch.rand(1, s[0], generator=generator) for n, s in SIZES.items()}
    return latents, sigmas, model.prepare(layout)


@torch.no_grad()
def test_modulations_of_all_blocks_are_those_of_each(model: SeqTexTransformer) -> None:
    time = model.shells["mv"].encode_time(torch.rand(2, 3))
    for branch in ("mv", "uv"):
        blocks = [getattr(pair, branch) for pair in model.muv_blocks()]
        made = type(blocks[0]).modulations(blocks, time)
        assert made is not None
        assert len(made) == len(blocks) > 1
        for block, own in zip(blocks, made, strict=True):
            leaves, wanted = tree_leaves(own), tree_leaves(block.modulation(time))
            assert [type(leaf) for leaf in leaves] == [type(leaf) for leaf in wanted]
            for leaf, want in zip(leaves, wanted, strict=True):
                same = torch.equal(leaf, want) if isinstance(leaf, Tensor) else leaf == want
                assert same
        elsewhere = replace(time, projected=time.projected.to("meta"))
        assert type(blocks[0]).modulations(blocks, elsewhere) is None  # each makes its own


def test_a_step_gives_the_same_however_it_is_taken(model: SeqTexTransformer) -> None:
    """Fused or written out, in place or concatenated: fp32 sums in another order."""
    results = []
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            results.append(model(*inputs(model)))
    plain = [PlainMUVBlock.of(block) for block in model.muv_blocks()]

    def written_out(model: Any, hidden: Any, branches: Any, times: Any, cache: Any) -> Any:
        for block in plain:
            hidden = block(hidden, branches, times, None, model.attend)
        return hidden

    model.trunk = written_out
    try:
        with torch.no_grad():
            results.append(model(*inputs(model)))
    finally:
        model.trunk = run_blocks
    for name, want in results[-1].items():
        for got in results[:-1]:
            assert float((got[name].detach() - want).norm() / want.norm()) < 2e-6, name


def test_all_sublayers_of_a_split_block_learn(model: SeqTexTransformer) -> None:
    velocity = model(*inputs(model))
    loss = sum(v.square().mean() for v in velocity.values())
    for pair in model.muv_blocks():
        assert isinstance(pair.mv, SplitBlock)
        assert isinstance(pair.uv, SplitBlock)
    blocks = [pair.uv for pair in model.muv_blocks()]
    named = [(n, p) for block in blocks for n, p in block.named_parameters()]
    grads = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    for (name, _), grad in zip(named, grads, strict=True):
        assert grad is not None, name
        assert bool(grad.isfinite().all()), name


@pytest.mark.parametrize("grad", [False, True])
def test_joint_rows(grad: bool) -> None:
    first, second = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    with torch.set_grad_enabled(grad):
        joint = JointRows(first, (3, 4))
        assert all((place is None) == grad for place in joint.places)
        if joint.places[1] is not None:
            joint.places[1].copy_(second)
        put = joint.put(0, first)
        assert torch.equal(put, first)
        assert torch.equal(joint.joined(put, second), torch.cat([first, second], dim=1))
        assert JointRows(first, (3, 4), written=False).places == [None, None]
