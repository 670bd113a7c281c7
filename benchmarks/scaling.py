"""``scaling``: more views and larger textures; counted at full size, measured at a small one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from seqtex.models.live_bytes import peak_bytes
from seqtex_core.attention import choose_attention
from seqtex_core.transformer import SeqTexTransformer

from .counting import CountedAttend, count
from .formulas import layer_flop
from .models import ModelSize, Scene, build_model, build_scene, wide_copy
from .result import Row, Scalar
from .runner import Candidate, Case, Session, describe, run_cases
from .step import step_work

VIEWS = (1, 2, 3, 4, 6, 8)
UV_SIZES = (512, 1024, 2048, 4096)
TEXELS = 16
"""Texels of the texture per token, in each direction: the VAE's 8 times the patch's 2."""
LAYERS = 30
SHRINK = 4
"""The small model has a twelfth of the width and a sixteenth of the tokens of the full one, so that
attention has nearly the same share of the work."""
SMALL = ModelSize(
    heads=1, layers=2, ffn_dim=768, view_tokens=8, uv_tokens=16, num_text=32, lora_rank=8
)
MIXED, EVERYWHERE = "mixed resolution", "all frames at UV resolution"
MOST_TOKENS = 6000
"""Of a measured case on the CPU."""
MOST_SCORES = 8e9
"""Bytes of a layer's attention scores in fp64, up to which there is an fp64 reference."""


def run(session: Session) -> list[Row]:
    """Counted rows of one layer and a step, then measured ones."""
    counted = list(_counted_rows())
    for row in counted:
        session.say(f"{describe(row)}  {_summary(row)}")
    return [*counted, *run_cases(_cases(session), session)]


