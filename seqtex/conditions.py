"""What the model is given of a job: maps and references, encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqtex_core.frame_plan import FramePlan
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.tasks import PROJECTION, TEXTURE, VIEWS
from seqtex_geometry.maps import SurfaceMaps

from .foreground import Foreground, latent_coverage, pooled_coverage
from .fusion import Fusion, fused
from .latents import encode_geometry, encode_references
from .models.load import SeqTexModel
from .prepare import PreparedJob
from .projection_frame import ProjectionFrame, kept_as_shown, project_frame, reference_views
from .shared_run import made_alike

# Keeps the noise of drawn latents apart from that of sampling. torch's CPU generator reads the low
# 32 bits of a seed only.
_ENCODING = 0x2A5F11D7


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """What the model is given of a texture set and of the views, or of the views alone.

    Args:
        geometry: latents of the maps of every group that is computed.
        clean: latents of the groups that are known, ``[1, C, F, h, w]``.
        maps: by group.
        frame: the projection frame, for tasks that have one.
    """

    geometry: Mapping[str, GeometryLatents]
    clean: Mapping[str, Tensor]
    maps: Mapping[str, SurfaceMaps]
    frame: ProjectionFrame | None = None

    def tensors(self) -> list[Tensor]:
        """All latents, points of the surface, and which of them references show."""
        maps = self.geometry.values()
        latents = (*(m.position for m in maps), *(m.normal for m in maps), *self.clean.values())
        points = (m.points for m in maps if m.points is not None)
        seen = () if self.frame is None else (self.frame.seen,)
        return [*latents, *points, *seen]

    def as_shown(self, texture: Tensor, model: SeqTexModel) -> Tensor:
        """A decoded texture, with what the references show as they show it."""
        if self.frame is None:
            return texture
        base = model.config.texture_base
        return kept_as_shown(texture, self.frame.image, self.frame.seen, base)

    def weighed(self, texture: Tensor, fusion: Fusion) -> Tensor:
        """A texture whose unseen texels the fusion had the last word on."""
        if self.frame is None:
            return texture
        maps = self.maps[TEXTURE]
        return fused(
            fusion,
            texture,
            self.frame.image,
            seen=self.frame.seen,
            position=maps.position[0].permute(2, 0, 1),
            normal=maps.normal[0].permute(2, 0, 1),
            mask=maps.hit[0],
            part=self.frame.part,
        )

    def foreground(self, model: SeqTexModel, margin: int | None) -> Foreground | None:
        """The tokens to compute; ``None`` for all."""
        if margin is None:
            return None
        coverage = {name: latent_coverage(maps, model.codec) for name, maps in self.maps.items()}
        if self.frame is not None and model.config.decoupled.copy is not None:
            seen, there = self.frame.seen, self.maps[TEXTURE].hit[0]
            coverage[PROJECTION] = pooled_coverage(seen & there, model.codec)
            coverage[TEXTURE] = pooled_coverage(there & ~seen, model.codec)
        return Foreground.of(coverage, patch=model.transformer.spec.patch_size, margin=margin)


def encode_conditions(
    model: SeqTexModel,
    plan: FramePlan,
    job: PreparedJob,
    view_maps: SurfaceMaps,
    uv_maps: Sequence[SurfaceMaps],
    *,
    seed: int,
) -> list[Conditions]:
    """One set of conditions per texture set, or that of the views alone without texture sets.

    Args:
        model: its codec is where it works.
        plan: of the task.
        job: with the references.
        view_maps: of all views, at the size that the model makes them.
        uv_maps: of every texture set, likewise.
        seed: for codecs that draw their latents.
    """
    noise = torch.Generator().manual_seed(seed ^ _ENCODING)
    views = encode_geometry(view_maps, model.codec, generator=noise)
    clean = encode_references(
        job.references,
        model.codec,
        num_views=len(job.cameras),
        size=view_maps.size[0],
        generator=noise,
    )
    runs = [Conditions(geometry={VIEWS: views}, clean={VIEWS: clean}, maps={VIEWS: view_maps})]
    if uv_maps:
        runs = [
            _texture_conditions(runs[0], maps, frame, model, noise)
            for maps, frame in zip(uv_maps, _frames(plan, job, uv_maps), strict=True)
        ]
    made_alike(
        model,
        (maps.face_idx for run in runs for maps in run.maps.values()),
        (values for run in runs for values in run.tensors()),
    )
    return runs


def _frames(
    plan: FramePlan, job: PreparedJob, uv_maps: Sequence[SurfaceMaps]
) -> list[ProjectionFrame | None]:
    """The projection frame of every texture set; ``None`` for tasks without one."""
    if PROJECTION not in plan.groups:
        return [None] * len(uv_maps)
    views = None
    if job.references:
        views = reference_views(job, max(uv_maps[0].size), keep=len(uv_maps) > 1)
    return [project_frame(job, maps, views) for maps in uv_maps]


def _texture_conditions(
    views: Conditions,
    maps: SurfaceMaps,
    frame: ProjectionFrame | None,
    model: SeqTexModel,
    noise: torch.Generator,
) -> Conditions:
    """The views' conditions and those of one texture set."""
    geometry = dict(views.geometry)
    clean = dict(views.clean)
    shown = {**views.maps, TEXTURE: maps}
    if frame is not None:
        geometry[PROJECTION] = encode_geometry(frame.maps, model.codec, generator=noise)
        clean[PROJECTION] = model.codec.encode(frame.image[None], generator=noise)
        shown[PROJECTION] = maps
    geometry[TEXTURE] = encode_geometry(maps, model.codec, generator=noise)
    return Conditions(geometry=geometry, clean=clean, maps=shown, frame=frame)
