"""Reference images: which view each one shows, decoding and the checks that need no mesh."""

from __future__ import annotations

import difflib
import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from seqtex_core.errors import InputError, UsageError
from seqtex_geometry.mesh import VIEW_NAMES, ImageArray

if TYPE_CHECKING:
    from PIL import Image

    from .reference_arrays import PictureArray

MIN_REFERENCE_SIZE = 32
MAX_REFERENCE_SIZE = 4096
"""Pixels of an edge; larger pictures are reduced: no texture shows more, and memory is finite."""
ReferenceSource: TypeAlias = "str | Path | Image.Image | PictureArray"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceImage:
    """One decoded reference image, at its own resolution.

    Args:
        view: name of the view that it shows.
        name: file name for messages and the manifest; ``"<image>"`` if it was given in memory.
        rgb: sRGB pixels, ``[H, W, 3]`` uint8; H = W.
        alpha: coverage, ``[H, W]`` uint8, or ``None`` if the image is opaque.
        sha256: hash of the file's bytes (of the pixels, if given in memory).
        reduced_from: edge in pixels before it was reduced; ``None`` if it is as given.
    """

    view: str
    name: str
    rgb: ImageArray
    alpha: ImageArray | None
    sha256: str
    reduced_from: int | None = None

    @property
    def size(self) -> int:
        """Edge length in pixels."""
        return int(self.rgb.shape[0])


def check_view_name(name: str, *, subject: str) -> str:
    """``name`` if it is a view of the rig.

    Raises:
        UsageError: no such view; names the closest match.
    """
    if name in VIEW_NAMES:
        return name
    close = difflib.get_close_matches(name.lower(), VIEW_NAMES, n=1)
    raise UsageError(
        subject,
        expected="a view among " + ", ".join(VIEW_NAMES),
        got=repr(name),
        remedy=f"Did you mean {close[0]!r}?" if close else "",
    )


def parse_references(
    image: Path | None, refs: Iterable[str], *, ref_view: str | None
) -> dict[str, Path]:
    """``{view name: image path}`` from the options of the command line.

    Args:
        image: value of ``--image``.
        refs: values of ``--ref``, each ``VIEW=PATH``.
        ref_view: value of ``--ref-view``: the view that ``image`` shows; front if not given.

    Raises:
        UsageError: both ways used at once, no ``=``, an unknown view, or a view given twice.
    """
    refs = list(refs)
    if image is not None and refs:
        raise UsageError("--image, --ref", expected="one of the two", got="both")
    if ref_view is not None and image is None:
        raise UsageError("--ref-view", expected="--image beside it", got="no --image")
    if image is not None:
        return {check_view_name(ref_view or VIEW_NAMES[0], subject="--ref-view"): image}
    found: dict[str, Path] = {}
    for ref in refs:
        name, separator, path = ref.partition("=")
        if not separator or not path:
            raise UsageError("--ref", expected="VIEW=PATH, as in front=a.png", got=repr(ref))
        if check_view_name(name.strip(), subject="--ref") in found:
            raise UsageError("--ref", expected="each view once", got=f"{name} twice")
        found[name.strip()] = Path(path)
    return found


def read_references(references: Mapping[str, ReferenceSource]) -> list[ReferenceImage]:
    """Decode and check reference images, in the order of the rig's views.

    Args:
        references: per view name a path, a PIL image, or an array or tensor, see ``picture_of``.

    Raises:
        UsageError: an unknown view name, or something that is no picture.
        InputError: an image that is missing, damaged, too small, not square or empty.
    """
    for view in references:
        check_view_name(view, subject="reference view")
    return [read_reference(references[v], view=v) for v in VIEW_NAMES if v in references]


