"""What shape families are made of: parts, which are small triangle meshes with their own charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One triangle mesh of a shape, counter-clockwise seen from outside.

    Args:
        vertices: ``[V, 3]``.
        faces: ``[T, 3]``.
        crease: edges whose faces differ by more than this angle in degrees are hard; 180 is smooth
            everywhere.
        closed: whether the part claims to have no border.
        corner_uv: natural chart coordinates of the face corners, ``[T, 3, 2]`` in any unit, without
            overlap inside a chart; ``None`` where the part has none.
        chart: natural chart of each face, ``[T]``; only with ``corner_uv``.
    """

    vertices: Array
    faces: Indices
    crease: float = 180.0
    closed: bool = True
    corner_uv: Array | None = None
    chart: Indices | None = None

    def transformed(self, matrix: npt.ArrayLike, offset: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Part:
        """Vertices become ``matrix @ vertex + offset``; mirroring keeps outside outside."""
        linear = np.asarray(matrix, dtype=np.float64)
        vertices = self.vertices @ linear.T + np.asarray(offset, dtype=np.float64)
        moved = replace(self, vertices=vertices)
        return moved.flipped() if np.linalg.det(linear) < 0 else moved

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Part:
        """The part shifted."""
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def scaled(self, x: float, y: float | None = None, z: float | None = None) -> Part:
        """The part scaled along the axes; one number scales evenly."""
        y, z = (x if y is None else y), (x if z is None else z)
        return self.transformed(np.diag([x, y, z]))

    def mirrored(self) -> Part:
        """The mirror image in the plane x = 0."""
        return self.scaled(-1.0, 1.0, 1.0)

    def flipped(self) -> Part:
        """The same surface with outside and inside swapped."""
        uv = None if self.corner_uv is None else self.corner_uv[:, ::-1]
        return replace(self, faces=self.faces[:, ::-1], corner_uv=uv)

    def oriented(self) -> Part:
        """A closed part, flipped if it was inside out."""
        return self.flipped() if self.signed_volume() < 0 else self

    def signed_volume(self) -> float:
        """Enclosed volume; negative if the faces look inwards."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape:
    """A drawn object before UVs: z up, in no particular size or place.

    Args:
        parts: the meshes; they may touch or enter each other, as modelled assets do.
        labels: which material group each part belongs to (all wheels are one), counted from 0.
        family: name of the family that drew it.
    """

    parts: tuple[Part, ...]
    labels: tuple[int, ...] = field(default=())
    family: str = ""


class Assembly:
    """Collects the parts of a shape under named material groups."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._labels: list[int] = []
        self._groups: dict[str, int] = {}

    def add(self, group: str, *parts: Part) -> None:
        """Add parts to a material group."""
        label = self._groups.setdefault(group, len(self._groups))
        self._parts += parts
        self._labels += [label] * len(parts)

    def add_pair(self, group: str, *parts: Part) -> None:
        """Add parts and their mirror images in the plane x = 0."""
        for part in parts:
            self.add(group, part, part.mirrored())

    def shape(self) -> Shape:
        """The finished shape."""
        return Shape(parts=tuple(self._parts), labels=tuple(self._labels))


def joined(parts: Sequence[Part], *, crease: float) -> Part:
    """Several meshes as one part; natural charts are kept if all have them."""
    starts = np.cumsum([0] + [len(part.vertices) for part in parts])[:-1]
    faces = [part.faces + start for part, start in zip(parts, starts, strict=True)]
    uvs: list[Array] = []
    charts: list[Indices] = []
    count = 0
    for part in parts:
        if part.corner_uv is None or part.chart is None:
            uvs = []
            break
        uvs.append(part.corner_uv)
        charts.append(part.chart + count)
        count += int(part.chart.max(initial=-1)) + 1
    return Part(
        vertices=np.concatenate([part.vertices for part in parts]),
        faces=np.concatenate(faces),
        crease=crease,
        closed=all(part.closed for part in parts),
        corner_uv=np.concatenate(uvs) if uvs else None,
        chart=np.concatenate(charts) if uvs else None,
    )


def is_closed(faces: Indices) -> bool:
    """Whether every directed edge is matched by one in the other direction."""
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    base = int(faces.max(initial=0)) + 1
    forward = np.sort(edges[:, 0] * base + edges[:, 1])
    backward = np.sort(edges[:, 1] * base + edges[:, 0])
    return bool(np.array_equal(forward, backward))
