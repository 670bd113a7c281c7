"""What a run will hold in memory, and what is done so that it fits into less.

A stage's peak is the sum of the weights that are on the device then and of the tensors that the
stage makes; ``memory_needs`` measures both. Whoever asks for a budget gets the first measures, in
the order of ``MEASURES`` from cheap to dear, under which every stage's peak times ``SLACK`` plus
``RESERVED`` fits into it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from seqtex_core.errors import OutOfMemoryError, UsageError

BUDGETS = (8, 12, 16, 24)
"""GiB that ``--memory`` takes."""

SLACK = 1.1
"""The allocator's fragments and what operators use inside."""

RESERVED = 3 * 2**28
"""Bytes that libraries take before the first tensor, 0.75 GiB: CUDA's, or Python's on the CPU."""

CPU_CODEC = 2
"""On the CPU, tensors of a VAE count so many times: convolutions there copy what they read and
write into a layout of their own."""

EXACT_TILE = 64
"""Edge of a tile of VAEs that can be cut without a seam, in latent texels."""

BLENDED_TILE = 256
"""Edge of a tile of the other VAEs, in pixels."""

Place = Literal["cpu", "accelerator"]
CodecMode = Literal["float32", "exact_tiles", "bfloat16", "blended_tiles"]
"""How a VAE computes: in float32, whole or in tiles with the same result; in bfloat16, whole or in
tiles whose borders are blended. A VAE has the exact tiles or the blended ones."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """Bytes that a model needs for a run of certain sizes.

    Args:
        transformer: its weights.
        outside_blocks: of them, those outside the blocks.
        largest_block: of them, those of the largest block.
        text: weights of the text encoder; 0 if none is used.
        codec: per mode that the codec has at these sizes, its weights.
        maps: tensors of the geometry maps.
        encode: per mode, tensors of encoding one picture.
        decode: per mode, tensors of decoding one picture.
        denoise: tensors of a step and of the caches that all steps share.
        denoise_recast: the same with geometry that is not cached.
    """

    transformer: int
    outside_blocks: int
    largest_block: int
    text: int
    codec: Mapping[CodecMode, int]
    maps: int
    encode: Mapping[CodecMode, int]
    decode: Mapping[CodecMode, int]
    denoise: int
    denoise_recast: int


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is done to hold less at once; the default is nothing.

    Args:
        offload: transformer, codec and text encoder are on the device only while they work.
        text_on_cpu: the text encoder runs on the CPU.
        recast_geometry: geometry is projected anew in every step, not cached for all blocks.
        stream_blocks: the transformer's blocks come to the device one by one, in every step.
        codec_mode: how the VAE computes.
    """

    offload: bool = False
    text_on_cpu: bool = False
    recast_geometry: bool = False
    stream_blocks: bool = False
    codec_mode: CodecMode = "float32"


_ORDER: tuple[tuple[bool, Callable[[Measures], Measures]], ...] = (
    (False, lambda m: replace(m, offload=True)),
    (False, lambda m: replace(m, text_on_cpu=True)),
    (True, lambda m: replace(m, recast_geometry=True)),
    (True, lambda m: replace(m, codec_mode="exact_tiles")),
    (False, lambda m: replace(m, stream_blocks=True, recast_geometry=True)),
    (True, lambda m: replace(m, codec_mode="bfloat16")),
    (True, lambda m: replace(m, codec_mode="blended_tiles")),
)
"""From cheap to dear; the first word says whether it helps on the CPU too."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a run holds its memory.

    Args:
        needs: of the run.
        measures: that are taken.
        place: an accelerator with memory of its own, or the CPU, where everything is in one memory
            and moving parts would free nothing.
        budget: GiB asked for, or ``None``.
    """

    needs: MemoryNeeds
    measures: Measures
    place: Place
    budget: int | None = None

    @property
    def peaks(self) -> dict[str, int]:
        """Bytes held at most, by stage."""
        return peaks(self.needs, self.measures, self.place)

    @property
    def peak(self) -> int:
        """Bytes held at most, with slack and what is reserved."""
        return required(max(self.peaks.values()))

    def costs(self) -> list[str]:
        """One phrase per measure: what is done and what it costs."""
        needs, measures = self.needs, self.measures
        moved = needs.transformer + needs.codec[measures.codec_mode]
        told = []
        if measures.offload and not measures.stream_blocks:
            told.append(f"parts visit the device ({_gb(moved)} moved per texture)")
        if measures.stream_blocks:
            told.append(f"blocks stream to the device ({_gb(needs.transformer)} moved per step)")
        if measures.text_on_cpu and needs.text:
            told.append("prompts are encoded on the CPU (minutes for each new one)")
        if measures.recast_geometry:
            told.append("geometry is projected in every step (4% more work)")
        if measures.codec_mode == "exact_tiles":
            told.append("the VAE works in tiles (same result, a third more work)")
        if measures.codec_mode in ("bfloat16", "blended_tiles"):
            told.append("the VAE works in bfloat16 (colours rounded to 1/256)")
        if measures.codec_mode == "blended_tiles":
            told.append(f"and in {BLENDED_TILE}-pixel tiles, whose borders are blended")
        return told

    def __str__(self) -> str:
        stage = max(self.peaks, key=lambda name: self.peaks[name])
        head = "auto" if self.budget is None else f"{self.budget} GiB"
        costs = "; ".join(self.costs()) or "nothing given up"
        return f"{head}, about {_gb(self.peak)} at most ({stage}); {costs}"

    def smaller(self) -> MemoryPlan | None:
        """The plan of the next smaller budget that does something else, if there is one."""
        for budget in reversed(BUDGETS):
            if self.budget is not None and budget >= self.budget:
                continue
            try:
                plan = plan_memory(self.needs, place=self.place, budget=budget)
            except OutOfMemoryError:
                return None
            if plan.measures != self.measures:
                return plan
        return None


