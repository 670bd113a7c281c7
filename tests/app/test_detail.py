"""A model's texture at another size than its own, with the references' detail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from seqtex.detail import detailed_texture, enlarged
from seqtex.models.config import ModelConfig
from seqtex.models.folder import model_folder
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.project import project_references
from seqtex.projection_frame import project_frame
from seqtex.run_options import RunOptions

SMALL, LARGE = 32, 96


@pytest.fixture(scope="module")
def job(assets):
    return prepare_job(assets / "figure.glb", {"front": assets / "views" / "0_front.png"})


@pytest.fixture(scope="module")
def projected(job):
    return project_references(job, uv_size=LARGE).texture


def test_a_model_that_changes_nothing_gives_the_projection(job, projected):
    maps = job.uv_maps(SMALL)
    frame = project_frame(job, maps).image
    detailed = detailed_texture(job, frame, maps.hit[0], frame, size=LARGE)
    made, large = detailed.texture, detailed.maps
    assert large.size == (LARGE, LARGE)
    # The same sums in another order, and one more padding: rounding of values below 1.
    assert (made - projected)[:, large.hit[0]].abs().max() < 1e-6


def test_a_change_shows_where_no_reference_does(job, projected):
    maps = job.uv_maps(SMALL)
    frame = project_frame(job, maps).image
    detailed = detailed_texture(job, frame * 0.5, maps.hit[0], frame, size=LARGE)
    made, large = detailed.texture, detailed.maps
    change = (made - projected).abs().amax(0)
    texel_sides = large.normal[0, ..., 1]  # the working copy faces -y
    front = large.hit[0] & (texel_sides < -0.8) & (change < 1e-6)
    back = large.hit[0] & (texel_sides > 0.8)
    assert front.sum() > 50
    assert back.sum() > 50
    assert (change[back] > 0.05).all()


def test_a_change_of_a_frame_that_was_wrong_says_nothing(job, projected):
    """Where the fine fill knows better than the frame that the model saw."""
    maps = job.uv_maps(SMALL)
    frame = project_frame(job, maps).image
    wrong = (frame + 0.5) % 1.0
    detailed = detailed_texture(job, wrong * 0.5, maps.hit[0], wrong, size=LARGE)
    made, large = detailed.texture, detailed.maps
    back = large.hit[0] & (large.normal[0, ..., 1] > 0.8)
    assert (made - projected).abs().amax(0)[back].max() < 1e-6


def test_without_a_frame_the_model_is_enlarged_where_nothing_is_shown(job, projected):
    maps = job.uv_maps(SMALL)
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, SMALL, SMALL)
    detailed = detailed_texture(job, red, maps.hit[0], None, size=LARGE)
    made, large = detailed.texture, detailed.maps
    side = large.normal[0, ..., 1]
    back = made[:, large.hit[0] & (side > 0.8)].T
    assert len(back) > 50
    assert torch.equal(back, red[:, 0, 0].expand_as(back))
    shown = large.hit[0] & ((made - projected).abs().amax(0) < 1e-6)
    assert shown.any()
    assert (side[shown] < 0.5).all()


def test_enlarging_does_not_mix_what_lies_off_the_charts():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 1:6] = True
    values = torch.where(mask, 0.25, torch.tensor(-9.0)).expand(3, 8, 8)
    assert torch.allclose(enlarged(values, mask, 32), torch.tensor(0.25), atol=1e-6)


def test_the_shipped_model_writes_large_textures():
    config = ModelConfig.read(model_folder("seqtex-tiny"))
    assert config.texture_size == 1024
    assert ModelConfig.from_json(config.to_json(), source="test") == config


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """A plate that hides a smaller one with a texture of its own, and a red picture of them."""
    folder = tmp_path_factory.mktemp("plates")
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=float)
    scene = trimesh.Scene()
    for name, color, place, faces in (
        ("front", "blue", corners, [[0, 1, 2], [0, 2, 3]]),
        ("back", "green", 0.5 * corners - [0, 0, 0.5], [[0, 2, 1], [0, 3, 2]]),
    ):
        material = trimesh.visual.material.PBRMaterial(
            name=name, baseColorTexture=Image.new("RGB", (8, 8), color)
        )
        uv = (corners[:, :2] + 1) / 2
        visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
        scene.add_geometry(trimesh.Trimesh(place, faces, process=False, visual=visual))
    scene.export(folder / "plates.glb")
    job = prepare_job(folder / "plates.glb", {})
    hit = job.view_maps(256).hit[0].cpu().numpy()
    picture = np.zeros((256, 256, 4), dtype=np.uint8)
    picture[hit] = (200, 20, 20, 255)
    Image.fromarray(picture).save(folder / "front.png")
    return prepare_job(folder / "plates.glb", {"front": folder / "front.png"})


@pytest.mark.parametrize("size", [128, 160], ids=["at the model's size", "larger"])
def test_a_set_that_no_reference_shows_takes_the_colours_of_the_others(plates, size):
    pipeline = SeqTexPipeline.from_pretrained("seqtex-tiny", device="cpu")
    result = pipeline(plates, options=RunOptions(texture_size=size))
    red = torch.tensor([200, 20, 20]) / 255
    assert len(result.textures) == 2
    for texture in result.textures:
        # All that is shown is red; edges of the picture may blend with the background.
        assert (texture.flatten(1).median(dim=1).values - red).abs().max() < 0.02
