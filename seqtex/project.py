"""The model-free method: paint what the references show, fill in the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_geometry.cameras import Axis
from seqtex_geometry.project import ProjectedTexture, Projector, ProjectSettings

from .prepare import PreparedJob
from .result import ResultMaps, TextureResult
from .set_maps import SetMaps
from .stages import OnProgress, StageClock
from .unseen_sets import fill_unseen_sets

_MIRRORED_SIDES = {"x": "left-right", "y": "front-back"}  # of the working copy, which faces -y


def project_references(
    job: PreparedJob,
    *,
    uv_size: int = 1024,
    settings: ProjectSettings | None = None,
    on_progress: OnProgress | None = None,
) -> TextureResult:
    """Textures painted from the job's references; needs no weights and has no randomness.

    Every texture set is painted by itself. A set that no reference shows at all takes the colours
    of the nearest surface of the other sets.

    Args:
        job: with at least one reference.
        uv_size: edge of each texture in texels.
        settings: how pictures become a texture.
        on_progress: told about the stages.

    Raises:
        UsageError: no reference, or no texture set to paint.
    """
    settings = settings or ProjectSettings()
    _check(job, uv_size)
    clock = StageClock(on_progress)
    several = job.num_texture_sets > 1
    projector = reference_projector(job, size=uv_size, settings=settings, keep=several)
    textures: tuple[Tensor, ...] = ()
    painted: list[_Painted] = []
    with clock.stage("Project", job.num_texture_sets) as step:
        for index in range(job.num_texture_sets):
            layers = job.uv_map_layers(uv_size, texture_set=index)
            one = projector.texture(layers, job.face_regions)
            textures += (one.texture,)
            painted.append(_Painted.of(one))
            step(index + 1)
    maps = SetMaps(job, uv_size)
    shown = [one.seen + one.mirrored > 0 for one in painted]
    if any(shown) and not all(shown):
        with clock.stage("Fill unseen textures"):
            textures = fill_unseen_sets(textures, maps, shown)
    return TextureResult.of(
        job,
        textures,
        method="project",
        settings={"uv_size": uv_size, "fill": settings.fill, "mirror": settings.mirror},
        choices=_choices(painted),
        stage_seconds=clock.times,
        maps=ResultMaps(textures=maps),
    )


def reference_projector(
    job: PreparedJob, *, size: int, settings: ProjectSettings | None = None, keep: bool = False
) -> Projector:
    """What paints a job's textures from its references.

    Args:
        job: with at least one reference.
        size: edge of each texture in texels.
        settings: how pictures become a texture.
        keep: what was found out about the references, since several textures are to be painted.

    Raises:
        UsageError: no reference.
    """
    return Projector(
        job.surface,
        {one.view: torch.cat([one.rgb, one.mask]) for one in job.references},
        job.cameras,
        size=size,
        rasterizer=job.rasterizer,
        settings=settings,
        keep=keep,
    )


def _check(job: PreparedJob, uv_size: int) -> None:
    if not job.references:
        raise UsageError("references", expected="at least one", got="none")
    if uv_size < 16:
        raise UsageError("uv_size", expected="at least 16", got=str(uv_size))
    if job.num_texture_sets == 0:
        raise UsageError("mesh", expected="a texture set to paint", got="none")


@dataclass(frozen=True, kw_only=True)
class _Painted:
    """Texels of a set: on its charts, seen in a picture, and copied across mirror planes."""

    covered: int
    seen: int
    mirrored: int
    mirrors: tuple[Axis, ...]

    @classmethod
    def of(cls, texture: ProjectedTexture) -> _Painted:
        return cls(
            covered=int(texture.mask.sum()),
            seen=int((texture.seen & texture.mask).sum()),
            mirrored=int((texture.mirrored & texture.mask).sum()),
            mirrors=texture.mirrors,
        )


def _choices(painted: list[_Painted]) -> dict[str, str]:
    covered = max(sum(one.covered for one in painted), 1)
    seen = sum(one.seen for one in painted)
    copied = sum(one.mirrored for one in painted)
    text = f"{seen / covered:.0%} of the texels seen in a reference"
    sides = {_MIRRORED_SIDES[axis] for one in painted for axis in one.mirrors}
    if copied:
        text += f", {copied / covered:.0%} copied across the mesh's symmetry "
        text += f"({' and '.join(sorted(sides))})"
    return {"coverage": text + ", the rest filled from the surface around"}
