"""Pictures of a batch to latents, geometry latents and loss masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from seqtex_backbones.codecs.protocol import Codec, Content
from seqtex_backbones.text import TextEncoder
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.transformer import SeqTexTransformer

from ..foreground import Foreground
from ..surface_points import surface_points
from .batch import TrainingBatch
from .latent_cache import LatentCache
from .randomness import derived_seed, generator_for


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedBatch:
    """A batch as the transformer sees it, before noise.

    Args:
        clean: clean latents by group, ``[B, C, F, h, w]``.
        geometry: by group.
        masks: loss weight by group, ``[B, 1, F, h, w]``.
        coverage: covered share of each latent texel by group, likewise.
        text: text rows ``[B, S, E]``, or ``None`` for all-zero rows.
    """

    clean: Mapping[str, Tensor]
    geometry: Mapping[str, GeometryLatents]
    masks: Mapping[str, Tensor]
    coverage: Mapping[str, Tensor] = field(default_factory=dict)
    text: Tensor | None = None

    def foreground(
        self, groups: Iterable[str], transformer: SeqTexTransformer, margin: int | None
    ) -> Foreground | None:
        """The tokens to compute of some groups; ``None`` without a margin, for all."""
        if margin is None:
            return None
        coverage = {name: self.coverage[name] for name in groups}
        return Foreground.of(coverage, patch=transformer.spec.patch_size, margin=margin)

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return next(iter(self.clean.values())).shape[0]


class BatchEncoder:
    """Encodes batches, from a cache of latents where possible.

    Args:
        codec: images to latents.
        outside_weight: loss weight of what has no surface, against 1 on it.
        cache: keeps latents; ``None`` encodes anew each time.
        text_encoder: for captions; without one captions are not used.
        caption_dropout: share of the captions replaced by nothing.
        tokens: by group, covered latent texels that are kept of each sample, drawn anew for every
            sample; all of the groups not named. For models of foreground tokens.
        seed: of the run, for what is drawn.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        outside_weight: float,
        cache: LatentCache | None = None,
        text_encoder: TextEncoder | None = None,
        caption_dropout: float = 0.0,
        tokens: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.codec = codec
        self.outside_weight = outside_weight
        self.cache = cache
        self.text_encoder = text_encoder
        self.caption_dropout = caption_dropout
        self.tokens = tokens or {}
        self.seed = seed

    @torch.no_grad()
    def __call__(
        self, batch: TrainingBatch, indices: Sequence[int], groups: Sequence[str]
    ) -> EncodedBatch:
        """Latents of the named groups.

        Args:
            batch: what a source gave.
            indices: global numbers of its samples.
            groups: those that the task needs.
        """
        clean, geometry, coverage, masks = {}, {}, {}, {}
        outside = self.outside_weight
        for name in groups:
            images = batch.groups[name]
            clean[name] = self._encode(images.images, "rgb", name, batch.keys)
            geometry[name] = GeometryLatents(
                position=self._geometry(images.position, f"{name}-position", batch),
                normal=self._geometry(images.normal, f"{name}-normal", batch),
                points=surface_points(
                    images.position, images.normal, images.mask, factor=self.codec.spatial_factor
                ),
            )
            present = images.mask if images.present is None else images.present
            coverage[name] = self._thinned(self._pooled(present), name, indices)
            learned = images.mask if images.learned is None else images.learned
            masks[name] = outside + (1 - outside) * self._pooled(learned)
        return EncodedBatch(
            clean=clean,
            geometry=geometry,
            masks=masks,
            coverage=coverage,
            text=self._text(batch, indices),
        )

    def _geometry(self, maps: Tensor, name: str, batch: TrainingBatch) -> Tensor:
        return self._encode(maps, "geometry", name, batch.geometry_keys)

    def _encode(
        self, images: Tensor, content: Content, name: str, keys: Sequence[str] | None
    ) -> Tensor:
        def encode(chosen: Tensor) -> Tensor:
            return self.codec.encode(chosen.transpose(1, 2), content=content)

        if self.cache is None or keys is None:
            return encode(images)
        return self.cache.get(images, [f"{key}-{name}" for key in keys], encode)

    def _thinned(self, coverage: Tensor, name: str, indices: Sequence[int]) -> Tensor:
        """Coverage of at most ``self.tokens[name]`` covered latent texels of each sample."""
        most = self.tokens.get(name)
        if most is None:
            return coverage
        thinned = torch.zeros_like(coverage)
        for row, index in enumerate(indices):
            covered = coverage[row].flatten().nonzero()[:, 0]
            draw = torch.Generator().manual_seed(derived_seed(self.seed, f"tokens {name}", index))
            order = torch.randperm(len(covered), generator=draw)
            kept = covered[order[:most].to(covered.device)]
            thinned[row].view(-1)[kept] = coverage[row].flatten()[kept]
        return thinned

    def _pooled(self, share: Tensor) -> Tensor:
        """Share of each latent texel, ``[B, 1, F, h, w]``, from that of pixels."""
        pooled = avg_pool2d(share.flatten(0, 1), self.codec.spatial_factor)
        latent: Tensor = pooled.unflatten(0, share.shape[:2]).transpose(1, 2)
        return latent

    def _text(self, batch: TrainingBatch, indices: Sequence[int]) -> Tensor | None:
        """Rows of the captions that are kept; a sample without one has the rows of no prompt."""
        if self.text_encoder is None:
            return None
        captions = batch.captions or [""] * len(indices)
        kept = [
            caption if self._keeps(index) else ""
            for caption, index in zip(captions, indices, strict=True)
        ]
        device = next(iter(batch.groups.values())).images.device
        return self.text_encoder.encode(kept).to(device)

    def _keeps(self, index: int) -> bool:
        draw = torch.rand((), generator=generator_for(self.seed, "caption", index))
        return float(draw) >= self.caption_dropout