def points(base: ModelSize, *, shrink: int = 1) -> list[tuple[str, ModelSize, dict[str, Scalar]]]:
    """What is varied: the numbers of views, then the sizes of the texture.

    Args:
        base: what stays the same; 512-pixel views and a 1024-texel texture.
        shrink: by which token grids are smaller than those of the sizes that the points name.
    """
    found: list[tuple[str, ModelSize, dict[str, Scalar]]] = [
        (f"{views} views", replace(base, views=views), {"views": views, "uv_size": 1024})
        for views in VIEWS
    ]
    for uv_size in UV_SIZES:
        sized = replace(base, uv_tokens=uv_size // TEXELS // shrink)
        found.append((f"UV {uv_size}", sized, {"views": base.views, "uv_size": uv_size}))
    return found


def at_uv_resolution(size: ModelSize) -> ModelSize:
    """The same with views as large as the texture: what one resolution for all would cost."""
    return replace(size, view_tokens=size.uv_tokens)


def _counted_rows() -> Iterator[Row]:
    for name, size, varied in points(ModelSize()):
        layer, held = _counted(size)
        formula = sum(layer_flop(size.layer).values())
        equal = layer["flop"] == formula
        uniform = at_uv_resolution(size)
        all_large = LAYERS * sum(layer_flop(uniform.layer).values()) + uniform.fixed_flop
        step = LAYERS * formula + size.fixed_flop
        yield Row(
            benchmark="scaling",
            case=f"counted, {name}",
            implementation=MIXED,
            status="ok" if equal else "wrong",
            reason=None if equal else f"formula {formula} FLOP, counted {layer['flop']}",
            dtype="bfloat16",
            parameters={**size.parameters(), **varied, "layers": LAYERS},
            work=step_work(replace(size, layers=LAYERS), itemsize=2),
            metrics={
                "tflop_per_step": step / 1e12,
                "tflop_per_step at UV resolution": all_large / 1e12,
                "gflop_per_layer": formula / 1e9,
                "pointwise_gb_per_layer": layer["bytes"] / 1e9,
                "launches_per_layer": layer["launches"],
                "working_bytes": held,
            },
            notes=(
                "counted on the meta device; working bytes: tensors of a step and of the caches of "
                f"all {LAYERS} layers, beside the weights",
            ),
        )


def _counted(size: ModelSize) -> tuple[dict[str, int], int]:
    """FLOP, pointwise bytes and launches of one layer, and the working bytes of a step."""
    meta = torch.device("meta")
    tallies, peaks = [], []
    for layers in (1, 2):
        sized = replace(size, layers=layers)
        model = build_model(sized, device=meta, dtype=torch.bfloat16, attention=CountedAttend())
        scene = build_scene(sized, model, device=meta, dtype=torch.bfloat16)
        cache = scene.prepare(model)
        with torch.no_grad():
            model(scene.latents, scene.sigmas, cache)  # fills what is computed on first use
        tallies.append(count(partial(model, scene.latents, scene.sigmas, cache)))
        del cache
        beside = [*model.parameters(), *model.buffers()]
        peaks.append(peak_bytes(partial(_prepared_step, model, scene), beside=beside))
    layer = tallies[1].minus(tallies[0])
    counted = {
        "flop": layer.total_flop,
        "bytes": layer.bytes["pointwise"],
        "launches": layer.total_launches,
    }
    return counted, peaks[0] + (LAYERS - 1) * (peaks[1] - peaks[0])


def _prepared_step(model: SeqTexTransformer, scene: Scene) -> dict[str, Tensor]:
    velocity: dict[str, Tensor] = model(scene.latents, scene.sigmas, scene.prepare(model))
    return velocity


def _summary(row: Row) -> str:
    m = row.metrics
    return (
        f"{m['tflop_per_step']:.1f} TFLOP a step, "
        f"{m['tflop_per_step at UV resolution']:.1f} with all frames at UV resolution, "
        f"{int(m['working_bytes'] or 0) / 2**30:.2f} GiB of tensors"
    )


def _cases(session: Session) -> Iterator[Case]:
    base, shrink = (ModelSize(), 1) if session.on_cuda else (SMALL, SHRINK)
    dtype = torch.bfloat16 if session.on_cuda else torch.float32
    kept = {"1 views", "4 views", "8 views", *(f"UV {size}" for size in UV_SIZES)}
    for name, size, varied in points(base, shrink=shrink):
        if not session.quick or name in kept:
            yield _case(name, size, varied, dtype, session)


def _case(
    name: str, size: ModelSize, varied: dict[str, Scalar], dtype: torch.dtype, session: Session
) -> Case:
    model = build_model(size, device=session.device, dtype=dtype, seed=session.seed)
    candidates = [_candidate(MIXED, size, model, dtype, session)]
    large = at_uv_resolution(size)
    if name.startswith("UV"):
        tokens = large.layer.num_mv + large.layer.num_uv
        if session.on_cuda or tokens <= MOST_TOKENS:
            candidates.append(_candidate(EVERYWHERE, large, model, dtype, session))
        else:
            reason = f"{tokens} tokens: too long on a CPU"
            candidates.append(Candidate(name=EVERYWHERE, reason=reason))
    return Case(
        benchmark="scaling",
        name=f"{size.layers} x d={size.dim}, {name}",
        dtype=dtype,
        candidates=candidates,
        work=step_work(size, itemsize=dtype.itemsize),
        parameters={**size.parameters(), **varied},
        reference="the same weights in fp64",
    )


def _candidate(
    name: str, size: ModelSize, model: SeqTexTransformer, dtype: torch.dtype, session: Session
) -> Candidate:
    """A step of ``model`` on pictures of ``size``, with its own fp64 reference."""
    scene = build_scene(size, model, device=session.device, dtype=dtype, seed=session.seed)
    cache = scene.prepare(model)

    @torch.no_grad()
    def call() -> dict[str, Tensor]:
        velocity: dict[str, Tensor] = model(scene.latents, scene.sigmas, cache)
        return velocity

    @torch.no_grad()
    def expected() -> dict[str, Tensor]:
        wide = wide_copy(model, attention=choose_attention("sdpa"))
        return _prepared_step(wide, scene.double())

    layer = size.layer
    scores = 8 * size.heads * layer.num_uv * (layer.num_mv + layer.num_uv)
    short = scores <= MOST_SCORES
    return Candidate(
        name=name,
        call=call,
        expected=expected if short else None,
        work=step_work(size, itemsize=dtype.itemsize),
        metrics={"tokens": layer.num_mv + layer.num_uv},
        notes=() if short else ("too long for an fp64 reference; compared in the shorter cases",),
    )
