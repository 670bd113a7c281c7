"""The plan: every variant as one difference from the baseline, and the question it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seqtex.training.config import merge_tables
from seqtex_core.errors import UsageError

from .setting import Setting

BASELINE = "baseline"
EXTRA_SEEDS = 2
"""Further seeds of the baseline alone: how much two equal runs differ."""

Change = Callable[[Setting], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Args:
        name: short, unique.
        question: heading that it belongs under.
        text: what is different, in words.
        changes: entries of the training table that it replaces.
        makes_views: whether its views are pictures that can be compared with the texture.
    """

    name: str
    question: str
    text: str
    changes: Change = field(default=lambda setting: {})
    makes_views: bool = True

    def table(self, setting: Setting, seed: int, *, work: str) -> dict[str, Any]:
        """The training config of the variant as plain data."""
        changes = dict(self.changes(setting))
        return merge_tables(setting.training_table(seed, work=work), changes)


def _decoupled(**options: object) -> Change:
    return lambda setting: {"model": {"overrides": {"decoupled": options}}}


def _tasks(options: Mapping[str, Any] | None = None, **tasks: float) -> Change:
    def changes(setting: Setting) -> dict[str, Any]:
        stages = [setting.stage("mixed", setting.steps, tasks)]
        return {"stages": stages, "data": {"options": dict(options or {})}}

    return changes


def _pretrained(first: float, second: float) -> Change:
    """Stages of ``geo2mv`` and ``img2tex`` with these shares of the budget."""

    def changes(setting: Setting) -> dict[str, Any]:
        steps = [max(1, round(share * setting.steps)) for share in (first, second)]
        return {
            "stages": [
                setting.stage("geo2mv", steps[0], {"geo2mv": 1.0}),
                setting.stage("img2tex", steps[1], {"img2tex": 1.0}, restart_uv=True),
            ]
        }

    return changes


def _interpolated(setting: Setting) -> dict[str, Any]:
    grid = setting.banks.view_size // setting.patch
    backbone = {"architecture": "wan-interpolated", "config": {"base_grid": grid}}
    return {"model": {"overrides": {"backbone": backbone}}}


def _coarse(setting: Setting) -> dict[str, Any]:
    return {
        "model": {"overrides": {"uv_size": setting.banks.view_size}},
        "data": {"options": {"coarse_texture": setting.banks.uv_size // setting.banks.view_size}},
    }


VARIANTS: tuple[Variant, ...] = (
    Variant(
        name=BASELINE,
        question="baseline",
        text="two branches, geometry after RoPE, normalised pre-attention keys, extrapolated "
        "RoPE, albedo, img2tex alone, from scratch",
    ),
    Variant(
        name="pretrained, equal total",
        question="prior",
        text="half of the budget geo2mv (lit views, MV branch alone), then the UV branch a copy "
        "of the MV branch and half of the budget img2tex",
        changes=_pretrained(0.5, 0.5),
    ),
    Variant(
        name="pretrained, beforehand",
        question="prior",
        text="as much geo2mv as the whole budget, for nothing, then the whole budget img2tex: "
        "the paper's setting, where somebody else paid for the prior",
        changes=_pretrained(1.0, 1.0),
    ),
    Variant(
        name="no geometry",
        question="Geo-Attention",
        text="geometry is not read at all",
        changes=_decoupled(geometry_use="none"),
    ),
    Variant(
        name="geometry as input",
        question="Geo-Attention",
        text="geometry is added to the tokens before the first block, not in attention",
        changes=_decoupled(geometry_use="input"),
    ),
    Variant(
        name="geometry from the start",
        question="Geo-Attention",
        text="the geometry casters start at random weights; elsewhere at zero, as they must "
        "beside a pretrained backbone",
        changes=_decoupled(geometry_gain=1.0),
    ),
    Variant(
        name="released order",
        question="Geo-Attention",
        text="geometry joins queries and keys before RoPE, as in the released weights",
        changes=_decoupled(geometry_order="pre_rope"),
    ),
    Variant(
        name="joint",
        question="UV branch",
        text="no UV separation: one branch, all frames attend each other",
        changes=_decoupled(uv_branch="joint"),
    ),
    Variant(
        name="shared weights",
        question="UV branch",
        text="no UV copy: both branches use the same weights, MV still never reads UV",
        changes=_decoupled(uv_branch="shared"),
    ),
    Variant(
        name="UV only",
        question="UV branch",
        text="no views are made: all but the reference are noise and carry no loss",
        changes=lambda setting: {
            **_tasks(img2uv=1.0)(setting),
            "model": {"overrides": {"task": "img2uv"}},
        },
        makes_views=False,
    ),
    Variant(
        name="keys normalised, after attention",
        question="UV keys",
        text="UV keys from the MV state after MV attention, normalised",
        changes=_decoupled(uv_key_source="norm_post_attn"),
    ),
    Variant(
        name="keys raw, after attention",
        question="UV keys",
        text="the same, not normalised, as in the released weights",
        changes=_decoupled(uv_key_source="raw_post_attn"),
    ),
    Variant(
        name="UV at MV resolution",
        question="resolution",
        text="the texture has the size of one view; scored at full size, texels repeated",
        changes=_coarse,
    ),
    Variant(
        name="interpolated RoPE",
        question="RoPE",
        text="the texture's token grid is laid over the coordinates of a view's grid",
        changes=_interpolated,
    ),
    Variant(
        name="lit",
        question="material",
        text="views and textures of training are lit (shading baked in); measured on albedo",
        changes=lambda setting: {"data": {"options": {"lit": True}}},
    ),
    Variant(
        name="split tasks",
        question="tasks",
        text="img2tex : geo2mv 3 : 2 on the same objects (the baseline is the paper's 3D-only)",
        changes=_tasks(img2tex=3.0, geo2mv=2.0),
    ),
    Variant(
        name="hybrid tasks",
        question="tasks",
        text="the same, half of geo2mv on further objects that have no textures",
        changes=_tasks({"views_only": True}, img2tex=3.0, geo2mv=2.0),
    ),
)


def variant(name: str) -> Variant:
    """The variant called ``name``.

    Raises:
        UsageError: there is none.
    """
    for one in VARIANTS:
        if one.name == name:
            return one
    known = ", ".join(v.name for v in VARIANTS)
    raise UsageError("variant", expected=f"one of {known}", got=repr(name))


def planned(seeds: int) -> list[tuple[Variant, int]]:
    """All runs in the order in which they are made.

    All variants with the first seed, then the baseline's further seeds, then the other seeds: so
    that what there is after a while says as much as it can.

    Args:
        seeds: per variant.
    """
    first = [(one, 0) for one in VARIANTS]
    equal = [(VARIANTS[0], seed) for seed in range(seeds, seeds + EXTRA_SEEDS)]
    return first + equal + [(one, seed) for seed in range(1, seeds) for one in VARIANTS]
