"""What a rasterizer backend must do, which ones exist, and which one is taken."""

from __future__ import annotations

import logging
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from seqtex_core.errors import MissingDependencyError, UnsupportedError
from seqtex_core.registry import Registry

from ..cameras import CameraRig
from ..surface import SurfaceTensors

_LOG = logging.getLogger(__name__)


class Rasterizer(Protocol):
    """Names the nearest face of every pixel; all else is computed by ``interpolate``.

    Attributes:
        name: the registered name.
        devices: torch device types that it is made for; there, the only reason not to run is its
            package.

    Convention:
        A pixel belongs to a face if the ray through its centre, ``((i + 0.5) / size)``, meets the
        face at a depth in [near, far]; the nearest face wins. Faces are seen from both sides.
        Faces without area and faces with a coordinate that is not finite are never seen. Row 0 of
        a UV map is v = 1, and overlapping texels belong to the lowest index. Backends may differ
        where a pixel centre lies on an edge (within rounding), and in views where faces lie at the
        same depth; there, ``reference`` takes the lowest index.
    """

    name: str
    devices: tuple[str, ...]

    def reason_unsupported(self, device: torch.device) -> str | None:
        """Why this backend cannot run on ``device``; ``None`` if it can."""
        ...

    def face_idx_views(
        self, surface: SurfaceTensors, cameras: CameraRig, *, height: int, width: int
    ) -> Tensor:
        """Nearest face per pixel, ``[F, H, W]`` int64, -1 where there is none."""
        ...

    def face_idx_uv(self, face_uvs: Tensor, *, height: int, width: int) -> Tensor:
        """Face per texel ``[H, W]`` int64, -1 where there is none, of ``face_uvs [T, 3, 2]``."""
        ...


RASTERIZERS: Registry[Rasterizer] = Registry(
    "rasterizer",
    {
        "reference": "seqtex_geometry.rasterize.reference:REFERENCE",
        "embree": "seqtex_geometry.rasterize.embree:EMBREE",
        "warp": "seqtex_geometry.rasterize.warp:WARP",
        "kaolin": "seqtex_geometry.rasterize.kaolin:KAOLIN",
    },
    entry_point_group="seqtex.rasterizers",
)

_PREFERENCE = {"cpu": ("embree", "warp", "reference"), "cuda": ("kaolin", "warp", "reference")}


def available_rasterizers(
    device: torch.device | str = "cpu",
) -> list[tuple[str, str | None]]:
    """All backends by name, each with the reason why it cannot run on ``device``, or ``None``."""
    target = torch.device(device)
    return RASTERIZERS.states(lambda backend: backend.reason_unsupported(target))


def choose_rasterizer(name: str = "auto", device: torch.device | str = "cpu") -> Rasterizer:
    """The backend called ``name``; ``auto`` takes the first that can run, and logs it once.

    Args:
        name: a registered name, or ``auto``: Embree, Warp, reference on the CPU; Kaolin, Warp,
            reference on CUDA.
        device: where the surface lives.

    Raises:
        UsageError: unknown name.
        MissingDependencyError: the named backend's package is missing or cannot be used.
        UnsupportedError: the named backend cannot run on ``device``.
    """
    target = torch.device(device)
    if name == "auto":
        for candidate in _PREFERENCE.get(target.type, ("reference",)):
            backend = RASTERIZERS.get(candidate)
            if backend.reason_unsupported(target) is None:
                _log_choice(candidate, target.type)
                return backend
        raise AssertionError("unreachable: the reference runs everywhere")
    backend = RASTERIZERS.get(name)
    reason = backend.reason_unsupported(target)
    if reason is None:
        return backend
    runs = ", ".join(n for n, why in available_rasterizers(target) if why is None)
    kind = MissingDependencyError if target.type in backend.devices else UnsupportedError
    raise kind(
        f"rasterizer {name!r}",
        expected=f"a backend that runs on {target.type}",
        got=reason,
        remedy=f"Backends that run here: {runs}.",
    )


@cache
def _log_choice(name: str, device_type: str) -> None:
    _LOG.info("rasterizer: %s (chosen automatically on %s)", name, device_type)
