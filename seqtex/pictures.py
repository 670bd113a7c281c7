"""Maps and renders as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seqtex_geometry.contact_sheet import to_image
from seqtex_geometry.maps import SurfaceMaps


def map_pictures(maps: SurfaceMaps) -> dict[str, Tensor]:
    """Each kind of map as pictures ``[F, 3, H, W]`` in [0, 1], to look at.

    Convention:
        Positions and normals are mapped from [-1, 1] to [0, 1] where the surface is, and are black
        elsewhere. Depth is 1 at the nearest and 0.1 at the farthest visible point of all frames.
    """
    covered = (maps.mask > 0)[..., None]
    position = torch.where(covered, maps.position / 2 + 0.5, 0.0)
    normal = torch.where(covered, maps.normal / 2 + 0.5, 0.0)
    return {
        "position": position.permute(0, 3, 1, 2).clamp(0, 1),
        "normal": normal.permute(0, 3, 1, 2).clamp(0, 1),
        "mask": maps.mask[:, None].expand(-1, 3, -1, -1),
        "depth": _near_is_bright(maps)[:, None].expand(-1, 3, -1, -1),
    }


def save_maps(
    folder: Path, maps: SurfaceMaps, names: Sequence[str], *, depth_full_scale: float | None
) -> None:
    """Write ``<name>_position.png`` and so on, one file per frame and kind.

    Args:
        folder: made if it does not exist.
        maps: F frames.
        names: one per frame.
        depth_full_scale: depth that is written as 65535, in 16-bit grey; 0 is background. ``None``
            for maps without depth (UV space).
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = map_pictures(maps)
    for index, name in enumerate(names):
        to_image(pictures["position"][index]).save(folder / f"{name}_position.png")
        to_image(pictures["normal"][index]).save(folder / f"{name}_normal.png")
        to_image(pictures["mask"][index]).convert("L").save(folder / f"{name}_mask.png")
        if depth_full_scale is not None:
            depth = maps.depth[index].detach().cpu().double() / depth_full_scale * 65535
            grey = depth.round().clamp(0, 65535).numpy().astype(np.uint16)
            Image.fromarray(grey).save(folder / f"{name}_depth.png")


def save_pictures(folder: Path, pictures: Tensor, names: Sequence[str]) -> None:
    """Write ``<name>.png`` per picture of ``[F, 3 or 4, H, W]``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(names, pictures, strict=True):
        to_image(picture).save(folder / f"{name}.png")


def numbered(names: Sequence[str]) -> list[str]:
    """``0_front``, ``1_left``, ...: file names that sort in the order of the rig."""
    return [f"{index}_{name}" for index, name in enumerate(names)]


def _near_is_bright(maps: SurfaceMaps) -> Tensor:
    hit = maps.hit
    if not bool(hit.any()):
        return torch.zeros_like(maps.depth)
    low, high = maps.depth[hit].min(), maps.depth[hit].max()
    share = (maps.depth - low) / (high - low).clamp(min=1e-6)
    return torch.where(hit, 1.0 - 0.9 * share, 0.0)
