"""A model's texture at a finer size than the model's own, with the detail that the pictures have.

Where a picture shows a texel, the texel is known better than any model of 128 texels can say.
Elsewhere the model corrects the smooth continuation of what was seen, and a correction may be
coarser than the texture that it is added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import interpolate

from seqtex_geometry.maps import SurfaceMaps
from seqtex_geometry.project import Projector, ProjectSettings
from seqtex_geometry.seams import pad_seams

from .generate import Generated
from .prepare import PreparedJob
from .project import reference_projector
from .set_maps import SetMaps
from .stages import StageClock
from .unseen_sets import fill_unseen_sets

_DISAGREEMENT = 0.15
"""Difference from the fine fill at which a change of the coarse frame says nothing any more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DetailedTexture:
    """A texture, its maps, and whether a picture shows any of it.

    Args:
        texture: ``[3, size, size]``.
        maps: at that size.
        is_shown: directly, or across the mesh's symmetry.
    """

    texture: Tensor
    maps: SurfaceMaps
    is_shown: bool


def with_detail(
    job: PreparedJob, made: Generated, size: int, clock: StageClock
) -> tuple[tuple[Tensor, ...], Sequence[SurfaceMaps]]:
    """What a model made as textures of another size, and their maps; see `detailed_texture`.

    Where a model corrects what was shown of a set, a set of which nothing was shown takes the
    colours of the others.

    Args:
        job: with at least one reference.
        made: by the model.
        size: edge of every texture in texels.
        clock: told about the stage.

    Raises:
        UsageError: no reference.
    """
    several = len(made.textures) > 1
    projector = _projector(job, made.frames[0], size, keep=several) if made.textures else None
    textures, shown = [], []
    with clock.stage("Add detail", len(made.textures)) as step:
        for index, texture in enumerate(made.textures):
            mask = made.uv_maps[index].hit[0]
            base = made.frames[index]
            one = detailed_texture(
                job, texture, mask, base, size=size, texture_set=index, projector=projector
            )
            textures.append(one.texture)
            shown.append(base is None or one.is_shown)
            step(index + 1)
    maps = SetMaps(job, size)
    return fill_unseen_sets(textures, maps, shown), maps


def detailed_texture(
    job: PreparedJob,
    texture: Tensor,
    mask: Tensor,
    base: Tensor | None,
    *,
    size: int,
    texture_set: int = 0,
    projector: Projector | None = None,
) -> DetailedTexture:
    """A texture at ``size``.

    Shown (or copied across the mesh's symmetry): the reference, at its own resolution. Not shown:
    the smooth fill plus what the model changed of its projection frame, as far as that frame and
    this fill agree; the model's texture as it is, enlarged, if it has no such frame.

    Args:
        job: with at least one reference.
        texture: the model's, ``[3, h, w]`` in [0, 1].
        mask: True on its charts, ``[h, w]``.
        base: the projection frame that it was measured from, ``[3, h, w]``, or ``None``.
        size: edge of the result in texels.
        texture_set: which of the mesh's.
        projector: of the job's references, if several textures share one.

    Raises:
        UsageError: no reference.
    """
    layers = job.uv_map_layers(size, texture_set=texture_set)
    shown = (projector or _projector(job, base, size, keep=False)).texture(layers, job.face_regions)
    hidden = 1.0 - shown.share
    if base is None:
        result = shown.texture * shown.share + enlarged(texture, mask, size) * hidden
    else:
        apart = (enlarged(base, mask, size) - shown.texture).abs().amax(0)
        holds = (1.0 - apart / _DISAGREEMENT).clamp(min=0.0)
        result = shown.texture + enlarged(texture - base, mask, size) * hidden * holds
    return DetailedTexture(
        texture=pad_seams(result.clamp(0, 1), shown.mask),
        maps=layers[0],
        is_shown=bool((shown.seen | shown.mirrored).any()),
    )


def _projector(job: PreparedJob, base: Tensor | None, size: int, *, keep: bool) -> Projector:
    settings = ProjectSettings(fill="none" if base is None else "smooth")
    return reference_projector(job, size=size, settings=settings, keep=keep)


def enlarged(values: Tensor, mask: Tensor, size: int) -> Tensor:
    """Values at ``[C, size, size]``; what lies off the charts does not run into them."""
    padded = pad_seams(values, mask)
    large: Tensor = interpolate(padded[None], (size, size), mode="bicubic", align_corners=False)[0]
    low, high = padded.amin(), padded.amax()
    return large.clamp(low, high)
