"""A sheet of results: for each object the textures, and below them what its back looks like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seqtex_geometry.contact_sheet import save_contact_sheet

from .methods import MEAN, SMOOTH
from .run import PicturedObject

_LEFT_OUT = (MEAN, SMOOTH)
_FEW_OBJECTS = 6
_EDGE = 192


def save_pictures(path: Path, objects: Sequence[PicturedObject]) -> None:
    """A PNG with two rows per object: textures, and renders of the view opposite the reference.

    Columns are the reference, the truth, the baseline and the models; all methods for few objects.

    Args:
        path: of the file.
        objects: with the same methods, at least one.
    """
    left_out = _LEFT_OUT if len(objects) > _FEW_OBJECTS else ()
    names = [name for name in objects[0].textures if name not in left_out]
    rows: dict[str, Tensor] = {}
    for one in objects:
        textures = [one.textures[name] * one.mask for name in names]
        renders = [one.renders[name] for name in names]
        rows[one.title] = _strip([one.reference, *textures])
        rows[f"{one.title}: back"] = _strip([torch.ones_like(one.reference), *renders])
    save_contact_sheet(path, rows, ["reference", *names])


def _strip(pictures: Sequence[Tensor]) -> Tensor:
    """All at one size, without smoothing."""
    return torch.cat([interpolate(p[None], (_EDGE, _EDGE), mode="nearest") for p in pictures])
