"""``attention``: every implementation on the shapes of SeqTex, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from seqtex_core.attention import (
    Attend,
    AttentionInputs,
    attention_reference,
    choose_attention,
)
from seqtex_core.attention.packed import AttendsPacked, attend_packed

from .accuracy import FACTOR
from .attention_peers import APPROXIMATE, implementations, reason_missing
from .ceilings import dtype_name
from .foreground import TYPICAL
from .formulas import attention_bytes, attention_flop
from .result import Row, Work
from .runner import Candidate, Case, Session, run_cases

APPROXIMATE_FACTOR = 10.0
GRADIENT_FACTOR = 4.0
"""Fused kernels round inside where plain torch keeps fp32, and on a CPU torch's own adds gradients
of keys up in 16 bits: 3.1 times the error of plain torch where 8192 queries read 512 keys."""
OBJECTS = (0.6, 0.9, 1.1, 1.4)
"""Coverage of the objects of a packed batch, over that of a typical one."""
MAX_PLAIN_SCORES = {"cpu": 1 << 28, "cuda": 1 << 30}
"""The plain implementations hold all scores; larger cases leave them out."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A case.

    Args:
        name: of the case.
        queries: Lq.
        keys: Lk.
        heads: N.
        head_dim: D.
        backward: gradients too.
        dtype: of the inputs.
    """

    name: str
    queries: int
    keys: int
    heads: int
    head_dim: int
    backward: bool
    dtype: torch.dtype


def shapes(session: Session) -> list[Shape]:
    """The cases for a device.

    The three shapes of SeqTex in every dtype, head dim and direction, and a sweep over the length.
    On CUDA all heads at full length. On CPU two heads: the rate hardly depends on their number.
    Quick runs divide all lengths by eight.
    """
    heads = 12 if session.on_cuda else 2
    shrink = 8 if session.quick else 1
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    if session.on_cuda:
        dtypes = [torch.bfloat16, torch.float16, torch.float32]
    made = [
        (name, queries, keys, head_dim, backward, dtype)
        for (name, queries, keys), dtype, head_dim, backward in product(
            (("mv self", 4096, 4096), ("uv self", 4096, 8192), ("cross", 8192, 512)),
            dtypes,
            (128, 64),
            (False, True),
        )
    ]
    made += [
        ("sweep", length, length, 128, backward, dtypes[0])
        for length, backward in product((1024, 2048, 4096, 8192, 16384), (False, True))
    ]
    made.append(("ragged", 4096 + 77, 4096 + 77, 128, False, dtypes[0]))
    return [
        Shape(
            name=name,
            queries=queries // shrink,
            keys=keys // shrink,
            heads=heads * 128 // head_dim,
            head_dim=head_dim,
            backward=backward,
            dtype=dtype,
        )
        for name, queries, keys, head_dim, backward, dtype in made
    ]


def run(session: Session) -> list[Row]:
    """Rows of all shapes and implementations."""
    with _many_compilations(session):
        return run_cases(_cases(session), session)


def _many_compilations(session: Session) -> AbstractContextManager[None]:
    """Room for a compiled kernel per dtype, size and direction, where something is compiled."""
    if not session.on_cuda:
        return nullcontext()
    import torch._dynamo

    room: AbstractContextManager[None] = torch._dynamo.config.patch(recompile_limit=64)
    return room


def _cases(session: Session) -> Iterator[Case]:
    for shape in shapes(session):
        yield _case(shape, session)
    for backward in (False, True):
        yield packed_case(session, backward=backward)


def _case(shape: Shape, session: Session) -> Case:
    generator = session.generator()

    def rows(length: int) -> Tensor:
        size = (1, length, shape.heads, shape.head_dim)
        drawn = session.randn(*size, dtype=shape.dtype, generator=generator)
        return drawn.requires_grad_(shape.backward)

    q, k, v = rows(shape.queries), rows(shape.keys), rows(shape.keys)
    upstream = session.randn(*q.shape, dtype=shape.dtype, generator=generator)
    inner = shape.heads * shape.head_dim
    flop = attention_flop(1, shape.queries, shape.keys, inner)
    if shape.backward:
        flop += attention_flop(1, shape.queries, shape.keys, inner, backward=True)
    moved = attention_bytes(1, shape.queries, shape.keys, inner, itemsize=shape.dtype.itemsize)
    direction = "forward + backward" if shape.backward else "forward"
    return Case(
        benchmark="attention",
        name=_name(shape),
        dtype=shape.dtype,
        candidates=[
            _candidate(name, attend, shape, (q, k, v), upstream)
            for name, attend in implementations().items()
        ],
        work=Work(
            flop=float(flop),
            flop_formula=f"attention_flop, {direction}",
            bytes=float(moved * (3 if shape.backward else 1)),
            bytes_formula="attention_bytes" + (", three times" if shape.backward else ""),
        ),
        parameters={
            "queries": shape.queries,
            "keys": shape.keys,
            "heads": shape.heads,
            "head_dim": shape.head_dim,
            "backward": shape.backward,
            "dtype": dtype_name(shape.dtype),
            "auto": _auto((q, k, v), backward=shape.backward),
        },
        expected=lambda: exact_attention((q, k, v), upstream, backward=shape.backward),
        reference="attention_reference in fp64, head by head",
        plain="reference",
    )


def _name(shape: Shape) -> str:
    narrow = "" if shape.head_dim == 128 else f" D={shape.head_dim}"
    return f"{shape.name} {shape.queries}x{shape.keys}{narrow}" + (
        " fwd+bwd" if shape.backward else ""
    )


def _auto(qkv: tuple[Tensor, Tensor, Tensor], *, backward: bool) -> str:
    """The implementation that the library would choose."""
    with torch.set_grad_enabled(backward):
        return choose_attention("auto", AttentionInputs.of(*qkv)).name


def _candidate(
    name: str, attend: Attend, shape: Shape, qkv: tuple[Tensor, Tensor, Tensor], upstream: Tensor
) -> Candidate:
    with torch.set_grad_enabled(shape.backward):
        reason = reason_missing(attend, AttentionInputs.of(*qkv))
    scores = shape.heads * shape.queries * shape.keys
    most = MAX_PLAIN_SCORES[qkv[0].device.type]
    if reason is None and name in ("reference", "sdpa_math") and scores > most:
        reason = f"holds all {scores} scores in memory; left out above {most}"
    if reason is not None:
        return Candidate(name=name, reason=reason)
    return Candidate(
        name=name,
        call=_call(attend, qkv, upstream, backward=shape.backward),
        factor=_factor(name, backward=shape.backward),
    )


def packed_case(session: Session, *, backward: bool) -> Case:
    """The texture's self-attention of objects of different coverage, on their foreground tokens.

    Implementations without a kernel for packed samples are called once for each.

    Args:
        session: its device says how many heads there are, and in which dtype.
        backward: gradients too.
    """
    of_device = next(shape for shape in shapes(session) if shape.name == "uv self")
    dtype, heads, dim = of_device.dtype, of_device.heads, of_device.head_dim
    views, texture = (
        [round(share * TYPICAL[name] * of_device.queries) for share in OBJECTS]
        for name in ("views", "texture")
    )
    queries, keys = texture, [a + b for a, b in zip(views, texture, strict=True)]
    generator = session.generator()

    def rows(length: int) -> Tensor:
        drawn = session.randn(1, length, heads, dim, dtype=dtype, generator=generator)
        return drawn.requires_grad_(backward)

    qkv = rows(sum(queries)), rows(sum(keys)), rows(sum(keys))
    upstream = session.randn(*qkv[0].shape, dtype=dtype, generator=generator)
    inner, lengths = heads * dim, list(zip(queries, keys, strict=True))
    flop = sum(attention_flop(1, asked, known, inner) for asked, known in lengths)
    if backward:
        flop += sum(attention_flop(1, *each, inner, backward=True) for each in lengths)
    with torch.set_grad_enabled(backward):
        together = AttentionInputs.of(*qkv, samples=len(queries))
    direction = "forward + backward" if backward else "forward"

    def candidate(name: str, attend: Attend) -> Candidate:
        reason = reason_missing(attend, together)
        if reason is not None:
            return Candidate(name=name, reason=reason)
        call = partial(attend_packed, attend, query_lengths=queries, key_lengths=keys)
        return Candidate(
            name=name,
            call=_call(call, qkv, upstream, backward=backward),
            factor=_factor(name, backward=backward),
            notes=("one call" if isinstance(attend, AttendsPacked) else "a call per object",),
        )

    def expected() -> list[Tensor]:
        parts = zip(
            *(x.split(n, 1) for x, n in zip(qkv, (queries, keys, keys), strict=True)),
            upstream.split(queries, 1),
            strict=True,
        )
        made = [exact_attention((q, k, v), g, backward=backward) for q, k, v, g in parts]
        return [torch.cat(same, dim=1) for same in zip(*made, strict=True)]

    return Case(
        benchmark="attention",
        name=f"packed uv self, {len(queries)} objects" + (" fwd+bwd" if backward else ""),
        dtype=dtype,
        candidates=[candidate(name, attend) for name, attend in implementations().items()],
        work=Work(flop=float(flop), flop_formula=f"attention_flop of each, {direction}"),
        parameters={
            "queries": sum(queries),
            "keys": sum(keys),
            "objects": len(queries),
            "heads": heads,
            "head_dim": dim,
            "backward": backward,
            "dtype": dtype_name(dtype),
            "auto": choose_attention("auto", together).name,
        },
        expected=expected,
        reference="attention_reference in fp64, head by head, object by object",
        plain="reference",
    )


def _factor(name: str, *, backward: bool) -> float:
    """Accepted error over that of plain torch: 2, and 4 with gradients; more if approximate."""
    if name in APPROXIMATE:
        return APPROXIMATE_FACTOR
    return GRADIENT_FACTOR if backward else FACTOR


def _call(
    attend: Callable[..., Tensor],
    qkv: tuple[Tensor, Tensor, Tensor],
    upstream: Tensor,
    *,
    backward: bool,
) -> Callable[[], object]:
    def forward() -> Tensor:
        with torch.no_grad():
            return attend(*qkv)

    def both() -> tuple[Tensor, ...]:
        out = attend(*qkv)
        return (out, *torch.autograd.grad(out, qkv, upstream))

    return both if backward else forward


def exact_attention(
    qkv: tuple[Tensor, Tensor, Tensor], upstream: Tensor, *, backward: bool
) -> list[Tensor]:
    """Output and gradients in fp64, one head and at most 1024 queries at a time."""
    out = torch.empty_like(qkv[0], dtype=torch.float64)
    grads = [torch.zeros_like(x, dtype=torch.float64) for x in qkv]
    for head in range(qkv[0].shape[2]):
        wide = [x[:, :, head : head + 1].detach().double() for x in qkv]
        for start in range(0, wide[0].shape[1], 1024):
            rows = slice(start, start + 1024)
            parts = [wide[0][:, rows], *wide[1:]]
            with torch.set_grad_enabled(backward):
                parts = [p.requires_grad_(backward) for p in parts]
                part = attention_reference(*parts)
            out[:, rows, head : head + 1] = part.detach()
            if backward:
                above = upstream[:, rows, head : head + 1].double()
                dq, dk, dv = torch.autograd.grad(part, parts, above)
                grads[0][:, rows, head : head + 1] = dq
                grads[1][:, :, head : head + 1] += dk
                grads[2][:, :, head : head + 1] += dv
    return [out, *grads] if backward else [out]