def read_reference(source: ReferenceSource, *, view: str) -> ReferenceImage:
    """Decode and check one reference image.

    Orientation tags are applied; an alpha channel that is opaque everywhere counts as none.

    Raises:
        InputError: missing, not an image, damaged, too small, not square, or fully transparent.
        UsageError: no path and no picture.
    """
    from PIL import Image

    if isinstance(source, (str, Path)):
        name, data = str(source), _read_bytes(Path(source))
        picture = _decode(name, data)
    elif isinstance(source, Image.Image):
        name, picture, data = "<image>", source, source.tobytes()
    else:
        from .reference_arrays import picture_of

        name, picture = "<image>", picture_of(source, view=view)
        data = picture.tobytes()
    width, height = picture.size
    if min(height, width) < MIN_REFERENCE_SIZE:
        raise InputError(
            f"reference {name}",
            expected=f"at least {MIN_REFERENCE_SIZE} x {MIN_REFERENCE_SIZE} pixels",
            got=f"{width} x {height}",
        )
    if height != width:
        raise InputError(
            f"reference {name}",
            expected="a square image, as the views are",
            got=f"{width} x {height}",
            remedy="Pad or crop it so that the object sits as in `seqtex render`'s view.",
        )
    reduced = width > MAX_REFERENCE_SIZE
    rgb, alpha = _split_alpha(name, _reduced(picture) if reduced else picture)
    if alpha is not None and not alpha.any():
        raise InputError(f"reference {name}", expected="visible pixels", got="all transparent")
    return ReferenceImage(
        view=view,
        name=Path(name).name,
        rgb=rgb,
        alpha=alpha,
        sha256=hashlib.sha256(data).hexdigest(),
        reduced_from=width if reduced else None,
    )


def plain_background(rgb: ImageArray, *, tolerance: int = 12) -> np.ndarray | None:
    """Background of an opaque picture whose border is one colour, ``[H, W]`` bool, else ``None``.

    The background is what is connected to the border and differs from its median colour by at
    most ``tolerance`` of 255 in every channel, so a white belly on white paper stays foreground.
    """
    from scipy import ndimage

    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.int16)
    colour = np.median(border, axis=0)
    if (np.abs(border - colour).max(axis=1) > tolerance).mean() > 0.02:
        return None
    near = np.abs(rgb.astype(np.int16) - colour).max(axis=2) <= tolerance
    labels, _ = ndimage.label(near)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    background: np.ndarray = np.isin(labels, np.unique(edge[edge > 0]))
    return background


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"reference {path}", expected="a readable image file", got=f"{error.strerror}"
        ) from error


def _decode(name: str, data: bytes) -> Image.Image:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a limit of ours holds
            picture = Image.open(io.BytesIO(data))
        picture.load()
        return ImageOps.exif_transpose(picture)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"reference {name}",
            expected="an image that fits into memory",
            got=str(error).split(",", 1)[0],
            remedy=f"Reduce it; more than {MAX_REFERENCE_SIZE} pixels a side are not used.",
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"reference {name}",
            expected="an image (PNG, JPEG, WebP, ...)",
            got=f"{len(data)} bytes that do not decode ({type(error).__name__})",
        ) from error


def _reduced(picture: Image.Image) -> Image.Image:
    """The picture at the largest size that is used, transparent colours as alpha."""
    from PIL import Image

    if picture.mode in ("P", "PA", "1") or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    edge = (MAX_REFERENCE_SIZE, MAX_REFERENCE_SIZE)
    return picture.resize(edge, Image.Resampling.BOX)


def _split_alpha(name: str, picture: Image.Image) -> tuple[ImageArray, ImageArray | None]:
    has_alpha = picture.has_transparency_data
    if picture.mode == "F":
        raise InputError(
            f"reference {name}", expected="8 or 16 bits per channel", got="floating-point values"
        )
    if picture.mode.startswith("I"):
        grey = np.asarray(picture, dtype=np.int64) // 256
        pixels = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return pixels, None
    pixels = np.asarray(picture.convert("RGBA" if has_alpha else "RGB"), dtype=np.uint8)
    if not has_alpha or bool((pixels[..., 3] == 255).all()):
        return np.ascontiguousarray(pixels[..., :3]), None
    return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])
