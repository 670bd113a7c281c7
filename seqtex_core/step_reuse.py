"""Steps that repeat what the blocks did in an earlier one: an approximation, off unless asked for.

Source:
    TeaCache (arXiv 2411.19108) compares modulated inputs of the first block; here the frames that
    are being denoised are compared, as conditions keep their noise level over all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .branch_data import BranchInputs, BranchTimes, Hidden, StepCache
from .errors import UnsupportedError, UsageError
from .frames import Stream
from .trunk import Trunk, run_blocks

if TYPE_CHECKING:
    from .transformer import SeqTexTransformer


@dataclass(frozen=True, kw_only=True, eq=False)
class _Computed:
    """What is kept of the last step that was computed.

    Args:
        levels: noise levels by stream, ``[B, F]``.
        shown: modulated input of the first block by stream, ``[B, L, D]``.
        residual: what the blocks added to each stream.
        copied: what a copy head found, see :class:`~seqtex_core.branch_data.Hidden`.
        reuses: how often it has been reused since.
    """

    levels: Mapping[Stream, Tensor]
    shown: Mapping[Stream, Tensor]
    residual: Mapping[Stream, Tensor]
    copied: Tensor | None
    reuses: int = 0


class ResidualReuse:
    """Skips all blocks in steps whose input is near that of the last computed one.

    What the blocks added then is added again, and the clean latents that a copy head found then
    are those of the repeated step, too: its velocity leads there from its own noisy latents. Near
    means: the relative L1 distance of what the first block's attention sees, over the frames being
    denoised (those whose noise level moved), is below the threshold in both streams and every
    sample. Assign it to ``model.trunk``. One number per step is read back from the device. A rising
    noise level begins a new run.

    Args:
        threshold: largest distance at which the blocks are skipped; 0 computes every step.
        max_reuses: steps in a row that may be skipped.
        inner: the way through the blocks when they are computed.
        agree: makes the distance the same in all processes that share the work; for a
            ``ParallelTrunk`` as ``inner`` its ``agree``.

    Attributes:
        computed: steps that went through the blocks.
        reused: steps that did not.

    Raises:
        UsageError: a negative threshold, or no reuse at all.

    Example:
        >>> model.trunk = ResidualReuse(threshold=0.1)
    """

    def __init__(
        self,
        *,
        threshold: float,
        max_reuses: int = 3,
        inner: Trunk = run_blocks,
        agree: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not (0.0 <= threshold < math.inf) or max_reuses < 1:
            raise UsageError(
                "ResidualReuse",
                expected="a threshold of at least 0 and max_reuses of at least 1",
                got=f"threshold={threshold}, max_reuses={max_reuses}",
            )
        self.threshold, self.max_reuses = threshold, max_reuses
        self.inner, self.agree = inner, agree
        self.computed = self.reused = 0
        self._last: WeakKeyDictionary[StepCache, _Computed] = WeakKeyDictionary()

    def __call__(
        self,
        model: SeqTexTransformer,
        hidden: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: StepCache,
        /,
    ) -> Hidden:
        """The residual streams after the last block, see :func:`~seqtex_core.trunk.run_blocks`.

        Raises:
            UnsupportedError: gradients are on, or the times do not say their noise levels.
        """
        if torch.is_grad_enabled() or times.levels is None:
            raise UnsupportedError(
                "ResidualReuse",
                expected="inference with noise levels",
                got="gradients on" if times.levels is not None else "no BranchTimes.levels",
                remedy="Wrap the call in torch.no_grad().",
            )
        shown = _shown_to_attention(model, hidden, inputs, times)
        last = self._last.get(cache)
        same = last is not None and set(last.shown) == set(shown)
        if last is not None and same and self._is_near(last, shown, times, inputs):
            self.reused += 1
            self._last[cache] = replace(last, reuses=last.reuses + 1)
            uv = None if hidden.uv is None else hidden.uv + last.residual["uv"]
            return Hidden(mv=hidden.mv + last.residual["mv"], uv=uv, copied=last.copied)
        self.computed += 1
        after = self.inner(model, hidden, inputs, times, cache)
        residual: dict[Stream, Tensor] = {"mv": after.mv - hidden.mv}
        if hidden.uv is not None and after.uv is not None:
            residual["uv"] = after.uv - hidden.uv
        self._last[cache] = _Computed(
            levels={s: times.levels[s] for s in shown},
            shown=shown,
            residual=residual,
            copied=model.copied(after, cache),
        )
        return after._replace(copied=self._last[cache].copied)

    def _is_near(
        self,
        last: _Computed,
        shown: Mapping[Stream, Tensor],
        times: BranchTimes,
        inputs: Mapping[Stream, BranchInputs],
    ) -> bool:
        if last.reuses >= self.max_reuses or not self.threshold:
            return False
        assert times.levels is not None
        changes = []
        for stream, now in shown.items():
            fall = last.levels[stream] - times.levels[stream]
            rows = inputs[stream].rows
            fall = fall[:, rows.frame_of_row(now.device)]
            before, lengths = last.shown[stream], rows.sample_lengths
            changes.append(relative_change(now, before, fall, sample_lengths=lengths))
        change = torch.stack(changes).amax()
        if self.agree is not None:
            change = self.agree(change)
        return 0.0 < float(change) < self.threshold  # 0: nothing was denoised; NaN: compute


def relative_change(
    now: Tensor, before: Tensor, fall: Tensor, *, sample_lengths: Sequence[int] = ()
) -> Tensor:
    """Relative L1 distance over the rows being denoised, the largest of all samples.

    Args:
        now: ``[B, L, D]``.
        before: likewise.
        fall: by how much the noise level of each row fell, ``[B, L]``.
        sample_lengths: rows of each sample, where samples follow each other in a batch of 1.

    Returns:
        One number: 0 where no level moved, infinite where one rose.
    """
    moved = (fall != 0).float()
    difference, size = (
        _by_sample(x.abs().float().mean(-1) * moved, sample_lengths) for x in (now - before, before)
    )
    change = torch.where(size > 0, difference / size, torch.zeros_like(size)).amax()
    return torch.where((fall < 0).any(), torch.full_like(change, math.inf), change)


def _by_sample(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sum over the rows of every sample, out of ``[B, L]``."""
    if not lengths:
        return rows.sum(1)
    return torch.stack([part.sum() for part in rows.split(list(lengths), dim=1)])


def _shown_to_attention(
    model: SeqTexTransformer,
    hidden: Hidden,
    inputs: Mapping[Stream, BranchInputs],
    times: BranchTimes,
) -> dict[Stream, Tensor]:
    """Modulated input of the first block by stream, ``[B, L, D]``."""
    block = next(model.muv_blocks())
    mv = block.mv.pre_attention(hidden.mv, block.mv.modulation(times.mv), inputs["mv"].rows)
    shown: dict[Stream, Tensor] = {"mv": mv}
    if hidden.uv is not None and times.uv is not None:
        modulation = block.uv.modulation(times.uv)
        shown["uv"] = block.uv.pre_attention(hidden.uv, modulation, inputs["uv"].rows)
    return shown
