"""The UV maps of a job's texture sets, made when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from seqtex_geometry.maps import SurfaceMaps

from .prepare import PreparedJob


class SetMaps(Sequence[SurfaceMaps]):
    """UV maps by texture set; a mesh may have more of them than fit into memory.

    Args:
        job: with the mesh.
        size: edge of each texture in texels.
    """

    def __init__(self, job: PreparedJob, size: int) -> None:
        self._job = job
        self._size = size

    def __len__(self) -> int:
        return self._job.num_texture_sets

    @overload
    def __getitem__(self, index: int) -> SurfaceMaps: ...
    @overload
    def __getitem__(self, index: slice) -> list[SurfaceMaps]: ...
    def __getitem__(self, index: int | slice) -> SurfaceMaps | list[SurfaceMaps]:
        wanted = range(len(self))[index]
        if isinstance(wanted, range):
            return [self[one] for one in wanted]
        return self._job.uv_maps(self._size, texture_set=wanted)
