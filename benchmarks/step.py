"""``step``: one whole model call, latents to velocities, and where its time goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from seqtex_core.attention import choose_attention
from seqtex_core.transformer import SeqTexTransformer

from .block import FULL_SIZE, QUICK_SIZE, SMALL
from .formulas import LayerOptions, layer_work
from .models import ModelSize, Scene, build_model, build_scene, wide_copy
from .released import ReleasedModel
from .result import Row, Work
from .runner import Candidate, Case, Session, run_cases


def run(session: Session) -> list[Row]:
    """Rows of all dtypes; the shares of time by kind of work are metrics of each row."""
    return run_cases(_cases(session), session)


def _cases(session: Session) -> Iterator[Case]:
    if session.on_cuda:
        layers = 4 if session.quick else 30
        sizes = [ModelSize(**{**vars(FULL_SIZE), "layers": layers})]
    else:
        sizes = [QUICK_SIZE if session.quick else SMALL]
    dtypes = [torch.bfloat16] if session.on_cuda else [torch.float32, torch.bfloat16]
    for size in sizes:
        for dtype in dtypes:
            yield _case(size, dtype, session)


def _case(size: ModelSize, dtype: torch.dtype, session: Session) -> Case:
    device, seed = session.device, session.seed
    unmerged = build_model(size, device=device, dtype=dtype, seed=seed, merged=False, released=True)
    merged = build_model(size, device=device, dtype=dtype, seed=seed, released=True)
    scene = build_scene(size, unmerged, device=device, dtype=dtype, seed=seed)
    cache = scene.prepare(merged)
    released = ReleasedModel(unmerged, choose_attention())

    @torch.no_grad()
    def ours() -> dict[str, Tensor]:
        velocity: dict[str, Tensor] = merged(scene.latents, scene.sigmas, cache)
        return velocity

    @torch.no_grad()
    def views_only() -> dict[str, Tensor]:
        velocity: dict[str, Tensor] = merged(*scene.only_views(), cache)
        return velocity

    @torch.no_grad()
    def as_released() -> dict[str, Tensor]:
        return released(scene)

    return Case(
        benchmark="step",
        name=f"{size.layers} x d={size.dim}, {size.layer.num_mv}+{size.layer.num_uv}",
        dtype=dtype,
        candidates=[
            Candidate(name="seqtex", call=ours),
            Candidate(name="released bookkeeping", call=as_released),
            Candidate(
                name="seqtex, views only",
                call=views_only,
                work=step_work(size, itemsize=dtype.itemsize, with_uv=False),
                expected=lambda: {"views": _expected(unmerged, scene)["views"]},
            ),
        ],
        work=step_work(size, itemsize=dtype.itemsize),
        parameters=size.parameters(),
        expected=lambda: _expected(unmerged, scene),
        reference="the same weights in fp64, adapters unmerged",
        plain="released bookkeeping",
    )


def step_work(size: ModelSize, *, itemsize: int, with_uv: bool = True) -> Work:
    """Useful FLOP of a step: layers, patch embedding, time embedding, output projection.

    The traffic is that of the layers; what surrounds them moves little.
    """
    options = LayerOptions(with_uv=with_uv)
    layers = layer_work(size.layer, options, layers=size.layers, itemsize=itemsize)
    assert layers.flop is not None
    fixed = size.fixed_flop if with_uv else size.fixed_views_flop
    return replace(
        layers,
        flop=layers.flop + fixed,
        flop_formula=f"{layers.flop_formula}, + fixed_step_flop",
    )


def _expected(model: SeqTexTransformer, scene: Scene) -> dict[str, Tensor]:
    wide = wide_copy(model, attention=choose_attention("sdpa"))
    double = scene.double()
    cache = double.prepare(wide, precompute=False)
    with torch.no_grad():
        velocity: dict[str, Tensor] = wide(double.latents, double.sigmas, cache)
    return velocity
