"""``layer``: a model call of one layer at full size: as released, the library's, one resolution."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from seqtex_core.attention import choose_attention
from seqtex_core.inference import prepare_for_inference
from seqtex_core.transformer import SeqTexTransformer

from .block import FULL_SIZE
from .models import ModelSize, Scene, build_model, build_scene, wide_copy
from .released import ReleasedModel
from .result import Row, Scalar
from .runner import Candidate, Case, Session, run_cases
from .scaling import at_uv_resolution
from .step import step_work

OURS, RELEASED = "seqtex", "released bookkeeping"
VIEWS_ONLY, EVERYWHERE = "seqtex, views only", "seqtex, all frames at UV resolution"
HALF = replace(FULL_SIZE, heads=6, ffn_dim=4480, view_tokens=16, uv_tokens=32, num_text=128)
"""Quick runs on a CPU: half the width, a quarter of the tokens."""


def run(session: Session) -> list[Row]:
    """Rows of all dtypes."""
    return run_cases(_cases(session), session)


def _cases(session: Session) -> Iterator[Case]:
    size = HALF if session.quick and not session.on_cuda else FULL_SIZE
    for dtype in [torch.bfloat16] if session.on_cuda else [torch.float32, torch.bfloat16]:
        yield _case(size, dtype, session)


def _case(size: ModelSize, dtype: torch.dtype, session: Session) -> Case:
    device, seed, itemsize = session.device, session.seed, dtype.itemsize
    unmerged = build_model(size, device=device, dtype=dtype, seed=seed, merged=False, released=True)
    merged = prepare_for_inference(copy.deepcopy(unmerged))
    scene = build_scene(size, unmerged, device=device, dtype=dtype, seed=seed)
    large = at_uv_resolution(size)
    larger = build_scene(large, unmerged, device=device, dtype=dtype, seed=seed)
    released = ReleasedModel(unmerged, choose_attention())

    @torch.no_grad()
    def as_released() -> dict[str, Tensor]:
        return released(scene)

    return Case(
        benchmark="layer",
        name=f"{size.layers} x d={size.dim}, {size.layer.num_mv}+{size.layer.num_uv}",
        dtype=dtype,
        candidates=[
            Candidate(name=OURS, call=model_call(merged, scene)),
            Candidate(name=RELEASED, call=as_released),
            Candidate(
                name=VIEWS_ONLY,
                call=model_call(merged, scene, with_uv=False),
                work=step_work(size, itemsize=itemsize, with_uv=False),
                expected=lambda: _expected(unmerged, scene, with_uv=False),
            ),
            Candidate(
                name=EVERYWHERE,
                call=model_call(merged, larger),
                work=step_work(large, itemsize=itemsize),
                check=_finite,
                notes=("too long for an fp64 reference; `scaling` compares shorter ones",),
            ),
        ],
        work=step_work(size, itemsize=itemsize),
        parameters=size.parameters(),
        expected=lambda: _expected(unmerged, scene),
        reference="the same weights in fp64, adapters unmerged",
        plain=RELEASED,
        few=True,
    )


def model_call(
    model: SeqTexTransformer, scene: Scene, *, with_uv: bool = True
) -> Callable[[], dict[str, Tensor]]:
    """One call, with everything that stays over the steps made beforehand.

    Args:
        model: of one layer.
        scene: what it sees.
        with_uv: the texture too.
    """
    cache = scene.prepare(model)
    seen = (scene.latents, scene.sigmas) if with_uv else scene.only_views()

    @torch.no_grad()
    def call() -> dict[str, Tensor]:
        velocity: dict[str, Tensor] = model(*seen, cache)
        return velocity

    return call


@torch.no_grad()
def _expected(model: SeqTexTransformer, scene: Scene, *, with_uv: bool = True) -> dict[str, Tensor]:
    wide, double = wide_copy(model, attention=choose_attention("sdpa")), scene.double()
    seen = (double.latents, double.sigmas) if with_uv else double.only_views()
    velocity: dict[str, Tensor] = wide(*seen, double.prepare(wide, precompute=False))
    return velocity


def _finite(velocity: Mapping[str, Tensor]) -> tuple[str | None, Mapping[str, Scalar]]:
    """A check of outputs that nothing is compared with."""
    finite = all(bool(torch.isfinite(x).all()) for x in velocity.values())
    return None if finite else "NaN or infinity in the output", {}
