"""``loop``: the denoising loop of one texture, all steps, on random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from seqtex_core.attention import choose_attention
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.frame_run import KnownLatents
from seqtex_core.graphed import GraphedModel
from seqtex_core.inference import prepare_for_inference
from seqtex_core.sampling import PredictVelocity, sample
from seqtex_core.tasks import img2tex
from seqtex_core.transformer import SeqTexTransformer, StepCache

from .block import FULL_SIZE, QUICK_SIZE, SMALL
from .models import ModelSize, Scene, build_model, build_scene, wide_copy
from .released import ReleasedModel
from .result import Row, Scalar, Work
from .runner import Candidate, Case, Session, run_cases
from .step import step_work

STEPS = 30
EAGER, COMPILED, GRAPH = "seqtex", "seqtex, compiled blocks", "seqtex, CUDA graph"
RELEASED = "released bookkeeping"
ON_CUDA_ONLY = "measured on CUDA only: opt-in elsewhere"
FARTHEST = 0.1
"""Accepted relative distance of the latents from those of the released bookkeeping, where fp64 is
out of reach: 30 layers in bf16 differ by some hundredths, other functions by about one."""

Latents = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Loop:
    """A scene whose front view is known, and how many steps make the rest.

    Args:
        scene: latents of the known views, geometry, text.
        size: of the model.
        steps: of the loop.
        seed: of the noise.
    """

    scene: Scene
    size: ModelSize
    steps: int
    seed: int

    def __call__(self, predict: PredictVelocity) -> dict[str, Tensor]:
        """Latents of views and texture."""
        latents = self.scene.latents
        return sample(
            predict,
            img2tex(num_views=self.size.views),
            KnownLatents(
                clean={"views": latents["views"]},
                shapes={"texture": latents["texture"].shape},
                device=latents["views"].device,
            ),
            sigmas=inference_sigmas(self.steps),
            generator=torch.Generator().manual_seed(self.seed),
        )

    @property
    def work(self) -> Work:
        """Of all steps."""
        itemsize = self.scene.text.dtype.itemsize
        one = step_work(self.size, itemsize=itemsize)
        flop, moved = ((amount or 0.0) * self.steps for amount in (one.flop, one.bytes))
        formula = f"{self.steps} x ({one.flop_formula})"
        return replace(one, flop=flop, bytes=moved, flop_formula=formula)


def run(session: Session) -> list[Row]:
    """Rows of the library's ways through the loop, and of the released bookkeeping."""
    return run_cases(_cases(session), session)


def _cases(session: Session) -> Iterator[Case]:
    if session.on_cuda:
        size, steps = replace(FULL_SIZE, layers=4 if session.quick else STEPS), STEPS
        yield _case(size, steps, torch.bfloat16, session)
    else:
        size, steps = (QUICK_SIZE, 4) if session.quick else (SMALL, STEPS)
        yield _case(size, steps, torch.float32, session)


def _case(size: ModelSize, steps: int, dtype: torch.dtype, session: Session) -> Case:
    device, seed = session.device, session.seed
    unmerged = build_model(size, device=device, dtype=dtype, seed=seed, merged=False, released=True)
    merged = prepare_for_inference(copy.deepcopy(unmerged))
    scene = build_scene(size, unmerged, device=device, dtype=dtype, seed=seed)
    loop = Loop(scene=scene, size=size, steps=steps, seed=seed)
    cache = scene.prepare(merged)
    calls = {EAGER: calling(merged, cache), RELEASED: released_calls(unmerged, scene)}
    if session.on_cuda:
        compiled = _shallow(merged)
        compiled.compile_blocks()
        calls |= {COMPILED: calling(compiled, cache), GRAPH: GraphedModel(merged, cache)}
    check = None
    if session.on_cuda:
        check = _near(loop(calls[RELEASED]))
    candidates = [
        Candidate(name=name, call=partial(loop, predict), check=check)
        for name, predict in calls.items()
    ]
    candidates += [
        Candidate(name=name, reason=ON_CUDA_ONLY) for name in (COMPILED, GRAPH) if name not in calls
    ]
    return Case(
        benchmark="loop",
        name=f"{steps} steps, {size.layers} x d={size.dim}, "
        f"{size.layer.num_mv}+{size.layer.num_uv}",
        dtype=dtype,
        candidates=candidates,
        work=loop.work,
        parameters={**size.parameters(), "steps": steps},
        expected=None if session.on_cuda else lambda: _exact(unmerged, loop),
        reference="the same loop and weights in fp64, adapters unmerged",
        plain=RELEASED,
        few=True,
    )


def calling(model: SeqTexTransformer, cache: StepCache) -> PredictVelocity:
    """The model as the loop wants it."""
    return lambda latents, sigmas: model(latents, sigmas, cache)


def released_calls(model: SeqTexTransformer, scene: Scene) -> PredictVelocity:
    """The same in the released bookkeeping; all is computed anew in every step."""
    released, dtype = ReleasedModel(model, choose_attention()), scene.text.dtype

    def predict(latents: Latents, sigmas: Latents) -> dict[str, Tensor]:
        cast = {name: x.to(dtype) for name, x in latents.items()}  # the loop's own are fp32
        return released(replace(scene, latents=cast, sigmas=sigmas))

    return predict


def _shallow(model: SeqTexTransformer) -> SeqTexTransformer:
    """A model of its own on the same weights, so that compiling it leaves the other alone."""
    shared = {id(x): x for x in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _exact(model: SeqTexTransformer, loop: Loop) -> dict[str, Tensor]:
    wide = wide_copy(model, attention=choose_attention("sdpa"))
    double = replace(loop, scene=loop.scene.double())
    return double(calling(wide, double.scene.prepare(wide, precompute=False)))


def _near(released: Latents) -> Callable[[Latents], tuple[str | None, Mapping[str, Scalar]]]:
    """A check against the latents of the released bookkeeping."""

    def check(latents: Latents) -> tuple[str | None, Mapping[str, Scalar]]:
        pairs = [(latents[name].double(), x.double()) for name, x in released.items()]
        error = sum(float((a - b).square().sum()) for a, b in pairs)
        distance = (error / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5
        near = distance <= FARTHEST  # False for NaN
        reason = None if near else f"{distance:.2e} from the released bookkeeping's latents"
        return reason, {"relative_to_released": distance if near else None}

    return check
