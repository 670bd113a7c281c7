"""Options that several commands share, declared once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from seqtex.prepare_options import UvMode
from seqtex_core.errors import UsageError

_option = partial(typer.Option, rich_help_panel="Mesh")

MeshArgument = Annotated[
    Path, typer.Argument(metavar="MESH", help="GLB, glTF, OBJ, PLY or STL file.")
]
UpOption = Annotated[
    str | None,
    _option(
        "--up", metavar="AXIS", help="Axis that points up: x, y, z, -x, -y, -z.", show_default="y"
    ),
]
FrontOption = Annotated[
    str | None,
    _option(
        "--front", metavar="AXIS", help="Axis that the object faces.", show_default="z; -y for z up"
    ),
]
RasterizerOption = Annotated[
    str,
    typer.Option("--rasterizer", metavar="NAME", help="See `seqtex info`; auto prints its choice."),
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... or auto.")
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that are not results of ours. Ours are replaced without it; "
        "inputs never are.",
    ),
]
OutFolderOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")
]
KeepUvOption = Annotated[
    bool, _option("--keep-uv", help="Refuse a mesh without UVs instead of unwrapping it.")
]
UnwrapOption = Annotated[bool, _option("--unwrap", help="Make new UVs even if the file has some.")]
ChartsOption = Annotated[
    str,
    _option(
        "--charts",
        metavar="xatlas|directions",
        help="Who cuts the surface for new UVs: xatlas, or the direction that it faces, in "
        "seconds for any mesh. auto: xatlas up to 60 thousand faces.",
    ),
]


def uv_mode(keep_uv: bool, unwrap: bool) -> UvMode:
    """Whose UVs to paint: "keep", "unwrap" or "auto" (new ones only if there are none).

    Raises:
        UsageError: both flags.
    """
    if keep_uv and unwrap:
        raise UsageError("--keep-uv, --unwrap", expected="one of the two", got="both")
    return "keep" if keep_uv else "unwrap" if unwrap else "auto"


def check_size(flag: str, value: int, *, low: int = 16, high: int = 8192) -> None:
    """Refuse sizes in pixels outside ``[low, high]``.

    Raises:
        UsageError: out of range.
    """
    if not low <= value <= high:
        raise UsageError(flag, expected=f"{low} to {high} pixels", got=str(value))


def check_choice(flag: str, value: str, known: Sequence[str]) -> None:
    """Refuse a word that is not in ``known``.

    Raises:
        UsageError: names the closest match.
    """
    if value in known:
        return
    close = difflib.get_close_matches(value.lower(), known, n=1)
    raise UsageError(
        flag,
        expected="one of " + ", ".join(known),
        got=repr(value),
        remedy=f"Did you mean {close[0]!r}?" if close else "",
    )
