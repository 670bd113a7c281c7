"""The VAE benchmark on tiny models: every row is checked; the FLOP of a texture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import runner, vae
from benchmarks.ceilings import Ceilings
from benchmarks.observe import Observed
from benchmarks.result import Memory
from benchmarks.runner import Session
from benchmarks.timing import Budget

LIMITS = Ceilings(
    gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e6, launch_s=1e-6, measured=()
)
TINY = {
    "wan": {"base_dim": 8},
    "cogvideox": {
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 16,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        **vae.COGVIDEOX_BLOCKS,
    },
}


def test_rows_are_right_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    families = [replace(family, narrow=TINY[family.name]) for family in vae.FAMILIES]
    monkeypatch.setattr(vae, "FAMILIES", families)
    nothing = Observed(
        kernels=(), shares={}, memory=Memory(peak_bytes=0.0, reserved_bytes=None, meaning="")
    )
    monkeypatch.setattr(runner, "observe", lambda call, device, *, profiles: nothing)  # slow
    monkeypatch.setattr(Session, "budget", Budget(warmup=0, least=1, most=1, seconds=0.0))
    session = Session(
        device=torch.device("cpu"), quick=True, seed=0, ceilings=LIMITS, say=lambda line: None
    )
    cases = [vae.run_cases([case], session) for case in vae._cases(session)]
    assert [len(rows) for rows in cases] == [2, 2, 2, 2]
    for rows in cases:
        assert all(row.status == "ok" and row.time is not None for row in rows)
        assert all(row.work.flop == rows[0].work.flop for row in rows)


def test_the_goal_of_a_texture() -> None:
    wan = vae.FAMILIES[0]
    ours = vae.texture_flop(wan, wan.one_frame) / 1e12
    assert ours <= vae.GOAL_TFLOP
    assert ours == pytest.approx(19.67, abs=0.01)
