"""What a run looked at and made on the way, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seqtex_geometry.contact_sheet import contact_sheet

from .outputs import STEPS_RECORD
from .pictures import map_pictures, numbered, save_maps, save_pictures

if TYPE_CHECKING:
    from .prepare import PreparedJob
    from .result import TextureResult

_PICTURE_SIZE = 512
_BACKDROP = (0.82, 0.82, 0.82)  # neither white nor black objects vanish on it


def write_intermediates(result: TextureResult, folder: Path) -> None:
    """Write maps, references as used, textures, renders and a contact sheet into ``folder``.

    Args:
        result: of a run.
        folder: exists; gets ``contact_sheet.png``, the manifest and the folders ``maps``,
            ``references``, ``textures``, ``renders`` and, if a model made views, ``views``.
    """
    job = result.job
    names = numbered(job.cameras.names)
    views = job.view_maps(_PICTURE_SIZE)
    far = float(views.depth.max().clamp(min=1e-6))
    save_maps(folder / "maps", views, names, depth_full_scale=far)
    for index, texture in enumerate(result.textures):
        maps = job.uv_maps(int(texture.shape[-1]), texture_set=index)
        save_maps(folder / "maps", maps, [f"uv{index}"], depth_full_scale=None)
        save_pictures(folder / "textures", texture[None], [f"texture{index}"])
    for reference in job.references:
        picture = torch.cat([reference.rgb, reference.mask])
        save_pictures(folder / "references", picture[None], [names[reference.view_index]])
    renders = result.render(_PICTURE_SIZE)
    save_pictures(folder / "renders", renders, names)
    pictures = map_pictures(views)
    rows = {
        "reference": _reference_row(job),
        "result": renders,
        "position": pictures["position"],
        "normal": pictures["normal"],
    }
    if result.views is not None:
        save_pictures(folder / "views", result.views, names)
        rows = {"reference": rows.pop("reference"), "model's views": _sized(result.views), **rows}
    if result.textures:
        rows["texture"] = torch.stack([_sized(texture[None])[0] for texture in result.textures])
    sheet = contact_sheet(rows, job.cameras.names, backdrop=_BACKDROP)
    sheet.save(folder / "contact_sheet.png")
    result.manifest.write(folder / STEPS_RECORD)


def _reference_row(job: PreparedJob) -> Tensor:
    """References in the columns of their views, ``[F, 4, S, S]``; others are transparent."""
    row = torch.zeros(len(job.cameras), 4, _PICTURE_SIZE, _PICTURE_SIZE)
    for reference in job.references:
        picture = torch.cat([reference.rgb, reference.mask])[None]
        row[reference.view_index] = _sized(picture)[0].cpu()
    return row


def _sized(pictures: Tensor) -> Tensor:
    """``[F, C, S, S]`` at the sheet's size."""
    size = (_PICTURE_SIZE, _PICTURE_SIZE)
    if pictures.shape[-1] >= _PICTURE_SIZE:
        return interpolate(pictures.float(), size=size, mode="area")
    return interpolate(pictures.float(), size=size, mode="nearest")
