"""Synthetic objects: number i of a seed is the same object on every machine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from seqtex_core.errors import ContractError
from seqtex_geometry.rasterize import Rasterizer, choose_rasterizer

from .object_mesh import ObjectMesh, draw_object_mesh
from .record import GeometryRecord, RecordSizes
from .splits import split_families, split_kinds
from .survey import surveyed

_ATTEMPTS = 8
_MIN_VIEW_COVER = 0.004
_MIN_UV_COVER = 0.1
_MAX_UV_OVERLAP = 0.03
GENERATOR_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SynthSettings:
    """What an endless set of objects is made of.

    Args:
        seed: of the set.
        families: shape families to draw from.
        kinds: texture kinds, where textures are made too (shards); a bank has none.
        sizes: how finely the objects are sampled.
    """

    seed: int = 0
    families: tuple[str, ...] = field(default_factory=lambda: tuple(split_families("train")))
    kinds: tuple[str, ...] = field(default_factory=lambda: tuple(split_kinds("train")))
    sizes: RecordSizes = field(default_factory=RecordSizes)


@dataclass(frozen=True, kw_only=True, eq=False)
class SynthObject:
    """One object of a set.

    Args:
        index: its number.
        mesh: its surface.
        record: its sampled geometry.
    """

    index: int
    mesh: ObjectMesh
    record: GeometryRecord


def object_rng(seed: int, *numbers: int) -> np.random.Generator:
    """The random stream named by a seed and further numbers; the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *numbers])))


def make_object(
    settings: SynthSettings, index: int, *, rasterizer: Rasterizer | None = None
) -> SynthObject:
    """Object number ``index``.

    A draw that is hardly visible, or whose charts overlap, is replaced by the next draw of the same
    number.

    Raises:
        UsageError: an unknown shape family.
        ContractError: no usable draw, which is a defect of a family.
    """
    rasterizer = rasterizer or choose_rasterizer("auto")
    for attempt in range(_ATTEMPTS):
        rng = object_rng(settings.seed, index, attempt)
        mesh = draw_object_mesh(rng, settings.families)
        record = surveyed(mesh, settings.sizes, rasterizer=rasterizer, rng=rng)
        if is_usable(mesh, record, settings.sizes):
            return SynthObject(index=index, mesh=mesh, record=record)
    raise ContractError(
        f"synthetic object {index} of seed {settings.seed}",
        expected=f"a usable shape within {_ATTEMPTS} draws",
        got="none",
    )


def is_usable(mesh: ObjectMesh, record: GeometryRecord, sizes: RecordSizes) -> bool:
    """Whether every view shows something, and the charts fill the square without overlap."""
    fine, uv = sizes.fine_size**2, sizes.uv_size**2
    per_view = np.bincount(record.view_index().numpy() // fine, minlength=sizes.num_views)
    covered = record.uv_part.shape[0] / uv
    return bool(
        per_view.min() > _MIN_VIEW_COVER * fine
        and covered > _MIN_UV_COVER
        and uv_area(mesh) < covered * (1 + _MAX_UV_OVERLAP) + 0.004
    )


def uv_area(mesh: ObjectMesh) -> float:
    """Sum of the faces' areas in the UV square; more than the covered share where they overlap."""
    a, b, c = (mesh.face_uvs[:, k].astype(np.float64) for k in range(3))
    cross = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    return float(np.abs(cross).sum() / 2)
