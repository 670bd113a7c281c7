"""``approximations``: what is faster and not exact, each with its error against the exact run."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from seqtex.latents import decode_images
from seqtex.models.folder import DEFAULT_MODEL
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.prepare_options import PrepareOptions
from seqtex.projection_frame import from_residual
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.fp8_linear import reason_fp8_unsupported, use_fp8_linears
from seqtex_core.frame_plan import FramePlan
from seqtex_core.frame_run import KnownLatents
from seqtex_core.sampling import sample
from seqtex_core.step_reuse import ResidualReuse
from seqtex_core.tasks import PROJECTION, TEXTURE, img2tex
from seqtex_core.transformer import SeqTexTransformer

from .block import FULL_SIZE, QUICK_SIZE
from .meshes import write_glb
from .models import ModelSize, build_model, build_scene
from .pipeline import denoise_work, front_picture, one_place_for_threads
from .result import Row, Scalar, Work
from .runner import Candidate, Case, Session, describe, run_case
from .step import step_work

EXACT = "exact"
THRESHOLDS = (0.05, 0.1, 0.2, 0.4)
FEWER = (0.75, 0.5, 0.25)
TINY = ModelSize(heads=2, layers=2, ffn_dim=512, view_tokens=8, uv_tokens=16, num_text=16)
Generate = Callable[[SeqTexTransformer, int], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model and something that it makes.

    Args:
        name: of the case.
        model: as it is.
        generate: latents of the texture by a model, in some number of steps.
        steps: of the exact run.
        work: of the exact run.
        parameters: sizes.
        show: pictures in [0, 1] of the latents, for PSNR; ``None`` where there are none.
        note: a sentence for all rows.
    """

    name: str
    model: SeqTexTransformer
    generate: Generate
    steps: int
    work: Work
    parameters: Mapping[str, Scalar]
    show: Callable[[Tensor], Tensor] | None = None
    note: str


