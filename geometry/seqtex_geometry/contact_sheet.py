"""Grids of labelled pictures, to look at results side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from seqtex_core.errors import UsageError

_GAP = 8
_PAPER = (250, 250, 250)
_INK = (40, 40, 40)


def contact_sheet(
    rows: Mapping[str, Tensor],
    columns: Sequence[str] = (),
    *,
    backdrop: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Image.Image:
    """A sheet with one labelled row of pictures per entry.

    Args:
        rows: label -> pictures ``[F, 3, H, W]`` or ``[F, 4, H, W]``, float in [0, 1]. Rows may
            differ in number and size; pictures of a row share one size.
        columns: names over the columns.
        backdrop: colour behind transparent pictures.

    Raises:
        UsageError: no rows, or pictures of another shape.
    """
    if not rows:
        raise UsageError("contact sheet", expected="at least one row", got="none")
    for label, pictures in rows.items():
        if pictures.ndim != 4 or pictures.shape[1] not in (3, 4):
            raise UsageError(
                f"row {label!r}", expected="shape [F, 3 or 4, H, W]", got=str(list(pictures.shape))
            )
    cell = max(int(pictures.shape[-1]) for pictures in rows.values())
    font = ImageFont.load_default(size=max(12, cell // 22))
    line = font.getbbox("Ag")[3] + _GAP
    margin = max(int(font.getlength(label)) for label in rows) + 2 * _GAP
    count = max(len(pictures) for pictures in rows.values())
    top = int(line) + _GAP if columns else _GAP
    height = top + sum(int(pictures.shape[-2]) + _GAP for pictures in rows.values())
    sheet = Image.new("RGB", (margin + count * (cell + _GAP), height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, name in enumerate(columns):
        center = margin + index * (cell + _GAP) + cell // 2
        draw.text((center, _GAP), name, fill=_INK, font=font, anchor="ma")
    y = top
    for label, pictures in rows.items():
        draw.text((_GAP, y + pictures.shape[-2] // 2), label, fill=_INK, font=font, anchor="lm")
        for index, picture in enumerate(pictures):
            x = margin + index * (cell + _GAP) + (cell - picture.shape[-1]) // 2
            sheet.paste(to_image(picture, backdrop), (x, y))
        y += int(pictures.shape[-2]) + _GAP
    return sheet


def to_image(picture: Tensor, backdrop: tuple[float, float, float] | None = None) -> Image.Image:
    """``picture [3 or 4, H, W]`` in [0, 1] as an 8-bit image; over ``backdrop`` if it has alpha."""
    picture = picture.detach().float().cpu()
    if picture.shape[0] == 4 and backdrop is not None:
        alpha = picture[3:]
        picture = picture[:3] * alpha + (1 - alpha) * torch.tensor(backdrop)[:, None, None]
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def save_contact_sheet(
    path: str | Path, rows: Mapping[str, Tensor], columns: Sequence[str] = ()
) -> None:
    """Write :func:`contact_sheet` to ``path`` as PNG."""
    contact_sheet(rows, columns).save(path, format="PNG")
