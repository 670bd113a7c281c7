"""The ablation's plan and its arithmetic, on numbers whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import t

from benchmarks.ablation.colours import GREY, canonical, coarser, on_grey
from benchmarks.ablation.interpolated import entry
from benchmarks.ablation.report import EXPECTED, to_markdown
from benchmarks.ablation.setting import HELD_OUT_KINDS, TRAIN_KINDS, Setting
from benchmarks.ablation.source import draw_diffuse, lit_texture
from benchmarks.ablation.table import difference, mean_value, run_half_width, verdict
from benchmarks.ablation.variants import BASELINE, EXTRA_SEEDS, VARIANTS, planned, variant
from seqtex.data.sample import GeometryMaps, TextureImages
from seqtex.data.splits import split_kinds
from seqtex.data.synth import object_rng
from seqtex.training.config import TrainingConfig
from seqtex.training.tables import from_table
from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout

OBJECTS = 40


def run(name: str, seed: int, values: list[float | None], **more: Any) -> dict[str, Any]:
    measures = dict.fromkeys(("psnr_all", "psnr_unseen", "view_agreement"), values)
    return {
        "variant": name,
        "seed": seed,
        "values": {"1": measures, "4": measures},
        "losses": {"img2tex texture": {"first": 2.0, "last": 1.0}},
        "stages": [{"tasks": {"img2tex": 1.0}, "steps": 5}],
        "parameters": 7,
        "training_cpu_seconds": 1.0,
        "measuring_cpu_seconds": 1.0,
        **more,
    }


def objects(offset: float = 0.0) -> list[float | None]:
    """Objects that differ far more from each other than any variant from another."""
    return [10.0 + 3.0 * math.sin(k) + offset for k in range(OBJECTS)]


def baselines(*offsets: float) -> list[dict[str, Any]]:
    return [run(BASELINE, seed, objects(offset)) for seed, offset in enumerate(offsets)]


# ---- the plan ---------------------------------------------------------------------------------


def test_every_question_has_its_variants() -> None:
    asked = {
        "prior": 2,
        "Geo-Attention": 4,
        "UV branch": 3,
        "UV keys": 2,  # the third source is the baseline's
        "resolution": 1,
        "RoPE": 1,  # extrapolation is the baseline's
        "material": 1,
        "tasks": 2,  # 3D-only is the baseline
        "baseline": 1,
    }
    found: dict[str, int] = {}
    for one in VARIANTS:
        found[one.question] = found.get(one.question, 0) + 1
    assert found == asked
    assert len({one.name for one in VARIANTS}) == len(VARIANTS)
    assert set(EXPECTED) <= {one.name for one in VARIANTS}


def test_the_plan_is_every_variant_with_every_seed_and_more_baselines() -> None:
    runs = [(one.name, seed) for one, seed in planned(2)]
    assert len(set(runs)) == len(runs) == 2 * len(VARIANTS) + EXTRA_SEEDS
    first = len(VARIANTS)
    assert runs[0] == (BASELINE, 0)
    assert {seed for _, seed in runs[:first]} == {0}
    assert runs[first : first + EXTRA_SEEDS] == [(BASELINE, 2), (BASELINE, 3)]


@pytest.mark.parametrize("one", VARIANTS, ids=lambda one: one.name)
def test_a_variant_is_a_valid_training_of_the_same_length(one: Any) -> None:
    setting = Setting(steps=40)
    config = from_table(TrainingConfig, one.table(setting, 3, work="w"), where="test:")
    assert config.seed == config.model.overrides["seed"] == 3
    assert config.total_steps == (80 if one.name == "pretrained, beforehand" else 40)
    base = VARIANTS[0].table(setting, 3, work="w")
    assert (one.table(setting, 3, work="w") == base) == (one.name == BASELINE)


def test_textures_to_measure_on_are_not_those_of_training() -> None:
    assert not set(TRAIN_KINDS) & set(HELD_OUT_KINDS)
    assert set(TRAIN_KINDS) | set(HELD_OUT_KINDS) <= set(split_kinds("all"))


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UsageError, match="no geometry"):
        variant("geometry")


# ---- differences ------------------------------------------------------------------------------


def test_a_constant_gain_is_found_exactly_whatever_the_objects() -> None:
    runs = [*baselines(0.0, 0.1), *(run("joint", s, objects(0.1 * s + 0.5)) for s in (0, 1))]
    found = difference(runs, "joint", "psnr_all", steps=1)
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5, 0.5))
    assert found.by_seed == pytest.approx((0.5, 0.5))
    assert (found.seeds, found.objects) == ((0, 1), OBJECTS)


def test_runs_are_paired_by_seed_and_objects_without_a_value_left_out() -> None:
    short: list[float | None] = [None, *objects(1.0)[1:]]
    runs = [*baselines(0.0, 5.0), run("joint", 1, [v and v + 5.0 for v in short])]
    found = difference(runs, "joint", "psnr_all", steps=1)
    assert found is not None
    assert found.seeds == (1,)
    assert found.objects == OBJECTS - 1
    assert found.mean == pytest.approx(1.0)


def test_nothing_to_compare_gives_nothing() -> None:
    assert difference(baselines(0.0), "joint", "psnr_all", steps=1) is None
    runs = [*baselines(0.0), run("UV only", 0, [None] * OBJECTS)]
    assert difference(runs, "UV only", "view_agreement", steps=1) is None


def test_the_spread_of_equal_runs_is_students_interval() -> None:
    found = run_half_width([baselines(0.0, 0.2)], "psnr_all", steps=1, seeds=2)
    # deviation of (0, 0.2) is 0.2 / sqrt 2; one degree of freedom; two means of two runs
    assert found == pytest.approx(t.ppf(0.975, 1) * 0.2 / math.sqrt(2))
    assert run_half_width([baselines(0.0)], "psnr_all", steps=1, seeds=2) is None
    # a second group far away adds its own spread and freedom, not its distance
    groups = [baselines(0.0, 0.2), baselines(7.0, 7.4)]
    pooled = math.sqrt((0.2**2 / 2 + 0.4**2 / 2) / 2)
    found = run_half_width(groups, "psnr_all", steps=1, seeds=1)
    assert found == pytest.approx(t.ppf(0.975, 2) * pooled * math.sqrt(2))


def test_seeds_that_disagree_do_not_separate() -> None:
    runs = baselines(0.0, 0.01, 0.0, 0.01)
    for name, offsets in {"joint": (-0.5, 0.0), "lit": (-0.25, -0.25)}.items():
        runs += [run(name, seed, objects(offset)) for seed, offset in enumerate(offsets)]
    verdicts = [difference(runs, name, "psnr_all", steps=1) for name in ("joint", "lit")]
    assert [v and v.separates for v in verdicts] == ["objects only", "yes"]


@pytest.mark.parametrize(
    ("mean", "interval", "spread", "expected"),
    [
        (0.5, (-0.1, 1.1), 0.0, "no"),
        (0.5, (0.4, 0.6), 0.1, "yes"),
        (-0.5, (-0.6, -0.4), 0.1, "yes"),
        (0.5, (0.4, 0.6), 0.6, "objects only"),
        (0.5, (0.1, 0.9), 0.31, "objects only"),  # sqrt(0.4^2 + 0.31^2) > 0.5
        (0.5, (0.1, 0.9), 0.29, "yes"),  # and just below it
        (0.5, (0.4, 0.6), None, "objects only"),
    ],
)
def test_verdicts(
    mean: float, interval: tuple[float, float], spread: float | None, expected: str
) -> None:
    assert verdict(mean, interval, spread) == expected


def test_means_leave_out_the_baselines_further_seeds() -> None:
    runs = [*baselines(0.0, 100.0), run("joint", 0, objects())]
    expected = sum(v for v in objects() if v is not None) / OBJECTS
    assert mean_value(runs, BASELINE, "psnr_all", steps=1) == pytest.approx(expected)


def test_the_report_says_what_the_numbers_say() -> None:
    offsets = {"joint": 2.0, "no geometry": -2.0, "lit": 0.001}
    runs = baselines(0.0, 0.02, 0.02, 0.0)
    for name, offset in offsets.items():
        wobble = 1.0 if name == "lit" else 0.0
        values = [v + (wobble if k % 2 else -wobble) for k, v in enumerate(objects(offset)) if v]
        runs += [run(name, seed, values) for seed in (0, 1)]
    record = {"date": "2026-01-01", "commit": {"hash": None}, "device": {"name": "a CPU"}}
    flat: Any = {"mean colour": {"psnr_all": [11.0], "psnr_unseen": [11.0]}}
    text = to_markdown(record, runs, flat, setting=Setting(), objects=OBJECTS)
    assert "less than the mean colour of the reference (11.00 dB)" in text
    assert "joint: +1.99 dB, beyond what objects and runs explain; **a surprise**" in text
    assert "no geometry: -2.01 dB, beyond what objects and runs explain; as expected" in text
    assert "not told apart from 0; expected worse" in text
    assert "| UV branch | joint | 2 | +1.99 [+1.99, +1.99] (+2.00, +1.98) | **yes** |" in text


# ---- pictures and positions -------------------------------------------------------------------


def painted(size: int = 4) -> tuple[GeometryMaps, TextureImages]:
    draw = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, size, size)
    mask[:, :, : size - 1] = 1.0
    normal = torch.nn.functional.normalize(torch.randn(3, size, size, generator=draw), dim=0)
    maps = GeometryMaps(
        view_position=torch.zeros(2, 3, 2, 2),
        view_normal=torch.zeros(2, 3, 2, 2),
        view_mask=torch.tensor([1.0, 0.25, 0.0, 0.0]).reshape(1, 1, 2, 2).expand(2, 1, 2, 2),
        uv_position=torch.rand(3, size, size, generator=draw) * mask,
        uv_normal=normal * mask,
        uv_mask=mask,
        uv_visible=(torch.rand(2, size, size, generator=draw) > 0.5) & (mask > 0),
    )
    views = torch.rand(2, 3, 2, 2, generator=draw) * maps.view_mask
    uv = torch.rand(3, size, size, generator=draw) * mask
    return maps, TextureImages(views=views, uv=uv)


def test_there_is_grey_exactly_where_there_is_no_surface() -> None:
    maps, images = painted()
    grey = on_grey(maps, images)
    assert torch.equal(grey.uv[:, :, -1], torch.full((3, 4), GREY))
    assert torch.equal(grey.uv[:, :, :-1], images.uv[:, :, :-1])
    torch.testing.assert_close(grey.views[..., 0, 1], images.views[..., 0, 1] + 0.75 * GREY)


def test_coarser_textures_average_what_has_surface() -> None:
    maps, images = painted()
    small, shown = coarser(maps, images, 2)
    assert shown.uv.shape == (3, 2, 2)
    torch.testing.assert_close(shown.uv[:, 0, 0], images.uv[:, :2, :2].mean(dim=(1, 2)))
    torch.testing.assert_close(shown.uv[:, 1, 1], images.uv[:, 2:, 2].mean(dim=1))
    assert bool((small.uv_mask == 1).all())
    assert torch.equal(small.uv_visible[:, 1, 0], maps.uv_visible[:, 2:, :2].flatten(1).any(1))
    assert coarser(maps, images, 1) == (maps, images)
    assert torch.equal(canonical(maps, images, 2)[1].uv, shown.uv)


def test_baked_light_only_depends_on_the_surface() -> None:
    maps, images = painted()
    light = draw_diffuse(object_rng(1, 2))
    assert (light.headlight, light.gloss) == (0.0, 0.0)
    lit = lit_texture(maps, images, light)
    assert not torch.equal(lit, images.uv)
    assert torch.equal(lit[:, :, -1], torch.zeros(3, 4))


def test_interpolated_positions_lay_the_texture_over_a_view() -> None:
    sizes = {
        **Setting(layers=1, width=48, heads=1).model_overrides(0)["backbone"]["config"],
        "text_dim": 8,
        "freq_dim": 8,
        "text_length": 1,
    }
    shell = entry("tiny", {**sizes, "base_grid": 2}).build().shell
    layout = TokenLayout.of(
        [
            FrameGroup(name="views", stream="mv", grid=Grid(frames=1, height=2, width=2)),
            FrameGroup(name="texture", stream="uv", grid=Grid(frames=1, height=4, width=4)),
        ]
    )
    rope = shell.rope(layout)
    assert rope is not None
    views, texture = rope["mv"], rope["uv"]
    spatial = slice(views.cos.shape[1] - 16, None)  # 16 of the 24 planes turn with row and column
    for row in range(2):
        for column in range(2):
            mine = texture.cos[2 * row * 4 + 2 * column, spatial]
            torch.testing.assert_close(mine, views.cos[row * 2 + column, spatial])