def plan_memory(
    needs: MemoryNeeds, *, place: Place, budget: int | None = None, free: int | None = None
) -> MemoryPlan:
    """The first measures that fit.

    Args:
        needs: of the run.
        place: see :class:`MemoryPlan`.
        budget: GiB, one of ``BUDGETS``; ``None`` decides by ``free``.
        free: bytes that are free on the device; without a budget and this, nothing is given up.

    Raises:
        UsageError: another budget.
        OutOfMemoryError: no measures are enough.
    """
    check_budget(budget)
    limit = free if budget is None else budget * 2**30
    measures = Measures()
    for helps_cpu, change in _ORDER:
        if limit is None or _fits(needs, measures, place, limit):
            break
        changed = change(measures)
        if changed.codec_mode not in needs.codec:
            continue
        if (helps_cpu or place != "cpu") and _lowers(needs, measures, changed, place, limit):
            measures = changed
    plan = MemoryPlan(needs=needs, measures=measures, place=place, budget=budget)
    if limit is not None and not _fits(needs, measures, place, limit):
        raise OutOfMemoryError(
            "memory",
            expected=f"a run within {_gb(limit)}",
            got=f"one that needs {_gb(plan.peak)} at least",
            remedy=_remedy(plan),
        )
    return plan


def check_budget(budget: int | None) -> None:
    """Refuse numbers that are no budget.

    Raises:
        UsageError: not one of ``BUDGETS``.
    """
    if budget is not None and budget not in BUDGETS:
        raise UsageError(
            "--memory", expected="one of " + ", ".join(map(str, BUDGETS)), got=str(budget)
        )


def peaks(needs: MemoryNeeds, measures: Measures, place: Place) -> dict[str, int]:
    """Bytes held at most in every stage, without slack.

    Args:
        needs: of the run.
        measures: that are taken.
        place: see :class:`MemoryPlan`.
    """
    mode = measures.codec_mode
    codec, transformer = needs.codec[mode], needs.transformer
    stays = 0 if measures.offload and place != "cpu" else codec + transformer
    visits = 0 if stays else 1
    text = 0 if measures.text_on_cpu and place != "cpu" else needs.text  # before the rest is loaded
    denoise = needs.denoise_recast if measures.recast_geometry else needs.denoise
    working = transformer
    if measures.stream_blocks and place != "cpu":
        working = needs.outside_blocks + needs.largest_block
    copies = CPU_CODEC if place == "cpu" else 1
    found = {
        "Maps": stays + needs.maps,
        "Encode": stays + visits * codec + copies * needs.encode[mode],
        "Denoise": stays + visits * working + denoise,
        "Decode": stays + visits * codec + copies * needs.decode[mode],
    }
    return {"Text": text, **found} if needs.text else found


def required(held: int) -> int:
    """Memory that a device must have to hold so many bytes of tensors."""
    return round(held * SLACK) + RESERVED


def _remedy(plan: MemoryPlan) -> str:
    held = plan.peaks
    if max(held, key=lambda stage: held[stage]) == "Text":
        return "Give encoded prompts with --text-embeddings, or leave --prompt out."
    return "Use a smaller --uv-size and --view-size, or a smaller --model."


def _over(needs: MemoryNeeds, measures: Measures, place: Place, limit: int) -> dict[str, int]:
    """The stages that do not fit."""
    held = peaks(needs, measures, place)
    return {stage: size for stage, size in held.items() if required(size) > limit}


def _fits(needs: MemoryNeeds, measures: Measures, place: Place, limit: int) -> bool:
    return not _over(needs, measures, place, limit)


def _lowers(
    needs: MemoryNeeds, before: Measures, after: Measures, place: Place, limit: int
) -> bool:
    """Whether a stage that does not fit becomes smaller."""
    held = peaks(needs, after, place)
    return any(held[stage] < size for stage, size in _over(needs, before, place, limit).items())


def _gb(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
