"""A stage that begins with the UV branch a copy of the MV branch."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import make_run, tiny_config, with_lora

from seqtex.training.config import StageSection, TrainingConfig
from seqtex.training.restart import restart_uv
from seqtex.training.trainer import train
from seqtex_core.lora import merged_state_dict


def two_stages(*, restart: bool) -> TrainingConfig:
    views = StageSection(steps=3, tasks={"geo2mv": 1}, learning_rate=1e-2, warmup_steps=1)
    # a rate so small that the second stage moves nothing by more than its rounding
    both = StageSection(
        steps=1, tasks={"img2tex": 1}, learning_rate=1e-12, warmup_steps=1, restart_uv=restart
    )
    return replace(tiny_config(), stages=(views, both))


@pytest.mark.parametrize("restart", [True, False])
def test_a_stage_begins_with_a_fresh_copy_if_asked(tmp_path: Path, restart: bool) -> None:
    run = make_run(two_stages(restart=restart), tmp_path)
    train(run, resume=False, say=lambda text: None)
    for block in run.transformer.muv_blocks():
        mv, uv = block.mv.state_dict(), block.uv.state_dict()
        equal = [torch.allclose(mv[k], uv[k], rtol=0, atol=1e-9) for k in uv]
        assert all(equal) == restart


def test_adapters_are_merged_into_the_copy(tmp_path: Path) -> None:
    run = make_run(with_lora(tiny_config(), tmp_path), tmp_path)
    block = next(run.transformer.muv_blocks())
    with torch.no_grad():
        for name, parameter in block.mv.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    restart_uv(run.transformer)
    merged = merged_state_dict(block.mv)
    for name, tensor in block.uv.state_dict().items():
        assert torch.equal(tensor, merged[name])
