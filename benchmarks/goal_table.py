"""The goals: what is measured, by which benchmark, and how much is enough."""

from __future__ import annotations

from .foreground import OF_TYPICAL, SHIPPED
from .fsdp import SHARDED
from .geo_attention import CALL, COPY, PREP, WITH
from .goal import Goal
from .goal_figures import (
    achieved,
    auto_over_best,
    differing,
    fastest,
    metric,
    ratio,
    total_ratio,
)
from .layer import EVERYWHERE, OURS, RELEASED, VIEWS_ONLY
from .loop import COMPILED, EAGER, GRAPH
from .train import COMPILED_BLOCKS, FUSED, NARROW, NARROW_FUSED, OFF

SECONDS, PERCENT = " s", "%"
WIDTH_384 = "2 x d=384, 1024+1024"
LOOP = "30 steps, 30 x d=1536"
CHUNKED = "seqtex, chunked attention"
PREPARED = "norm + rope + geometry, 4096"

COUNTED = (
    Goal(
        name="matrix products of a layer",
        device="cpu",
        benchmark="counts",
        find=metric("gflop", implementation="seqtex"),
        at_most=1056.6,
        form=".1f",
        unit=" GFLOP",
    ),
    Goal(
        name="rows where formula and FlopCounterMode differ",
        device="cpu",
        benchmark="counts",
        find=differing("gflop", "formula_gflop"),
        at_most=0,
        form=".0f",
        unit="",
    ),
    Goal(
        name="pointwise traffic of a layer, without Triton",
        device="cpu",
        benchmark="counts",
        find=metric("pointwise_gb", implementation="seqtex"),
        at_most=2.5,
        unit=" GB",
    ),
    Goal(
        name="the same with fused kernels",
        device="cpu",
        benchmark="counts",
        find=metric("pointwise_gb", implementation="seqtex, fused kernels"),
        at_most=0.85,
        unit=" GB",
    ),
    Goal(
        name="launches of a layer, without Triton",
        device="cpu",
        benchmark="counts",
        find=metric("launches", implementation="seqtex"),
        at_most=60,
        form=".0f",
        unit="",
    ),
    Goal(
        name="the same with fused kernels",
        device="cpu",
        benchmark="counts",
        find=metric("launches", implementation="seqtex, fused kernels"),
        at_most=30,
        form=".0f",
        unit="",
    ),
    Goal(
        name="VAE, one texture, one-frame form",
        device="cpu",
        benchmark="vae",
        find=metric("tflop", case="wan, one texture", implementation="one frame"),
        at_most=20.6,
        unit=" TFLOP",
    ),
    Goal(
        name="layer on the tokens of a typical object",
        device="cpu",
        benchmark="foreground",
        find=metric("gflop", case="one layer, full size", implementation="typical object"),
        at_most=367,
        form=".1f",
        unit=" GFLOP",
    ),
    Goal(
        name="registers of the widest forward Triton kernel, full sizes of all families, "
        "sm_80 to sm_100",
        device="cpu",
        benchmark="kernels",
        find=metric("registers", case="machine code, forward"),
        at_most=64,
        form=".0f",
        unit="",
        full=True,
    ),
    Goal(
        name="the same of the widest backward one",
        device="cpu",
        benchmark="kernels",
        find=metric("registers", case="machine code, backward"),
        form=".0f",
        unit="",
        full=True,
    ),
    *(
        Goal(
            name=f"bytes that the backward ones have in flight, over what {card} memory needs",
            device="cpu",
            benchmark="kernels",
            find=metric("in_flight", pick=min, case=f"machine code, backward, {architecture}"),
            at_least=1,
            unit="x",
            full=True,
        )
        for card, architecture in (("A100", "sm_80"), ("H100", "sm_90"), ("B200", "sm_100"))
    ),
    Goal(
        name="spills and stack of the forward ones",
        device="cpu",
        benchmark="kernels",
        find=metric("stack_bytes", case="machine code, forward"),
        at_most=0,
        form=".0f",
        unit=" bytes",
        full=True,
    ),
    Goal(
        name="of the backward ones",
        device="cpu",
        benchmark="kernels",
        find=metric("stack_bytes", case="machine code, backward"),
        at_most=0,
        form=".0f",
        unit=" bytes",
        full=True,
    ),
    Goal(
        name="narrowest store of both",
        device="cpu",
        benchmark="kernels",
        find=metric("narrowest_store_bits", pick=min, case="machine code"),
        at_least=128,
        form=".0f",
        unit=" bits",
        full=True,
    ),
)
ON_CPU = (
    Goal(
        name="blocks of width 384, fp32, over the released bookkeeping",
        device="cpu",
        benchmark="block",
        find=ratio(RELEASED, OURS, case=WIDTH_384, dtype="float32"),
        at_least=1.35,
        full=True,
    ),
    Goal(
        name="the same in bf16, exact",
        device="cpu",
        benchmark="block",
        find=ratio(RELEASED, OURS, case=WIDTH_384, dtype="bfloat16"),
        at_least=1.2,
        full=True,
    ),
    Goal(
        name="the same in bf16, chunked attention",
        device="cpu",
        benchmark="block",
        find=ratio(RELEASED, CHUNKED, case=WIDTH_384, dtype="bfloat16"),
        at_least=1.5,
        full=True,
    ),
    Goal(
        name="one full-size layer, fp32, over the released bookkeeping",
        device="cpu",
        benchmark="layer",
        find=ratio(RELEASED, OURS, dtype="float32"),
        full=True,
    ),
    Goal(
        name="the same in bf16",
        device="cpu",
        benchmark="layer",
        find=ratio(RELEASED, OURS, dtype="bfloat16"),
        full=True,
    ),
    Goal(
        name="Wan VAE in one-frame form, over diffusers' own",
        device="cpu",
        benchmark="vae",
        find=total_ratio("diffusers", "one frame", case="wan"),
        at_least=2.3,
        full=True,
    ),
    Goal(
        name="CogVideoX VAE in one-frame form, over diffusers' own",
        device="cpu",
        benchmark="vae",
        find=total_ratio("diffusers", "one frame", case="cogvideox"),
        at_least=2.3,
        full=True,
    ),
    Goal(
        name="geo2mv, UV skipped: one full-size layer, fp32",
        device="cpu",
        benchmark="layer",
        find=ratio(OURS, VIEWS_ONLY, dtype="float32"),
        at_least=2.2,
        full=True,
    ),
    Goal(
        name="mixed resolution over all frames at UV resolution, full-size layer",
        device="cpu",
        benchmark="layer",
        find=ratio(EVERYWHERE, OURS, dtype="float32"),
        at_least=3.3,
        full=True,
    ),
    Goal(
        name="foreground tokens, 21% / 63% coverage, margin 0",
        device="cpu",
        benchmark="foreground",
        find=metric("speedup", case="step", implementation="typical object"),
        at_least=2.3,
        full=True,
    ),
    Goal(
        name="the same, one full-size layer, fp32",
        device="cpu",
        benchmark="foreground",
        find=metric("speedup", case="layer", implementation=OF_TYPICAL),
        at_least=2.3,
        full=True,
    ),
    Goal(
        name="the shipped model on the tokens of the demo's surface",
        device="cpu",
        benchmark="foreground",
        find=metric("speedup", case="seqtex-tiny", implementation=SHIPPED),
        full=True,
    ),
    Goal(
        name="parameters that are DTensors under FSDP2, two processes",
        device="cpu",
        benchmark="fsdp",
        find=metric("dtensor_percent", implementation=SHARDED),
        at_least=100,
        form=".0f",
        unit=PERCENT,
    ),
)
ON_CUDA = (
    Goal(
        name="attend call over the bare kernel",
        device="cuda",
        benchmark="geo_attention",
        find=metric("over", implementation=CALL),
        at_most=1.01,
        form=".3f",
    ),
    Goal(
        name="Geo-Attention over attention without norm, RoPE, geometry",
        device="cuda",
        benchmark="geo_attention",
        find=metric("over", implementation=WITH),
        at_most=1.15,
        form=".3f",
    ),
    Goal(
        name="norm, RoPE and geometry alone, over that attention",
        device="cuda",
        benchmark="geo_attention",
        find=metric("over", implementation=PREP),
        form=".3f",
    ),
    Goal(
        name="the same, speed over a copy of as many bytes",
        device="cuda",
        benchmark="geo_attention",
        find=ratio(COPY, PREP),
        form=".3f",
    ),
    Goal(
        name="fused norm + RoPE + geometry, of copy bandwidth",
        device="cuda",
        benchmark="kernels",
        find=achieved(case=PREPARED, implementation="triton", dtype="bfloat16"),
        at_least=85,
        form=".1f",
        unit=PERCENT,
    ),
    Goal(
        name="30 steps at 512/1024, random weights",
        device="cuda",
        benchmark="loop",
        find=fastest((EAGER, COMPILED, GRAPH), case=LOOP),
        at_most=1.75,
        unit=SECONDS,
    ),
    *(
        Goal(
            name=f"30 steps: {name}",
            device="cuda",
            benchmark="loop",
            find=fastest((name,), case=LOOP),
            unit=SECONDS,
        )
        for name in (EAGER, COMPILED, GRAPH, RELEASED)
    ),
    Goal(
        name="foreground tokens, 21% / 63% coverage, margin 0",
        device="cuda",
        benchmark="foreground",
        find=metric("speedup", case="step", implementation="typical object"),
        at_least=2.3,
    ),
    Goal(
        name="GPU tests that fail",
        device="cuda",
        benchmark="gpu_tests",
        find=metric("failed"),
        at_most=0,
        form=".0f",
        unit="",
    ),
    Goal(
        name="one full-size layer over the released bookkeeping",
        device="cuda",
        benchmark="layer",
        find=ratio(RELEASED, OURS),
    ),
    Goal(
        name="mixed resolution over all frames at UV resolution, full-size layer",
        device="cuda",
        benchmark="layer",
        find=ratio(EVERYWHERE, OURS),
    ),
    Goal(
        name="attention chosen by itself over the best",
        device="cuda",
        benchmark="attention",
        find=auto_over_best,
        at_least=0.98,
        form=".3f",
    ),
    Goal(
        name="Wan VAE in one-frame form, over diffusers' own",
        device="cuda",
        benchmark="vae",
        find=total_ratio("diffusers", "one frame", case="wan"),
    ),
)
TRAINED = tuple(
    Goal(
        name=f"training step: {name}, over {other}",
        device="cuda",
        benchmark="train",
        find=ratio(other, name, case="wan"),
    )
    for other, name in ((OFF, FUSED), (NARROW, NARROW_FUSED), (OFF, COMPILED_BLOCKS))
)
GOALS = (*COUNTED, *ON_CPU, *ON_CUDA, *TRAINED)
"""On a GPU in the order in which they are measured: what is short and wanted most comes first."""