def run(session: Session) -> list[Row]:
    """Rows of the built-in model, which is trained, and of random weights."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, one_place_for_threads():
        for subject in (_built_in(session, Path(name)), _random(session)):
            rows += compared(run_case(_case(subject, session), session))
    for row in rows:
        if "speedup" in row.metrics:
            session.say(f"{describe(row)}  {_summary(row)}")
    return rows


def _case(subject: Subject, session: Session) -> Case:
    exact = subject.generate(subject.model, subject.steps).clone()
    return Case(
        benchmark="approximations",
        name=subject.name,
        dtype=next(subject.model.geometry.parameters()).dtype,
        candidates=list(_candidates(subject, exact, session.device, quick=session.quick)),
        work=subject.work,
        parameters={**subject.parameters, "steps": subject.steps},
        few=True,
    )


def _candidates(
    subject: Subject, exact: Tensor, device: torch.device, *, quick: bool
) -> Iterator[Candidate]:
    steps, model = subject.steps, subject.model
    picture = None if subject.show is None else subject.show(exact)

    def check(result: Tensor) -> tuple[str | None, Mapping[str, Scalar]]:
        error = relative_l2(result, exact)
        found: dict[str, Scalar] = {"relative_l2": error}
        if subject.show is not None and picture is not None:
            found["psnr_db"] = psnr(subject.show(result), picture)
        return (None if error is not None else "not finite"), found

    def candidate(name: str, call: Callable[[], Tensor], **metrics: Scalar) -> Candidate:
        return Candidate(name=name, call=call, check=check, metrics=metrics, notes=(subject.note,))

    yield candidate(EXACT, lambda: subject.generate(model, steps))
    for threshold in THRESHOLDS[1::2] if quick else THRESHOLDS:
        reuse = _with_reuse(subject, threshold)
        reuse()
        share = reuse.share
        name = f"step reuse, {threshold:g}"
        yield candidate(name, reuse, threshold=threshold, share_of_steps_computed=share)
    for share in FEWER[1:2] if quick else FEWER:
        fewer = max(1, round(share * steps))
        yield candidate(
            f"{fewer} steps instead of {steps}",
            lambda fewer=fewer: subject.generate(model, fewer),  # type: ignore[misc]
            share_of_steps_computed=fewer / steps,
        )
    if why := reason_fp8_unsupported(device):
        yield Candidate(name="fp8 linears", reason=why)
        return
    rounded = copy.deepcopy(model)
    replaced = use_fp8_linears(rounded)
    yield candidate(
        "fp8 linears", lambda: subject.generate(rounded, steps), layers_replaced=len(replaced)
    )


class _with_reuse:
    """A run with step reuse; remembers the share of its steps that was computed."""

    def __init__(self, subject: Subject, threshold: float) -> None:
        self.subject, self.threshold, self.share = subject, threshold, 1.0

    def __call__(self) -> Tensor:
        model = self.subject.model
        usual, trunk = model.trunk, ResidualReuse(threshold=self.threshold)
        model.trunk = trunk
        try:
            result = self.subject.generate(model, self.subject.steps)
        finally:
            model.trunk = usual
        self.share = trunk.computed / (trunk.computed + trunk.reused)
        return result


def relative_l2(result: Tensor, exact: Tensor) -> float | None:
    """``|result - exact| / |exact|``; ``None`` if not finite."""
    found = float((result.double() - exact.double()).norm() / exact.double().norm())
    return found if math.isfinite(found) else None


def psnr(result: Tensor, exact: Tensor) -> float | None:
    """Of pictures in [0, 1], in dB; ``None`` where they are equal or not finite."""
    square = float((result.double() - exact.double()).square().mean())
    return -10 * math.log10(square) if math.isfinite(square) and square > 0.0 else None


def compared(rows: list[Row]) -> list[Row]:
    """Rows with their speed against the exact run, by the fastest calls."""
    exact = next(row for row in rows if row.implementation == EXACT)
    made = []
    for row in rows:
        if row.time is not None and exact.time is not None:
            row = row.with_metrics(speedup=exact.time.min_s / row.time.min_s)
        made.append(row)
    return made


def _summary(row: Row) -> str:
    m = row.metrics
    psnr = f", PSNR {m['psnr_db']:.1f} dB" if m.get("psnr_db") is not None else ""
    relative = m.get("relative_l2")
    error = "" if relative is None else f", relative L2 {relative:.2e}"
    return f"{m['speedup']:.2f}x{error}{psnr}"


def _built_in(session: Session, folder: Path) -> Subject:
    """The model that ships with the package, on a mesh with a reference from the front."""
    mesh = folder / "mesh.glb"
    write_glb(mesh, 40)
    options = PrepareOptions(device=str(session.device))
    picture = front_picture(prepare_job(mesh, options=options))
    job = prepare_job(mesh, {"front": picture}, options=options)
    pipeline = SeqTexPipeline.from_pretrained(DEFAULT_MODEL, device=session.device)
    model, steps = pipeline.model, 6 if session.quick else 30
    seen: list[tuple[Any, FramePlan, KnownLatents, dict[str, Any]]] = []

    def watched(predict: Any, plan: FramePlan, known: KnownLatents, **options: Any) -> Any:
        seen.append((predict, plan, known, options))
        return sample(predict, plan, known, **options)

    with patch("seqtex.generate.sample", watched):
        pipeline(job, steps=1, seed=session.seed)
    predict, plan, known, settings = seen[0]
    cache = predict.keywords["cache"]
    shift, base = model.config.sampling.shift, model.config.texture_base

    def generate(which: SeqTexTransformer, count: int) -> Tensor:
        changed = {
            "sigmas": inference_sigmas(count, shift=shift),
            "generator": torch.Generator().manual_seed(session.seed),
            "callback": None,
        }
        result = sample(
            lambda x, sigmas: which(x, sigmas, cache), plan, known, **{**settings, **changed}
        )
        return result[TEXTURE]

    @torch.no_grad()
    def show(latents: Tensor) -> Tensor:
        whole = from_residual({TEXTURE: latents}, known.clean.get(PROJECTION), base)
        return decode_images(whole[TEXTURE], model.codec)

    return Subject(
        name=f"{DEFAULT_MODEL}, {steps} steps",
        model=model.transformer,
        generate=generate,
        show=show,
        steps=steps,
        work=denoise_work(model, steps),
        parameters={"model": DEFAULT_MODEL},
        note="the shipped weights; PSNR of the decoded texture",
    )


def _random(session: Session) -> Subject:
    """Random weights, latents of the texture; random weights say little about trained ones."""
    size = TINY if session.quick else QUICK_SIZE
    dtype, device = torch.float32, session.device
    if session.on_cuda:
        size, dtype = replace(FULL_SIZE, layers=4 if session.quick else 30), torch.bfloat16
    model = build_model(size, device=device, dtype=dtype, seed=session.seed)
    scene = build_scene(size, model, device=device, dtype=dtype, seed=session.seed)
    cache = scene.prepare(model)
    steps = 6 if session.quick else 30
    known = KnownLatents(
        clean={"views": scene.latents["views"]},
        shapes={"texture": scene.latents["texture"].shape},
        device=device,
    )

    def generate(which: SeqTexTransformer, count: int) -> Tensor:
        result = sample(
            lambda x, sigmas: which(x, sigmas, cache),
            img2tex(num_views=size.views),
            known,
            sigmas=inference_sigmas(count),
            generator=torch.Generator().manual_seed(session.seed),
        )
        return result[TEXTURE]

    step = step_work(size, itemsize=dtype.itemsize)
    flop, moved = ((amount or 0.0) * steps for amount in (step.flop, step.bytes))
    return Subject(
        name=f"random, {size.layers} x d={size.dim}, {steps} steps",
        model=model,
        generate=generate,
        steps=steps,
        work=replace(step, flop=flop, bytes=moved),
        parameters=size.parameters(),
        note="random weights: errors of trained ones differ",
    )
