"""The model-free method: paint what the references show, fill in the rest."""

from __future__ import annotations

import torch

from seqtex_core.errors import UsageError
from seqtex_geometry.maps import SurfaceMaps
from seqtex_geometry.project import ProjectedTexture, ProjectSettings, project_texture

from .prepare import PreparedJob
from .result import ResultMaps, TextureResult
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
    pictures = {
        reference.view: torch.cat([reference.rgb, reference.mask]) for reference in job.references
    }
    painted: list[ProjectedTexture] = []
    maps: list[SurfaceMaps] = []
    with clock.stage("Project", job.num_texture_sets) as step:
        for index in range(job.num_texture_sets):
            layers = job.uv_map_layers(uv_size, texture_set=index)
            maps.append(layers[0])
            painted.append(
                project_texture(
                    job.surface,
                    layers,
                    pictures,
                    job.cameras,
                    rasterizer=job.rasterizer,
                    settings=settings,
                )
            )
            step(index + 1)
    textures = tuple(one.texture for one in painted)
    shown = [bool((one.seen | one.mirrored).any()) for one in painted]
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
        maps=ResultMaps(textures=tuple(maps)),
    )


def _check(job: PreparedJob, uv_size: int) -> None:
    if not job.references:
        raise UsageError("references", expected="at least one", got="none")
    if uv_size < 16:
        raise UsageError("uv_size", expected="at least 16", got=str(uv_size))
    if job.num_texture_sets == 0:
        raise UsageError("mesh", expected="a texture set to paint", got="none")


def _choices(painted: list[ProjectedTexture]) -> dict[str, str]:
    covered = sum(int(one.mask.sum()) for one in painted)
    seen = sum(int((one.seen & one.mask).sum()) for one in painted)
    copied = sum(int((one.mirrored & one.mask).sum()) for one in painted)
    share = max(covered, 1)
    text = f"{seen / share:.0%} of the texels seen in a reference"
    sides = {_MIRRORED_SIDES[axis] for one in painted for axis in one.mirrors}
    if copied:
        text += f", {copied / share:.0%} copied across the mesh's symmetry "
        text += f"({' and '.join(sorted(sides))})"
    return {"coverage": text + ", the rest filled from the surface around"}
