"""From a mesh file to a finished sample: its record, its own colours, lit renders, captions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from seqtex_core.errors import InputError, UsageError
from seqtex_geometry.interpolate import triangle_areas
from seqtex_geometry.paint import SurfacePaint
from seqtex_geometry.rasterize import Rasterizer
from seqtex_geometry.render import uv_footprint
from seqtex_geometry.surface import SurfaceTensors

from .mesh_files import captions_beside
from .real_mesh import ChartOptions, RealMesh, read_real_mesh
from .record import RecordSizes
from .sample import ObjectSample
from .shards import lit_name, png_bytes
from .survey import Survey, survey
from .synth import object_rng
from .textures.lighting import draw_lighting

Status = Literal["textured", "views", "skipped", "bad"]
_LIGHT = 41
_PLAIN = 0.02
_MIN_VIEW_COVER = 0.001


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How meshes become samples.

    Args:
        sizes: of views and texture.
        charts: whose UVs are used.
        lightings: sets of lit views, each in a light of its own.
        seed: of the lights.
        skip_plain: leave out objects of one colour.
        max_faces: larger meshes are refused.
        up: axis that points up; the format's convention if not named.
        front: axis that the object faces, likewise.
    """

    sizes: RecordSizes = field(default_factory=RecordSizes)
    charts: ChartOptions = field(default_factory=ChartOptions)
    lightings: int = 1
    seed: int = 0
    skip_plain: bool = False
    max_faces: int = 1_000_000
    up: str | None = None
    front: str | None = None

    def __post_init__(self) -> None:
        if self.lightings < 1 or self.max_faces < 1:
            raise UsageError(
                "lightings, max_faces",
                expected="at least 1",
                got=f"{self.lightings}, {self.max_faces}",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class RealSample:
    """What became of a mesh file.

    Args:
        status: ``textured``: views and texture; ``views``: no texture to learn; ``skipped``.
        reason: why not textured, or "".
        members: of the shard, by extension; none if skipped.
        facts: for the report, plain JSON types only.
    """

    status: Status
    reason: str
    members: Mapping[str, bytes]
    facts: Mapping[str, Any]


def prepare_mesh(
    folder: Path,
    name: str,
    number: int,
    options: SampleOptions,
    *,
    captions: Mapping[str, str],
    rasterizer: Rasterizer,
) -> RealSample:
    """The sample of one mesh file.

    Args:
        folder: that the name is meant from.
        name: of the file.
        number: of the file in the set; decides its lights together with the seed.
        options: how.
        captions: by style; those beside the file are added.
        rasterizer: a backend for the CPU.

    Raises:
        InputError: the mesh cannot be used; says why.
    """
    real = read_real_mesh(
        folder / name,
        charts=options.charts,
        rasterizer=rasterizer,
        max_faces=options.max_faces,
        up=options.up,
        front=options.front,
    )
    rng = object_rng(options.seed, _LIGHT, number)
    found = survey(real.surface(), real.facts(), options.sizes, rasterizer=rasterizer, rng=rng)
    _check_cover(found, options.sizes)
    views, texels = _colors(real, found, options.sizes.uv_size)
    plain = float(views.std(dim=0).max()) <= _PLAIN
    beside, notes = captions_beside(folder / name)
    captions = {**beside, **captions}
    facts = {
        "faces": len(real.mesh.faces),
        "charts": real.charts,
        "captions": len(captions),
        "notes": [*real.notes, *notes],
    }
    if plain and options.skip_plain:
        return RealSample(status="skipped", reason="one colour all over", members={}, facts=facts)
    textured = texels is not None and not plain
    reason = "" if textured else "one colour all over" if plain else "no usable UVs"
    meta = {
        "index": number,
        "file": name,
        "charts": real.charts,
        "textured": textured,
        "lightings": options.lightings,
        "sizes": vars(options.sizes),
        "captions": captions,
        "cameras": _cameras(found),
        "normalization": _normalization(real),
    }
    sample = ObjectSample(found.record, options.sizes)
    members = {f"view{k}.png": png_bytes(v) for k, v in enumerate(sample.view_image(views))}
    for light in range(options.lightings):
        lit = sample.view_image(sample.lit(views, draw_lighting(rng)))
        members |= {f"{lit_name(k, light)}.png": png_bytes(view) for k, view in enumerate(lit)}
    if textured and texels is not None:
        members["uv.png"] = png_bytes(sample.uv_image(texels))
    record = found.record.tensors()
    members["geometry.safetensors"] = save({k: v.contiguous() for k, v in record.items()})
    members["meta.json"] = json.dumps(meta, sort_keys=True).encode()
    status: Status = "textured" if textured else "views"
    return RealSample(status=status, reason=reason, members=members, facts=facts)


def _colors(real: RealMesh, found: Survey, uv_size: int) -> tuple[Tensor, Tensor | None]:
    """The mesh's own colours (sRGB) at the samples of the views and at the texels."""
    own, paint = SurfaceTensors.from_mesh(real.mesh), SurfacePaint.of(real.mesh)
    seen = uv_footprint(own, found.views, found.cameras)
    views = paint.colors(own, found.views, seen).clamp(0, 1)
    if found.texels is None:
        return views, None
    footprint = torch.zeros(len(found.texels.pixel))
    if own.face_uvs is not None and real.layout is not None:
        area = triangle_areas(torch.nan_to_num(own.face_uvs))
        laid_out = triangle_areas(torch.nan_to_num(torch.from_numpy(real.layout)))
        per_texel = area / (laid_out * uv_size**2).clamp(min=1e-9)
        footprint = per_texel.clamp(max=1.0)[found.texels.face]
    return views, paint.colors(own, found.texels, footprint).clamp(0, 1)


def _check_cover(found: Survey, sizes: RecordSizes) -> None:
    samples = sizes.fine_size**2
    view = (found.views.pixel // samples).numpy()
    cover = np.bincount(view, minlength=sizes.num_views) / samples
    for name, share in zip(found.cameras.names, cover, strict=True):
        if share < _MIN_VIEW_COVER:
            raise InputError(
                f"the {name} view",
                expected=f"an object that covers {_MIN_VIEW_COVER:.1%} of it",
                got=f"{share:.2%}",
            )


def _cameras(found: Survey) -> dict[str, Any]:
    cameras = found.cameras
    return {
        "names": list(cameras.names),
        "projection": cameras.projection,
        "half_extent": cameras.half_extent,
        "world_to_camera": cameras.world_to_camera.tolist(),
    }


def _normalization(real: RealMesh) -> dict[str, Any]:
    step = real.normalization
    return {
        "rotation": step.rotation.tolist(),
        "center": step.center.tolist(),
        "scale": step.scale,
    }
