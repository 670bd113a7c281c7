"""Approximations that a user can ask for: 8-bit products, and steps that repeat earlier ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from seqtex_core.errors import UnsupportedError
from seqtex_core.fp8_linear import reason_fp8_unsupported, use_fp8_linears
from seqtex_core.lora import merge_lora
from seqtex_core.parallel import ParallelTrunk
from seqtex_core.step_reuse import ResidualReuse
from seqtex_core.transformer import SeqTexTransformer


def check_fp8(device: torch.device) -> None:
    """Refuse a device without 8-bit products, before anything is loaded.

    Raises:
        UnsupportedError: it has none.
    """
    if why := reason_fp8_unsupported(device):
        raise UnsupportedError(
            "--fp8",
            expected="a device with 8-bit products",
            got=f"{device}: {why}",
            remedy="Leave --fp8 out.",
        )


def use_fp8(transformer: SeqTexTransformer) -> int:
    """Let a transformer compute in 8 bits, adapters folded in; returns how many layers do.

    Args:
        transformer: on the device where it works; changed in place.
    """
    merge_lora(transformer, keep_base=False)
    with torch.no_grad():
        return len(use_fp8_linears(transformer))


@contextmanager
def repeating_steps(
    transformer: SeqTexTransformer, threshold: float | None
) -> Iterator[ResidualReuse | None]:
    """Inside the block, steps whose input hardly changed repeat the last computed one.

    Args:
        transformer: its way through the blocks is as before after it.
        threshold: largest relative change; ``None`` computes every step.

    Yields:
        What counts the steps, or ``None``.
    """
    if threshold is None:
        yield None
        return
    inner = transformer.trunk
    agree = inner.agree if isinstance(inner, ParallelTrunk) else None
    reuse = ResidualReuse(threshold=threshold, inner=inner, agree=agree)
    transformer.trunk = reuse
    try:
        yield reuse
    finally:
        transformer.trunk = inner


def told(
    *, fp8_layers: int = 0, threshold: float | None = None, calls: tuple[int, int] | None = None
) -> dict[str, str]:
    """What is said of the approximations of a run; nothing without any.

    Args:
        fp8_layers: linear layers that compute in 8 bits.
        threshold: of the step reuse.
        calls: of the model, that were computed and that were repeated.
    """
    parts = []
    if fp8_layers:
        parts.append(f"8-bit products in {fp8_layers} layers")
    if threshold is not None and calls is not None:
        computed, reused = calls
        parts.append(
            f"{reused} of {computed + reused} model calls repeat an earlier one "
            f"(--step-reuse {threshold:g})"
        )
    return {"approximation": "; ".join(parts)} if parts else {}
