"""The measures and their intervals, against hand computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from seqtex.evaluation import estimate
from seqtex.evaluation.measures import MAX_PSNR, psnr, ssim
from seqtex_core.errors import UsageError


def test_psnr_is_what_one_computes_by_hand() -> None:
    truth = torch.full((3, 2, 2), 0.5)
    image = truth.clone()
    image[0, 0, 0] += 0.3  # of 2 pixels x 3 colours that count, one is off by 0.3
    image[:, 1, 1] = 0.0  # not counted
    mask = torch.tensor([[True, True], [False, False]])
    assert psnr(image, truth, mask) == pytest.approx(-10 * math.log10(0.09 / 6), abs=1e-5)
    assert psnr(truth, truth, mask) == MAX_PSNR
    frames = psnr(image.expand(2, -1, -1, -1), truth.expand(2, -1, -1, -1), mask.expand(2, -1, -1))
    assert frames == pytest.approx(psnr(image, truth, mask))
    with pytest.raises(UsageError, match="none"):
        psnr(image, truth, torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(UsageError, match="mask"):
        psnr(image, truth, mask.float())


def test_ssim_is_what_one_computes_by_hand() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[3:9, 4:15] = True
    a, b, c1, c2 = 0.3, 0.6, 1e-4, 9e-4
    flat = ssim(torch.full((3, 20, 20), a), torch.full((3, 20, 20), b), mask)
    assert flat == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-9)
    # One pixel counts: it is its own mean and has no variance, whatever is around it.
    noise = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0)).double()
    one = torch.zeros(20, 20, dtype=torch.bool)
    one[7, 11] = True
    x, y = noise[0, :, 7, 11], noise[1, :, 7, 11]
    alone = ((2 * x * y + c1) / (x * x + y * y + c1)).mean()
    assert ssim(noise[0], noise[1], one) == pytest.approx(float(alone), abs=1e-9)
    # Two pixels side by side, seen from the left one with weights w : 1.
    one[7, 12] = True
    w = math.exp(-0.5 / 1.5**2)
    expected = []
    for weights in (np.array([1, w]) / (1 + w), np.array([w, 1]) / (1 + w)):
        for channel in range(3):
            p, q = (n[channel, 7, 11:13].numpy() for n in noise)
            mp, mq = weights @ p, weights @ q
            vp, vq, cov = (
                weights @ p**2 - mp**2,
                weights @ q**2 - mq**2,
                weights @ (p * q) - mp * mq,
            )
            light = (2 * mp * mq + c1) / (mp**2 + mq**2 + c1)
            expected.append(light * (2 * cov + c2) / (vp + vq + c2))
    assert ssim(noise[0], noise[1], one) == pytest.approx(np.mean(expected), abs=1e-9)


def test_what_does_not_count_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    image, truth, other = torch.rand(3, 3, 24, 24, generator=generator)
    mask = torch.rand(24, 24, generator=generator) > 0.5
    changed = torch.where(mask, image, other)
    assert psnr(changed, truth, mask) == psnr(image, truth, mask)
    assert ssim(changed, truth, mask) == ssim(image, truth, mask)
    assert ssim(truth, truth, mask) == pytest.approx(1.0, abs=1e-9)


def test_intervals() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    found = estimate(list(values))
    assert found == estimate(list(values))
    assert (found.mean, found.median) == (pytest.approx(values.mean()), np.median(values))
    # The bootstrap of a mean is nearly normal: +-1.96 s / sqrt(n), here known to about 5%.
    half = 1.96 * values.std() / 20
    assert found.mean_interval[0] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.mean_interval[1] == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found.median_interval[0] < found.median < found.median_interval[1]
    assert estimate([3.0]).mean_interval == (3.0, 3.0)
    with pytest.raises(UsageError):
        estimate([])
