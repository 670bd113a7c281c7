"""The conditioning frame that shows the references in UV space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seqtex.prepare import prepare_job
from seqtex.project import project_references
from seqtex.projection_frame import (
    NOTHING_SEEN,
    as_residual,
    completed_frame,
    from_residual,
    kept_as_shown,
    marked_normal,
    project_frame,
)
from seqtex.training.batch import GroupImages, TrainingBatch
from seqtex.training.encode import BatchEncoder
from seqtex.training.projection import with_projection
from seqtex_backbones.codecs.pixel import PixelCodec
from seqtex_core.errors import UsageError
from seqtex_core.tasks import PROJECTION, TEXTURE, VIEWS, img2tex_projected
from seqtex_geometry.fill import fill_smooth_surface
from seqtex_geometry.parts import connected_parts, shown_parts

UP = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 1, 6)


def row_of_texels(count: int = 6):
    """A chart of one row along x; the last texel is off the chart."""
    position = torch.zeros(3, 1, count)
    position[0, 0] = torch.arange(count)
    mask = torch.ones(1, count, dtype=torch.bool)
    mask[0, -1] = False
    return position, mask


def test_unseen_texels_continue_what_was_seen():
    position, mask = row_of_texels()
    color = torch.rand(3, 1, 6)
    seen = torch.tensor([[True, False, False, False, True, True]])
    frame = completed_frame(color, seen, position, UP, mask)
    for texel in (0, 4):
        assert torch.equal(frame[:, 0, texel], color[:, 0, texel])
    ends = color[:, 0, [0, 4]]
    between = frame[:, 0, 1:4]
    assert (between >= ends.amin(1, keepdim=True) - 1e-6).all()
    assert (between <= ends.amax(1, keepdim=True) + 1e-6).all()
    assert (between[:, 0] - ends[:, 0]).abs().sum() < (between[:, 2] - ends[:, 0]).abs().sum()
    assert torch.equal(frame[:, 0, 5], torch.zeros(3))  # off the chart, though marked as seen


def test_nothing_seen_is_grey_on_the_charts():
    position, mask = row_of_texels()
    seen = torch.zeros(1, 6, dtype=torch.bool)
    frame = completed_frame(torch.rand(3, 1, 6), seen, position, UP, mask)
    assert torch.equal(frame, NOTHING_SEEN * mask.float().expand(3, 1, 6))


def test_normals_mark_what_was_seen():
    seen = torch.tensor([[True, False]])
    assert marked_normal(torch.ones(3, 1, 2), seen).tolist() == [[[1, 0]]] * 3


def test_a_job_is_projected_as_its_picture_shows_it(assets):
    job = prepare_job(assets / "figure.glb", {"front": assets / "views" / "0_front.png"})
    maps = job.uv_maps(64)
    made = project_frame(job, maps)
    frame, marked = made.image, made.maps
    seen = marked.normal[0].abs().sum(-1) > 0
    assert 0.02 < seen.float().mean() < 0.6
    assert torch.equal(seen & ~maps.hit[0], torch.zeros_like(seen))
    red = replace(
        job.references[0],
        rgb=torch.tensor([1.0, 0, 0])[:, None, None] * torch.ones(3, 8, 8),
        mask=torch.ones(1, 8, 8),
    )
    frame = project_frame(replace(job, references=(red,)), maps).image
    on_charts = frame[:, maps.hit[0]]
    assert torch.allclose(on_charts, torch.tensor([[1.0], [0], [0]]), atol=1e-5)


def test_frame_and_texture_are_filled_part_by_part(assets, monkeypatch):
    """The figure is three boxes."""
    job = prepare_job(assets / "figure.glb", {"front": assets / "views" / "0_front.png"})
    parts = []

    def spy(position, color, known, *, normal, part):
        parts.append(len(part.unique()))
        return fill_smooth_surface(position, color, known, normal=normal, part=part)

    for module in ("seqtex.projection_frame", "seqtex_geometry.project"):
        monkeypatch.setattr(f"{module}.fill_smooth_surface", spy)
    frame = project_frame(job, job.uv_maps(32))
    project_references(job, uv_size=32)
    assert parts == [3, 3]
    charts = frame.maps.hit[0]
    own = connected_parts(job.surface)[frame.maps.face_idx[0]]
    assert torch.equal(frame.part[charts], shown_parts(own[charts], frame.seen[charts]))
    assert set(frame.part[charts].tolist()) == {-1, 0, 1}  # of the third nothing is seen
    assert bool((frame.part[~charts] == -1).all())


def test_stains_are_continued_not_kept(assets, monkeypatch):
    """As if every second texel that the picture shows had the colour of another part."""
    job = prepare_job(assets / "figure.glb", {"front": assets / "views" / "0_front.png"})
    maps = job.uv_maps(64)
    asked = []

    def every_second(color, part, known, inside):
        asked.append((part, known, inside))
        return known & (torch.arange(len(known)) % 2 == 0)

    monkeypatch.setattr("seqtex.projection_frame.stained", every_second)
    frame = project_frame(job, maps)
    ((part, known, inside),) = asked
    charts = maps.hit[0]
    stain = known & (torch.arange(len(known)) % 2 == 0)
    assert int(stain.sum()) > 50
    assert torch.equal(frame.seen[charts], known & ~stain)
    assert torch.equal(frame.maps.normal[0][charts].any(-1), known & ~stain)
    assert torch.equal(part, connected_parts(job.surface)[maps.face_idx[0][charts]])
    assert bool((inside[known] > 0).all())


def batch(visible: torch.Tensor | None) -> TrainingBatch:
    position, mask = row_of_texels()
    images = torch.arange(18.0).reshape(3, 1, 6) / 20
    group = GroupImages(
        images=images[None, None].repeat(2, 1, 1, 1, 1),
        position=position[None, None].repeat(2, 1, 1, 1, 1),
        normal=torch.ones(2, 1, 3, 1, 6),
        mask=mask[None, None, None].repeat(2, 1, 1, 1, 1).float(),
    )
    views = GroupImages(
        images=torch.zeros(2, 4, 3, 2, 2),
        position=torch.zeros(2, 4, 3, 2, 2),
        normal=torch.zeros(2, 4, 3, 2, 2),
        mask=torch.zeros(2, 4, 1, 2, 2),
    )
    return TrainingBatch(groups={VIEWS: views, TEXTURE: group}, visible=visible)


def test_each_sample_shows_what_its_own_views_see():
    visible = torch.zeros(2, 4, 1, 6, dtype=torch.bool)
    visible[:, 0, 0, 0] = True
    visible[:, 2, 0, 4] = True
    plans = [img2tex_projected(condition_views=(0,)), img2tex_projected(condition_views=(2,))]
    made = with_projection(batch(visible), plans, "none")
    frames = made.groups[PROJECTION].images
    truth = made.groups[TEXTURE].images
    assert torch.equal(frames[0, 0, :, 0, :5], truth[0, 0, :, 0, :1].expand(3, 5))
    assert torch.equal(frames[1, 0, :, 0, :5], truth[1, 0, :, 0, 4:5].expand(3, 5))
    assert made.groups[PROJECTION].normal[0, 0, 0, 0].tolist() == [1, 0, 0, 0, 0, 0]


def test_the_loss_counts_what_no_given_view_sees():
    visible = torch.zeros(2, 4, 1, 6, dtype=torch.bool)
    visible[:, 0, 0, 1:3] = True
    plans = [img2tex_projected(condition_views=(view,)) for view in (0, 1)]
    made = with_projection(batch(visible), plans, "projection").groups[TEXTURE]
    assert made.learned is not None
    assert made.learned[:, 0, 0, 0].tolist() == [[1, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0]]
    assert torch.equal(made.mask[0], made.mask[1])
    encoder = BatchEncoder(PixelCodec(patch_size=1), outside_weight=0.25)
    encoded = encoder(TrainingBatch(groups={TEXTURE: made}), [0, 1], [TEXTURE])
    assert encoded.masks[TEXTURE][0, 0, 0, 0].tolist() == [1, 0.25, 0.25, 1, 1, 0.25]
    assert encoded.coverage[TEXTURE][0, 0, 0, 0].tolist() == [1, 1, 1, 1, 1, 0]


def test_a_source_that_does_not_know_is_refused():
    with pytest.raises(UsageError, match="geometry bank"):
        with_projection(batch(None), [img2tex_projected()] * 2, "none")


def test_textures_measured_from_the_projection_come_back():
    clean = {name: torch.randn(1, 2, 1, 3, 3) for name in (VIEWS, PROJECTION, TEXTURE)}
    residual = as_residual(clean, "projection")
    assert torch.equal(residual[TEXTURE], clean[TEXTURE] - clean[PROJECTION])
    assert residual[PROJECTION] is clean[PROJECTION]
    back = from_residual(residual, clean[PROJECTION], "projection")
    torch.testing.assert_close(back[TEXTURE], clean[TEXTURE], atol=1e-6, rtol=0)
    assert as_residual(clean, "none") == clean
    without = {VIEWS: clean[VIEWS]}
    assert as_residual(without, "projection") == without
    assert from_residual(without, None, "projection") == without


def test_a_model_that_starts_at_the_frame_leaves_what_was_seen():
    frame, made = torch.zeros(3, 1, 2), torch.ones(3, 1, 2)
    seen = torch.tensor([[True, False]])
    kept = kept_as_shown(made, frame, seen, "projection")
    assert kept.tolist() == [[[0.0, 1.0]]] * 3
    assert kept_as_shown(made, frame, seen, "none") is made
