"""``counts``: FLOP, traffic and launches of one layer at full size, exact, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from seqtex_core.kernels import using_kernels
from seqtex_core.transformer import SeqTexTransformer

from .counting import CountedAttend, CountedKernels, Tally, count
from .formulas import AS_RELEASED, USEFUL, LayerOptions, layer_flop, layer_work
from .models import ModelSize, Scene, build_model, build_scene
from .released import ReleasedModel
from .result import Row, Scalar
from .runner import Session, describe

GOAL_GFLOP = 1056.6
GOAL_POINTWISE_GB = 2.5
GOAL_LAUNCHES = 60
GOAL_FUSED_POINTWISE_GB = 0.85
GOAL_FUSED_LAUNCHES = 30
META = torch.device("meta")
Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is counted.

    Args:
        name: of the row.
        released: geometry order and key source of the released weights, else the defaults.
        merged: adapters folded into the weights.
        options: what the formula assumes.
        step: one step of a model on a scene.
        note: a sentence for the row.
        fused: norms, rotation and gates are one kernel each, as with Triton.
    """

    name: str
    released: bool
    merged: bool
    options: LayerOptions
    step: Callable[[SeqTexTransformer, Scene], Step]
    note: str
    fused: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """Counts of a variant.

    Args:
        layer: of one layer: two layers less one.
        fixed: of a step outside the layers.
        composite: of one layer, with ``rms_norm`` as the operators that it is made of.
    """

    layer: Tally
    fixed: Tally
    composite: Tally


def variants() -> tuple[Variant, ...]:
    """All that is counted, the library's defaults first."""
    return (
        Variant(
            name="seqtex",
            released=False,
            merged=True,
            options=USEFUL,
            step=_cached_step,
            note="default options: geometry after RoPE, mv keys normalised anew for uv",
        ),
        Variant(
            name="seqtex, fused kernels",
            released=False,
            merged=True,
            options=USEFUL,
            step=_fused_step,
            note="default options with Triton; its kernels counted as one launch each",
            fused=True,
        ),
        Variant(
            name="seqtex, released options",
            released=True,
            merged=True,
            options=USEFUL,
            step=_cached_step,
            note="geometry before RoPE, mv keys as they are: what the released weights want",
        ),
        Variant(
            name="seqtex, views only",
            released=False,
            merged=True,
            options=LayerOptions(with_uv=False),
            step=_views_step,
            note="task geo2mv: the uv branch is skipped",
        ),
        Variant(
            name="released bookkeeping",
            released=True,
            merged=False,
            options=AS_RELEASED,
            step=_released_step,
            note="the baseline of this suite; the released code itself was counted elsewhere at "
            "1134.9 GFLOP, 7.64 GB, 140 pointwise and 172 launches in all",
        ),
    )


def count_layer(variant: Variant, size: ModelSize | None = None) -> LayerCount:
    """Counts of one layer in bf16, as the difference of models with two and with one.

    Args:
        variant: what to count.
        size: full size by default; its number of layers does not matter.
    """
    size = size or ModelSize()
    one, two = (_step(variant, size, layers) for layers in (1, 2))
    first = count(one)
    layer = count(two).minus(first)
    composite = count(two, fused_rms_norm=False).minus(count(one, fused_rms_norm=False))
    return LayerCount(layer=layer, fixed=first.minus(layer), composite=composite)


def run(session: Session) -> list[Row]:
    """One row per variant; "wrong" where the counter and the formula differ."""
    rows = list(_rows(ModelSize()))
    for row in rows:
        session.say(f"{describe(row)}  {_summary(row)}")
    return rows


