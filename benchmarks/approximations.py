"""``approximations``: what is faster and not exact, each with its error against the exact run.

The shipped model as users run it, with what is refused there; the same model in several steps; and
random weights, in many steps.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqtex.latents import decode_images
from seqtex.models.approximations import repeating_steps, use_fp8
from seqtex.models.folder import DEFAULT_MODEL
from seqtex.models.load import SeqTexModel
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.prepare_options import PrepareOptions
from seqtex.projection_frame import from_residual
from seqtex.run_options import RunOptions
from seqtex.texturing import check_run
from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.fp8_linear import reason_fp8_unsupported
from seqtex_core.frame_run import KnownLatents
from seqtex_core.packed_layout import AnyLayout
from seqtex_core.sampling import sample
from seqtex_core.step_reuse import ResidualReuse
from seqtex_core.tasks import PROJECTION, TEXTURE, img2tex
from seqtex_core.transformer import SeqTexTransformer, StepCache

from .block import FULL_SIZE, QUICK_SIZE
from .denoise_work import denoise_work
from .meshes import write_glb
from .models import ModelSize, build_model, build_scene
from .pipeline import front_picture, one_place_for_threads
from .result import Row, Scalar, Work
from .runner import Candidate, Case, Session, describe, run_case
from .shipped import Denoising
from .step import step_work

EXACT = "exact"
THRESHOLDS = (0.05, 0.1, 0.2, 0.4)
FEWER = (0.75, 0.5, 0.25, 0.0)
TINY = ModelSize(heads=2, layers=2, ffn_dim=512, view_tokens=8, uv_tokens=16, num_text=16)
SEVERAL = 4
"""Steps of the shipped model beside its own number of them."""
SMALL = {"view_size": 32, "uv_size": 64}
"""Of the shipped model in quick runs: a quarter of the tokens."""
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
        refused: why users get no step reuse here; "" where they do.
        short: its steps take seconds: every other approximation is left out.
        note: a sentence for all rows.
    """

    name: str
    model: SeqTexTransformer
    generate: Generate
    steps: int
    work: Work
    parameters: Mapping[str, Scalar]
    show: Callable[[Tensor], Tensor] | None = None
    refused: str = ""
    short: bool = False
    note: str


