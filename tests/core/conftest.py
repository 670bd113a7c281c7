"""Shared by the core tests: hypothesis settings and the accuracy rule for fast versions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import settings
from torch import Tensor

settings.register_profile("core", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("core")

AsAccurate = Callable[..., None]


@pytest.fixture(scope="session")
def assert_as_accurate() -> AsAccurate:
    """``check(fast, plain, exact, factor=2)``: the rule by which fast versions are judged."""

    def check(fast: Tensor, plain: Tensor, exact: Tensor, *, factor: float = 2.0) -> None:
        """The fast error is at most ``factor`` times the plain error in the same precision.

        The floor is one unit in the last place at the largest value, as the plain version may
        happen to be exact.
        """
        assert fast.dtype == plain.dtype
        assert fast.shape == plain.shape == exact.shape
        if exact.numel() == 0:
            return
        if fast.dtype == torch.float64:  # no wider truth: about ten roundings of the largest value
            torch.testing.assert_close(fast, exact, atol=2e-15 * exact.abs().max().item(), rtol=0)
            return
        floor = torch.finfo(fast.dtype).eps * exact.abs().max().item()
        plain_error = (plain.double() - exact.double()).abs().max().item()
        fast_error = (fast.double() - exact.double()).abs().max().item()
        assert fast_error <= factor * max(plain_error, floor)

    return check
