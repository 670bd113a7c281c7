"""Reference images: decoding, alpha, orientation, plain backgrounds."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seqtex.references import (
    parse_references,
    plain_background,
    read_reference,
    read_references,
)
from seqtex_core.errors import InputError, UsageError


def square(size: int = 64) -> np.ndarray:
    """A white page with a coloured square whose middle is as white as the page."""
    pixels = np.full((size, size, 3), 250, np.uint8)
    pixels[16:48, 20:52] = (200, 30, 60)
    pixels[24:40, 28:44] = 250
    return pixels


def test_references_come_in_the_order_of_the_views() -> None:
    pictures = {"back": Image.new("RGB", (64, 64)), "front": Image.new("RGB", (32, 32))}
    read = read_references(pictures)
    assert [(image.view, image.size) for image in read] == [("front", 32), ("back", 64)]
    with pytest.raises(UsageError, match="reference view"):
        read_references({"top": Image.new("RGB", (64, 64))})


def test_the_image_option_is_the_front_view_unless_named() -> None:
    assert parse_references(Path("a"), [], ref_view=None) == {"front": Path("a")}
    assert parse_references(Path("a"), [], ref_view="left") == {"left": Path("a")}
    assert parse_references(None, ["back=b=c.png"], ref_view=None) == {"back": Path("b=c.png")}
    with pytest.raises(UsageError, match="--ref-view"):
        parse_references(None, ["back=b.png"], ref_view="left")


def test_alpha_is_kept_unless_it_is_opaque_everywhere() -> None:
    opaque = Image.fromarray(square()).convert("RGBA")
    assert read_reference(opaque, view="front").alpha is None
    alpha = Image.fromarray(square()[..., 1])
    opaque.putalpha(alpha)
    read = read_reference(opaque, view="front")
    assert read.alpha is not None
    assert np.array_equal(read.alpha, np.asarray(alpha))
    assert np.array_equal(read.rgb, square())


def test_arrays_and_tensors_are_pictures() -> None:
    """Each form of the same pixels is read as the same pixels."""
    pixels = square()
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    forms: list[Any] = [
        pixels,
        pixels / 255,
        chw,
        chw / 255,
        (chw / 255)[None],
        (chw / 255).double(),
    ]
    for form in forms:
        read = read_reference(form, view="front")
        assert np.array_equal(read.rgb, pixels)
        assert (read.alpha, read.name) == (None, "<image>")
    for flat in (pixels[..., 0], pixels[..., :1], chw[:1]):
        assert np.array_equal(read_reference(flat, view="front").rgb, grey)
    covered = np.concatenate([pixels, pixels[..., :1]], axis=2)
    alpha = read_reference(covered, view="front").alpha
    assert alpha is not None
    assert np.array_equal(alpha, pixels[..., 0])
    half = read_reference((chw / 255).half(), view="front").rgb
    assert np.abs(half.astype(int) - pixels).max() <= 1  # 11 bits of fp16 round to a step at most


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (np.zeros((64, 64, 2), np.uint8), r"\[H, W, C\].*64, 64, 2"),
        (torch.zeros(64, 64, 3), r"\[C, H, W\].*64, 64, 3"),
        (torch.zeros(2, 3, 64, 64), r"\[C, H, W\]"),
        (np.zeros((64, 64, 3), np.int64), "uint8, or floating point.*int64"),
        (np.full((64, 64, 3), 255.0), r"\[0, 1\], got 255 to 255. Divide by 255"),
        (torch.full((3, 64, 64), -1.0), r"Bring them to \[0, 1\]"),
        (torch.full((3, 64, 64), torch.nan), r"values in \[0, 1\]"),
        (b"bytes", "a path, a PIL picture.*got bytes"),
    ],
)
def test_what_is_no_picture_is_refused(source: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_reference(source, view="front")


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "1"])
def test_modes_become_rgb(mode: str) -> None:
    grey = Image.fromarray(np.repeat(square()[..., 1:2], 3, axis=2))
    read = read_reference(grey.convert(mode), view="front")
    reference = np.asarray(grey.convert(mode).convert("RGB"))
    assert read.rgb.shape == (64, 64, 3)
    # CMYK and palettes are converted by the decoder; its own rounding is allowed.
    assert np.abs(read.rgb.astype(int) - reference).max() <= 1


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    values = (np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) * 16).astype(np.uint16)
    read = read_reference(Image.fromarray(values), view="front")
    assert np.abs(read.rgb[..., 0].astype(int) - values // 256).max() <= 1


def test_orientation_tags_are_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(square())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    picture.save(tmp_path / "turned.png", exif=exif)
    read = read_reference(tmp_path / "turned.png", view="front")
    assert np.array_equal(read.rgb, np.rot90(square(), -1))


def test_a_floating_point_image_is_refused() -> None:
    with pytest.raises(InputError, match="8 or 16 bits"):
        read_reference(Image.fromarray(np.zeros((64, 64), np.float32)), view="front")


def test_the_hash_is_of_the_file(tmp_path: Path) -> None:
    import hashlib

    Image.fromarray(square()).save(tmp_path / "a.png")
    read = read_reference(tmp_path / "a.png", view="front")
    assert read.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert read.name == "a.png"


def test_background_is_what_the_border_reaches() -> None:
    background = plain_background(square())
    assert background is not None
    expected = np.ones((64, 64), bool)
    expected[16:48, 20:52] = False  # the white middle is not background
    assert np.array_equal(background, expected)


def test_background_tolerates_compression_noise() -> None:
    noise = np.random.default_rng(0).integers(-5, 6, (64, 64, 3))
    noisy = np.clip(square().astype(int) + noise, 0, 255).astype(np.uint8)
    background = plain_background(noisy)
    assert background is not None
    assert background[:16].all()
    assert not background[16:48, 20:28].any()


def test_a_photograph_has_no_plain_background() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert plain_background(photograph) is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "CMYK", "1", "I;16"])
def test_large_pictures_are_reduced(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtex.references.MAX_REFERENCE_SIZE", 64)
    page = Image.fromarray(np.full((256, 256), 200, np.uint16)) if mode == "I;16" else None
    page = page or Image.new("RGB", (256, 256), (250, 250, 250)).convert(mode)
    read = read_reference(page, view="front")
    assert (read.size, read.reduced_from) == (64, 256)
    assert read_reference(page.resize((64, 64)), view="front").reduced_from is None


def test_transparent_pixels_do_not_bleed_when_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtex.references.MAX_REFERENCE_SIZE", 64)
    pixels = np.zeros((128, 128, 4), np.uint8)
    pixels[31:97, 31:97] = (250, 20, 20, 255)  # its border falls into the middle of a pixel
    read = read_reference(Image.fromarray(pixels), view="front")
    assert read.alpha is not None
    off = read.rgb[read.alpha > 0].astype(int) - (250, 20, 20)
    assert np.abs(off).max() <= 2  # premultiplied in 8 bits


def test_a_picture_beyond_memory(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    data += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(data + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    with pytest.raises(InputError, match="fits into memory"):
        read_reference(tmp_path / "bomb.png", view="front")
