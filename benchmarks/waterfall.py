"""``waterfall``: a step, one exact optimisation after the other; predicted beside measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seqtex_core.attention import choose_attention
from seqtex_core.inference import prepare_for_inference
from seqtex_core.kernels.choose import KERNELS, KernelInputs, using_kernels
from seqtex_core.lora import merge_lora
from seqtex_core.transformer import SeqTexTransformer

from .block import FULL_SIZE, SMALL
from .counting import CountedAttend, CountedKernels, count
from .models import HEAD_DIM, ModelSize, Scene, build_model, build_scene, wide_copy
from .released import ReleasedModel
from .result import Row
from .runner import Candidate, Case, Session, run_cases
from .step import step_work

Call = Callable[[], dict[str, Tensor]]
FIRST = "released bookkeeping"


@dataclass(frozen=True, kw_only=True)
class Models:
    """The same weights three times, and a scene.

    Args:
        unmerged: adapters apart.
        merged: adapters folded into the weights.
        ready: prepared for inference: projections of one input are one product, too.
        scene: what a step is taken of.
    """

    unmerged: SeqTexTransformer
    merged: SeqTexTransformer
    ready: SeqTexTransformer
    scene: Scene


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One more optimisation than the stage before.

    Args:
        name: what is added.
        build: a step with it and all before.
        kernels: implementation of the fused operations.
    """

    name: str
    build: Callable[[Models], Call]
    kernels: str = "plain"


def _released(models: Models) -> Call:
    released = ReleasedModel(models.unmerged, models.unmerged.attend)
    return lambda: released(models.scene)


def _anew(models: Models, model: SeqTexTransformer) -> Call:
    scene = models.scene
    return lambda: model(scene.latents, scene.sigmas, scene.prepare(model, precompute=False))


def _cached(models: Models, model: SeqTexTransformer) -> Call:
    scene, cache = models.scene, models.scene.prepare(model)
    return lambda: model(scene.latents, scene.sigmas, cache)


STAGES = (
    Stage(name=FIRST, build=_released),
    Stage(name="modulation per frame, RoPE in fp32", build=lambda m: _anew(m, m.unmerged)),
    Stage(name="adapters merged", build=lambda m: _anew(m, m.merged)),
    Stage(name="geometry and text cached", build=lambda m: _cached(m, m.merged)),
    Stage(name="q, k and v one product", build=lambda m: _cached(m, m.ready)),
    Stage(name="fewer passes over memory", build=lambda m: _cached(m, m.ready), kernels="eager"),
    Stage(name="fused kernels", build=lambda m: _cached(m, m.ready), kernels="triton"),
)


def run(session: Session) -> list[Row]:
    """One row per stage, each with all optimisations before it."""
    rows = run_cases(_cases(session), session)
    found = [compared(row, rows) for row in rows]
    for row in found:
        if "speedup" in row.metrics:
            m = row.metrics
            session.say(
                f"{row.benchmark:10} {row.implementation:36} {m['speedup']:.2f}x, "
                f"predicted {m['predicted_speedup']:.2f}x"
            )
    return found


def compared(row: Row, rows: list[Row]) -> Row:
    """The row with its speed over the first stage of its case, measured and predicted.

    Args:
        row: of a stage.
        rows: of all cases.
    """
    first = next((r for r in rows if r.case == row.case and r.dtype == row.dtype), row)
    if row.time is None or first.time is None:
        return row
    mine, theirs = row.metrics["predicted_s"], first.metrics["predicted_s"]
    return row.with_metrics(
        speedup=first.time.median_s / row.time.median_s,
        predicted_speedup=float(theirs or 0) / float(mine or 1),
        measured_over_predicted=row.time.median_s / float(mine or 1),
    )


def predicted_seconds(stage: Stage, size: ModelSize, session: Session, dtype: torch.dtype) -> float:
    """Matrix products at the GEMM limit, all other traffic at the copy limit, one after the other.

    Counted on the meta device, where every operator is a kernel that goes through memory. A fused
    kernel is one that reads its inputs and writes its outputs once.

    Args:
        stage: what runs.
        size: of the model.
        session: has the limits.
        dtype: of the weights.
    """
    models = _models(size, torch.device("meta"), dtype, seed=0)
    kernels = CountedKernels() if stage.kernels == "triton" else stage.kernels
    with torch.no_grad(), using_kernels(kernels):
        call = stage.build(models)
        call()  # fills what is computed on first use
        tally = count(call)
    limits = session.ceilings
    name = str(dtype).removeprefix("torch.")
    rate = limits.gemm_flop_per_s.get(name, limits.gemm_flop_per_s["float32"])
    return tally.total_flop / rate + tally.bytes["pointwise"] / limits.copy_bytes_per_s


def _cases(session: Session) -> Iterator[Case]:
    size = replace(FULL_SIZE, layers=4) if session.on_cuda else SMALL
    if session.quick:
        size = replace(size, layers=1)
    for dtype in [torch.bfloat16] if session.on_cuda else [torch.float32]:
        yield _case(size, dtype, session)


def _models(size: ModelSize, device: torch.device, dtype: torch.dtype, *, seed: int) -> Models:
    attention = CountedAttend() if device.type == "meta" else "auto"
    unmerged = build_model(
        size,
        device=device,
        dtype=dtype,
        seed=seed,
        attention=attention,
        merged=False,
        released=True,
    )
    merged = copy.deepcopy(unmerged)
    merge_lora(merged, keep_base=False)
    ready = prepare_for_inference(copy.deepcopy(merged))
    scene = build_scene(size, unmerged, device=device, dtype=dtype, seed=seed)
    return Models(unmerged=unmerged, merged=merged, ready=ready, scene=scene)


def _case(size: ModelSize, dtype: torch.dtype, session: Session) -> Case:
    models = _models(size, session.device, dtype, seed=session.seed)
    return Case(
        benchmark="waterfall",
        name=f"step, {size.layers} x d={size.dim}, {size.layer.num_mv}+{size.layer.num_uv}",
        dtype=dtype,
        candidates=[_candidate(stage, models, size, dtype, session) for stage in STAGES],
        work=step_work(size, itemsize=dtype.itemsize),
        parameters=size.parameters(),
        expected=lambda: _expected(models),
        reference="the same weights in fp64, adapters unmerged",
        plain=FIRST,
    )


def _candidate(
    stage: Stage, models: Models, size: ModelSize, dtype: torch.dtype, session: Session
) -> Candidate:
    inputs = KernelInputs(operation="qk_prep", device=session.device, dtype=dtype, width=HEAD_DIM)
    reason = KERNELS.get(stage.kernels).reason_unsupported(inputs)
    if reason is not None:
        return Candidate(name=stage.name, reason=reason)
    with torch.no_grad(), using_kernels(stage.kernels):
        step = stage.build(models)

    def call() -> dict[str, Tensor]:
        with torch.no_grad(), using_kernels(stage.kernels):
            return step()

    predicted = predicted_seconds(stage, size, session, dtype)
    return Candidate(name=stage.name, call=call, metrics={"predicted_s": predicted})


@torch.no_grad()
def _expected(models: Models) -> dict[str, Tensor]:
    wide, scene = wide_copy(models.unmerged, attention=choose_attention("sdpa")), models.scene
    double = scene.double()
    cache = double.prepare(wide, precompute=False)
    velocity: dict[str, Tensor] = wide(double.latents, double.sigmas, cache)
    return velocity
