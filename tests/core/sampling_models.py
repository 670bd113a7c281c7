"""What the sampling tests share: models that know the answer, shapes, clean latents."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from seqtex_core.frame_run import KnownLatents
from seqtex_core.roles import FrameState, Role
from seqtex_core.sampling import PredictVelocity

Groups = Mapping[str, Tensor]
VIEWS_SHAPE = (2, 3, 4, 4, 4)
TEXTURE_SHAPE = (2, 3, 1, 8, 8)
LOCKED = FrameState(role=Role.DENOISE, lock=True)


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def clean_latents(batch: int = 2) -> dict[str, Tensor]:
    shapes = {"views": VIEWS_SHAPE, "texture": TEXTURE_SHAPE}
    return {g: torch.randn(batch, *s[1:], generator=seed(9)) for g, s in shapes.items()}


def known(clean: Groups | None = None, **options: object) -> KnownLatents:
    return KnownLatents(
        shapes={"views": VIEWS_SHAPE, "texture": TEXTURE_SHAPE},
        clean=clean or {},
        **options,  # type: ignore[arg-type]
    )


class PerfectModel:
    """Knows the clean latents, so its velocity is the true one; keeps what it was shown."""

    def __init__(self, clean: Groups) -> None:
        self.clean = clean
        self.seen: list[dict[str, Tensor]] = []
        self.sigmas: list[dict[str, Tensor]] = []

    def __call__(self, latents: Groups, sigmas: Groups) -> dict[str, Tensor]:
        self.seen.append({group: x.clone() for group, x in latents.items()})
        self.sigmas.append(dict(sigmas))
        return {
            group: (x - self.clean[group]) / sigmas[group][:, None, :, None, None].clamp_min(1e-6)
            for group, x in latents.items()
        }


def mixing_model(latents: Groups, sigmas: Groups) -> dict[str, Tensor]:
    """Every frame's velocity depends on every frame of every group that it is given."""
    level = sum(x.mean(dim=(1, 2, 3, 4)) for x in latents.values())
    assert isinstance(level, Tensor)
    return {
        group: torch.tanh(x + level[:, None, None, None, None]) + sigmas[group].mean()
        for group, x in latents.items()
    }


def exactly_informed(model: PerfectModel, levels: Tensor) -> PredictVelocity:
    """``model``, told the true level of denoised frames: what a perfect one needs."""
    steps = iter(levels)

    def predict(latents: Groups, sigmas: Groups) -> Mapping[str, Tensor]:
        sigma = next(steps)
        told = math.floor(1000 * min(sigma.item(), 1 - 1e-6)) / 1000
        true = {n: torch.where((s - told).abs() < 1e-6, sigma, s) for n, s in sigmas.items()}
        return model(latents, true)

    return predict
