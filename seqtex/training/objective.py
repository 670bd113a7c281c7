"""The loss of a batch as a module, so that DDP and FSDP wrap exactly what training calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqtex_core.flow_matching import SigmaSample, flow_matching_loss
from seqtex_core.frame_plan import DEFAULT_STREAMS, FramePlan, NoisySample
from seqtex_core.frames import Stream
from seqtex_core.tasks import TEXTURE
from seqtex_core.transformer import SeqTexTransformer

from .encode import EncodedBatch
from .noise_levels import NoiseLevels
from .randomness import generators_for


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyBatch:
    """What the loss is computed from: every draw is already made.

    Args:
        sample: noisy latents, levels, targets and frame weights.
        levels: the drawn level and loss weight of every sample.
        encoded: what was encoded.
    """

    sample: NoisySample
    levels: SigmaSample
    encoded: EncodedBatch


def make_noisy(
    encoded: EncodedBatch,
    plans: Sequence[FramePlan],
    indices: Sequence[int],
    levels: NoiseLevels,
    *,
    seed: int,
    streams: Mapping[str, Stream] = DEFAULT_STREAMS,
) -> NoisyBatch:
    """Noise a batch; every sample by its own plan and its own generators.

    Args:
        encoded: clean latents.
        plans: one per sample, of one task.
        indices: global sample numbers.
        levels: the distribution of noise levels.
        seed: of the run.
        streams: of every group, in the model that is trained.
    """
    device = next(iter(encoded.clean.values())).device
    drawn = levels.draw(generators_for(seed, "level", indices))
    drawn = SigmaSample(sigma=drawn.sigma.to(device), weight=drawn.weight.to(device))
    noise = generators_for(seed, "noise", indices)
    parts: list[NoisySample] = []
    rows: list[int] = []
    for members in _by_plan(plans):
        chosen = {name: x[members] for name, x in encoded.clean.items()}
        generators = [noise[row] for row in members]
        plan = plans[members[0]]
        parts.append(
            plan.training_sample(
                chosen, drawn.sigma[members], generator=generators, streams=streams
            )
        )
        rows += members
    order = torch.tensor(rows, device=device).argsort()
    return NoisyBatch(sample=_join(parts, order), levels=drawn, encoded=encoded)


class FlowMatchingObjective(nn.Module):
    """Transformer and loss in one forward.

    Args:
        transformer: what trains.
        uv_weight: factor of the loss of the ``uv`` stream's groups.
        foreground: compute the tokens that touch the surface and this many around them only;
            ``None`` for all.
        relative_floor: count a texture's error over its own mean square, with this much added;
            ``None`` counts it as it is.
    """

    def __init__(
        self,
        transformer: SeqTexTransformer,
        *,
        uv_weight: float = 1.0,
        foreground: int | None = None,
        relative_floor: float | None = None,
    ) -> None:
        super().__init__()
        self.relative_floor = relative_floor
        self.foreground = foreground
        self.transformer = transformer
        self.uv_weight = uv_weight

    def forward(self, batch: NoisyBatch) -> dict[str, Tensor]:
        """``"total"`` to differentiate, the share of each group, and ``"per_sample"`` ``[B]``."""
        sample, encoded = batch.sample, batch.encoded
        transformer = self.transformer
        sizes = {name: (x.shape[2], x.shape[3], x.shape[4]) for name, x in sample.latents.items()}
        streams = transformer.config.streams(DEFAULT_STREAMS)
        layout = transformer.layout(sizes, {name: streams[name] for name in sizes})
        masks = {name: mask for name, mask in encoded.masks.items() if name in sizes}
        shown = encoded.foreground(sizes, transformer, self.foreground)
        if shown is not None:
            masks = {name: mask * shown.latent_mask(name) for name, mask in masks.items()}
        cache = transformer.prepare(
            layout if shown is None else shown.layout(layout),
            geometry={name: encoded.geometry[name] for name in sizes},
            text=encoded.text,
            clean=encoded.clean,
            batch_size=encoded.batch_size,
        )
        velocity = transformer(sample.latents, sample.sigmas, cache)
        weights = dict.fromkeys(sizes, batch.levels.weight)
        if self.relative_floor is not None and TEXTURE in sizes:
            energy = _mean_square(encoded.clean[TEXTURE], masks[TEXTURE])
            weights[TEXTURE] = weights[TEXTURE] / (energy + self.relative_floor)
        loss = flow_matching_loss(velocity, sample, weight=weights, masks=masks)
        total = torch.stack([self._weight(n) * part for n, part in loss.groups.items()]).sum()
        return {"total": total, "per_sample": loss.per_sample.detach(), **loss.groups}

    def _weight(self, group: str) -> float:
        return self.uv_weight if DEFAULT_STREAMS.get(group) == "uv" else 1.0


def _mean_square(latents: Tensor, mask: Tensor) -> Tensor:
    """Of each sample, ``[B]``, weighted by a mask ``[B, 1, F, h, w]``."""
    full = mask.to(latents).expand_as(latents)
    mass = full.sum(dim=(1, 2, 3, 4)).clamp_min(1e-6)
    return (latents.square() * full).sum(dim=(1, 2, 3, 4)) / mass


def _by_plan(plans: Sequence[FramePlan]) -> list[list[int]]:
    """Rows that share a plan, in order of first appearance."""
    found: list[tuple[FramePlan, list[int]]] = []
    for row, plan in enumerate(plans):
        for known, members in found:
            if known == plan:
                members.append(row)
                break
        else:
            found.append((plan, [row]))
    return [members for _, members in found]


def _join(parts: Sequence[NoisySample], order: Tensor) -> NoisySample:
    def join(named: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([part[name] for part in named])[order] for name in named[0]}

    return NoisySample(
        latents=join([part.latents for part in parts]),
        sigmas=join([part.sigmas for part in parts]),
        target=join([part.target for part in parts]),
        frame_weights=join([part.frame_weights for part in parts]),
        trained_groups=parts[0].trained_groups,
    )
