"""Sampling and devices: precision, nothing read back, the same noise everywhere."""

from __future__ import annotations

import pytest
import torch
from sampling_models import LOCKED, clean_latents, known, mixing_model, seed
from torch.utils._python_dispatch import TorchDispatchMode

from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.roles import NONSENSE
from seqtex_core.sampling import StepReport, sample
from seqtex_core.tasks import geo2mv, img2tex


def test_low_precision_answers_do_not_lower_the_latents_precision() -> None:
    out = sample(
        lambda latents, sigmas: {g: x.bfloat16() for g, x in latents.items()},
        geo2mv(),
        known(),
        sigmas=inference_sigmas(3),
        generator=seed(),
    )
    assert out["views"].dtype == torch.float32


class ReadBacks(TorchDispatchMode):
    """Counts operations that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.total += 1
        if any(word in str(func) for word in ("local_scalar", "nonzero", "is_nonzero", "equal")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_from_the_device() -> None:
    clean = clean_latents()
    mask = torch.rand(2, 1, 1, 8, 8) < 0.5
    plan = img2tex().with_frame("views", 2, LOCKED).with_frame("views", 3, NONSENSE)
    with ReadBacks() as seen:
        sample(
            mixing_model,
            plan,
            known(clean, lock_masks={"texture": mask}),
            sigmas=inference_sigmas(4).tolist(),
            generator=seed(),
            callback=lambda report: None,
        )
    assert seen.total > 50
    assert seen.found == []
    with ReadBacks() as control:
        bool(mask.any())
    assert control.found


@pytest.mark.gpu
def test_no_step_waits_for_the_device() -> None:
    clean = clean_latents()

    def callback(report: StepReport) -> None:
        torch.cuda.set_sync_debug_mode("error" if report.index < report.total - 1 else "default")

    try:
        sample(
            mixing_model,
            img2tex(),
            known(clean, device="cuda"),
            sigmas=inference_sigmas(4),
            generator=seed(),
            callback=callback,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_cpu_generator_gives_the_same_texture_on_cuda() -> None:
    clean = clean_latents()
    results = [
        sample(
            mixing_model,
            img2tex(),
            known(clean, device=device),
            sigmas=inference_sigmas(8),
            generator=seed(),
        )["texture"].cpu()
        for device in ("cpu", "cuda")
    ]
    # same noise; tanh and means round differently, a few ulps of numbers below 8 per step
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=2e-5)
