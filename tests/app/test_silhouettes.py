"""References against the mesh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seqtex.prepare import PreparedJob, prepare_job
from seqtex.prepare_options import PrepareOptions
from seqtex.silhouettes import silhouette_iou
from seqtex_core.errors import InputError


def opaque(path: Path, background: tuple[int, int, int]) -> Image.Image:
    picture = Image.open(path).convert("RGBA")
    page = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(page, picture).convert("RGB")


def prepare(assets: Path, image: Image.Image | Path, view: str = "front") -> PreparedJob:
    return prepare_job(assets / "figure.glb", {view: image})


def test_iou_by_hand() -> None:
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    first[:2], second[1:3] = 1.0, 1.0
    assert silhouette_iou(first, second) == pytest.approx(4 / 12)
    assert silhouette_iou(first, first) == 1.0
    assert silhouette_iou(torch.zeros(4, 4), torch.zeros(4, 4)) == 0.0


def test_alpha_is_the_mask(assets: Path) -> None:
    (reference,) = prepare(assets, assets / "views" / "0_front.png").references
    alpha = np.asarray(Image.open(assets / "views" / "0_front.png"))[..., 3] / 255.0
    assert reference.mask_source == "alpha"
    assert torch.equal(reference.mask[0], torch.from_numpy(alpha).float())
    # The render supersamples 2 x 2 and so does the silhouette: only 8-bit rounding is left.
    assert reference.iou is not None
    assert reference.iou > 0.995


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (20, 120, 220)])
def test_an_opaque_image_gets_the_silhouette_and_is_measured_by_its_background(
    assets: Path, background: tuple[int, int, int]
) -> None:
    image = opaque(assets / "views" / "0_front.png", background)
    (reference,) = prepare(assets, image).references
    assert reference.mask_source == "silhouette"
    # One pixel of antialiasing around about 50 x 60 pixels counts as object: 7%.
    assert reference.iou is not None
    assert reference.iou > 0.9
    assert 0.05 < float(reference.mask.mean()) < 0.5


def test_an_opaque_image_without_plain_background_is_taken_unmeasured(assets: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (reference,) = prepare(assets, Image.fromarray(pixels)).references
    assert reference.iou is None
    assert reference.mask_source == "silhouette"
    assert "not measured" in str(reference)


@pytest.mark.parametrize("view", ["left", "right"])
def test_a_mirrored_view_does_not_fit(assets: Path, view: str) -> None:
    image = Image.open(assets / "views" / "0_front.png")
    with pytest.raises(InputError, match=f"{view} view's with IoU >= 0.80") as caught:
        prepare(assets, image, view)
    assert "fits the view 'front'" in caught.value.remedy


def test_no_view_is_named_that_does_not_fit_either(assets: Path) -> None:
    """A shifted front picture fits none; one of coarse pixels fits its own best, but not well."""
    picture = Image.open(assets / "views" / "0_front.png")
    shifted = Image.new("RGBA", picture.size)
    shifted.paste(picture, (40, 0))
    coarse = picture.resize((32, 32)).resize(picture.size)
    for image, view, limit in ((shifted, "left", 0.8), (coarse, "front", 0.99)):
        options = PrepareOptions(min_iou=limit)
        with pytest.raises(InputError) as caught:
            prepare_job(assets / "figure.glb", {view: image}, options=options)
        assert caught.value.remedy.startswith("Render the view with `seqtex render`")


def test_the_threshold_is_an_option(assets: Path) -> None:
    left = assets / "views" / "1_left.png"
    job = prepare_job(assets / "figure.glb", {"front": left}, options=PrepareOptions(min_iou=0.1))
    assert job.references[0].iou is not None
    assert 0.1 <= job.references[0].iou < 0.8


def test_references_keep_their_resolution_and_view(assets: Path) -> None:
    big = Image.open(assets / "views" / "2_back.png").resize((700, 700))
    job = prepare_job(
        assets / "figure.glb", {"back": big, "front": assets / "views" / "0_front.png"}
    )
    assert [r.view_index for r in job.references] == [0, 2]
    assert [tuple(r.rgb.shape) for r in job.references] == [(3, 128, 128), (3, 700, 700)]
    assert [tuple(r.mask.shape) for r in job.references] == [(1, 128, 128), (1, 700, 700)]