def run(session: Session) -> list[Row]:
    """Rows of the built-in model, which is trained, and of random weights."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, one_place_for_threads():
        as_shipped, several = _built_in(session, Path(name))
        for subject in (several, _random(session), as_shipped):
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

    def candidate(name: str, call: Callable[[], Tensor], **metrics: Scalar) -> Candidate:
        def check(result: Tensor) -> tuple[str | None, Mapping[str, Scalar]]:
            error = relative_l2(result, exact)
            found: dict[str, Scalar] = {"relative_l2": error}
            if subject.show is not None and picture is not None:
                found["psnr_db"] = psnr(subject.show(result), picture)
            if isinstance(call, _with_reuse):
                found["share_of_steps_computed"] = call.share
            return (None if error is not None else "not finite"), found

        return Candidate(name=name, call=call, check=check, metrics=metrics, notes=(subject.note,))

    yield candidate(EXACT, lambda: subject.generate(model, steps))
    short = quick or subject.short
    for threshold in THRESHOLDS[1::2] if short else THRESHOLDS:
        name = f"step reuse, {threshold:g}"
        if subject.refused:
            yield Candidate(name=name, reason=subject.refused)
        else:
            yield candidate(name, _with_reuse(subject, threshold), threshold=threshold)
    fewer = {
        max(1, round(share * steps))
        for share in (FEWER[1:2] if quick else FEWER[1::2] if short else FEWER)
    }
    for count in sorted(fewer - {steps}, reverse=True):
        yield candidate(
            f"{count} step{'s' if count > 1 else ''} instead of {steps}",
            lambda count=count: subject.generate(model, count),  # type: ignore[misc]
            share_of_steps_computed=count / steps,
        )
    if why := reason_fp8_unsupported(device):
        yield Candidate(name="fp8 linears", reason=why)
        return
    rounded = copy.deepcopy(model)
    yield candidate(
        "fp8 linears", lambda: subject.generate(rounded, steps), layers_replaced=use_fp8(rounded)
    )


class _with_reuse:
    """A run with step reuse; remembers the share of its steps that was computed."""

    def __init__(self, subject: Subject, threshold: float) -> None:
        self.subject, self.threshold, self.share = subject, threshold, 1.0

    def __call__(self) -> Tensor:
        model = self.subject.model
        with repeating_steps(model, self.threshold) as reuse:
            result = self.subject.generate(model, self.subject.steps)
        assert isinstance(reuse, ResidualReuse)
        self.share = reuse.computed / (reuse.computed + reuse.reused)
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


def _built_in(session: Session, folder: Path) -> tuple[Subject, Subject]:
    """The model that ships with the package, in its own number of steps and in several.

    On a mesh with a reference from the front.
    """
    mesh = folder / "mesh.glb"
    write_glb(mesh, 12 if session.quick else 40)
    options = PrepareOptions(device=str(session.device))
    picture = front_picture(prepare_job(mesh, options=options))
    job = prepare_job(mesh, {"front": picture}, options=options)
    pipeline = SeqTexPipeline.from_pretrained(DEFAULT_MODEL, device=session.device)
    model = pipeline.model
    sizes: dict[str, Any] = dict(SMALL) if session.quick else {}
    denoise = Denoising.of(pipeline, job, seed=session.seed, options=RunOptions(**sizes))
    known, cache, base = denoise.known, denoise.cache, model.config.texture_base
    made = _made_pixels(model, cache.layout)

    @torch.no_grad()
    def show(latents: Tensor) -> Tensor:
        whole = from_residual({TEXTURE: latents}, known.clean.get(PROJECTION), base)
        return decode_images(whole[TEXTURE], model.codec)[..., made]

    def subject(steps: int, name: str) -> Subject:
        return Subject(
            name=name,
            model=model.transformer,
            generate=denoise,
            show=show,
            steps=steps,
            work=denoise_work(model, cache, steps),
            parameters={"model": DEFAULT_MODEL, **sizes},
            refused=_refusal(model, steps),
            short=True,
            note="the shipped weights; PSNR of the decoded texels that the model makes",
        )

    own, several = model.config.sampling.steps, 3 if session.quick else SEVERAL
    return (
        subject(own, f"{DEFAULT_MODEL} as it runs, {own} step{'s' if own > 1 else ''}"),
        subject(several, f"{DEFAULT_MODEL}, {several} steps"),
    )


def _refusal(model: SeqTexModel, steps: int) -> str:
    """What users are told who ask for step reuse with so many steps; "" where they get it."""
    try:
        options = RunOptions(steps=steps, step_reuse=THRESHOLDS[0])
        check_run(model, options, task=None, prompt=None)
    except UsageError as error:
        return " ".join(str(error).split())
    return ""


def _made_pixels(model: SeqTexModel, layout: AnyLayout) -> Tensor:
    """Texels of tokens that are present in the texture, ``[H, W]`` bool."""
    grid = layout.group(TEXTURE).grid
    kept = getattr(layout, "keep", {}).get(TEXTURE)
    there = torch.ones(grid.num_tokens, dtype=torch.bool)
    if kept is not None:
        there = torch.zeros_like(there).index_fill(0, kept.cpu(), value=True)
    there = there.view(grid.height, grid.width)
    for axis, side in enumerate(model.transformer.spec.patch_size[1:]):
        there = there.repeat_interleave(side * model.codec.spatial_factor, dim=axis)
    return there


def _random(session: Session) -> Subject:
    """Random weights, latents of the texture; random weights say little about trained ones."""
    size = TINY if session.quick else QUICK_SIZE
    dtype, device = torch.float32, session.device
    if session.on_cuda:
        size, dtype = replace(FULL_SIZE, layers=4 if session.quick else 30), torch.bfloat16
    model = build_model(size, device=device, dtype=dtype, seed=session.seed)
    scene = build_scene(size, model, device=device, dtype=dtype, seed=session.seed)
    steps = 6 if session.quick else 30
    caches: dict[int, StepCache] = {}
    known = KnownLatents(
        clean={"views": scene.latents["views"]},
        shapes={"texture": scene.latents["texture"].shape},
        device=device,
    )

    def generate(which: SeqTexTransformer, count: int) -> Tensor:
        if id(which) not in caches:
            caches[id(which)] = scene.prepare(which)
        cache = caches[id(which)]
        with torch.no_grad():
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