def _rows(size: ModelSize) -> Iterator[Row]:
    for variant in variants():
        counted = count_layer(variant, size)
        formula = sum(layer_flop(size.layer, variant.options).values())
        equal = counted.layer.total_flop == formula
        yield Row(
            benchmark="counts",
            case="one layer, full size",
            implementation=variant.name,
            status="ok" if equal else "wrong",
            reason=None
            if equal
            else f"formula {formula} FLOP, FlopCounterMode {counted.layer.total_flop}",
            dtype="bfloat16",
            parameters=size.parameters() | {"layers": 1},
            work=layer_work(size.layer, variant.options),
            metrics=_metrics(counted, formula, size, fused=variant.fused),
            notes=(
                variant.note,
                "counted on the meta device; rms_norm is one kernel, as on CUDA since torch 2.8",
            ),
        )


def _metrics(
    counted: LayerCount, formula: int, size: ModelSize, *, fused: bool
) -> dict[str, Scalar]:
    layer, fixed = counted.layer, counted.fixed
    goal_gb = GOAL_FUSED_POINTWISE_GB if fused else GOAL_POINTWISE_GB
    goal_launches = GOAL_FUSED_LAUNCHES if fused else GOAL_LAUNCHES
    pointwise_gb = layer.bytes["pointwise"] / 1e9
    metrics: dict[str, Scalar] = {
        "gflop": layer.total_flop / 1e9,
        "formula_gflop": formula / 1e9,
        "gflop_goal": GOAL_GFLOP,
        "gflop_goal_met": layer.total_flop / 1e9 <= GOAL_GFLOP,
        "pointwise_gb": pointwise_gb,
        "pointwise_gb_goal": goal_gb,
        "pointwise_gb_goal_met": pointwise_gb <= goal_gb,
        "pointwise_gb_without_fused_rms_norm": counted.composite.bytes["pointwise"] / 1e9,
        "matrix_gb": layer.bytes["matrix"] / 1e9,
        "attention_gb": layer.bytes["attention"] / 1e9,
        "launches": layer.total_launches,
        "launches_goal": goal_launches,
        "launches_goal_met": layer.total_launches <= goal_launches,
        "launches_without_fused_rms_norm": counted.composite.total_launches,
        "fixed_gflop": fixed.total_flop / 1e9,
        "fixed_formula_gflop": size.fixed_flop / 1e9,
        "fixed_launches": fixed.total_launches,
    }
    metrics |= {f"{kind}_launches": number for kind, number in sorted(layer.launches.items())}
    metrics |= {
        f"pointwise_gb of {name}": moved / 1e9 for name, moved in layer.operators.most_common()
    }
    return metrics


def _summary(row: Row) -> str:
    m = row.metrics
    return (
        f"{m['gflop']:.1f} GFLOP (formula {m['formula_gflop']:.1f}), "
        f"{m['pointwise_gb']:.2f} GB pointwise, {m['launches']} launches"
    )


def _step(variant: Variant, size: ModelSize, layers: int) -> Step:
    sized = ModelSize(**{**vars(size), "layers": layers})
    model = build_model(
        sized,
        device=META,
        dtype=torch.bfloat16,
        attention=CountedAttend(),
        merged=variant.merged,
        released=variant.released,
    )
    scene = build_scene(sized, model, device=META, dtype=torch.bfloat16)
    step = variant.step(model, scene)
    with torch.no_grad():
        step()  # fills what is computed on first use
    return step


def _cached_step(model: SeqTexTransformer, scene: Scene) -> Step:
    cache = scene.prepare(model)
    return lambda: model(scene.latents, scene.sigmas, cache)


def _fused_step(model: SeqTexTransformer, scene: Scene) -> Step:
    step = _cached_step(model, scene)

    def fused() -> object:
        with using_kernels(CountedKernels()):
            return step()

    return fused


def _views_step(model: SeqTexTransformer, scene: Scene) -> Step:
    cache = scene.prepare(model)
    return lambda: model(*scene.only_views(), cache)


def _released_step(model: SeqTexTransformer, scene: Scene) -> Step:
    released = ReleasedModel(model, CountedAttend())
    return lambda: released(scene)
