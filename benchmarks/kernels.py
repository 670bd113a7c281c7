"""``kernels``: the fused operations, every implementation, forward and backward, machine code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seqtex_core.frames import FrameGroup, Grid, StreamLayout, TokenLayout
from seqtex_core.kernels import KERNELS, KernelInputs, using_kernels
from seqtex_core.kernels.choose import Operation
from seqtex_core.kernels.tuning import Launched, watched_launches
from seqtex_core.modulation import RowNorm, gated_residual, modulated_norm, residual_norm
from seqtex_core.query_key import QKNorm, qk_prep
from seqtex_core.rope import RopeSpec, rope_table, wan_axis_dims

from .formulas import (
    gate_bytes,
    norm_bytes,
    qk_prep_backward_bytes,
    qk_prep_bytes,
    sum_norm_bytes,
)
from .result import Row, Work
from .runner import Candidate, Case, Session, describe, run_case

if TYPE_CHECKING:
    from seqtex_core.kernels.compile_report import KernelReport

HEAD_DIM = 128
WIDEST = 128
"""Bits that one thread can load at once."""


def run(session: Session) -> list[Row]:
    """Rows of all operations and dtypes, then what the Triton kernels compile to."""
    rows: list[Row] = []
    for case in _cases(session):
        calls = {candidate.name: candidate.call for candidate in case.candidates}
        rows += [_with_configs(row, calls[row.implementation]) for row in run_case(case, session)]
    return rows + _machine_code(session)


def _cases(session: Session) -> Iterator[Case]:
    side = 8 if session.quick and not session.on_cuda else 32
    heads = 12 if session.on_cuda or not session.quick else 4
    views = FrameGroup(name="views", stream="mv", grid=Grid(frames=4, height=side, width=side))
    layout = TokenLayout.of([views])
    for dtype in (torch.bfloat16, torch.float32):
        yield _prep_case(layout, session, dtype, heads)
        yield _prep_backward_case(layout, session, dtype, heads)
        yield _norm_case(layout.streams["mv"], session, dtype, heads * HEAD_DIM)
        yield _gate_case(layout.streams["mv"], session, dtype, heads * HEAD_DIM)
        for backward in (False, True):
            yield _sum_case(
                layout.streams["mv"], session, dtype, heads * HEAD_DIM, backward=backward
            )


def _candidates(
    operation: Operation,
    call: Callable[[], object],
    x: Tensor,
    width: int,
    *,
    needs_grad: bool = False,
) -> list[Candidate]:
    """The call on every implementation, the reason where one cannot run."""
    inputs = KernelInputs(
        operation=operation, device=x.device, dtype=x.dtype, width=width, needs_grad=needs_grad
    )
    found = []
    for name in KERNELS:
        reason = KERNELS.get(name).reason_unsupported(inputs)
        run_named = None if reason is not None else _Named(name, call)
        found.append(Candidate(name=name, call=run_named, reason=reason))
    return found


class _Named:
    """A call on the named implementation; what its last launches took is kept."""

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self.name, self.call = name, call
        self.launched: Sequence[Launched] = ()

    def __call__(self) -> object:
        with using_kernels(self.name), watched_launches() as self.launched:
            return self.call()


def _with_configs(row: Row, call: object) -> Row:
    """The row, and what the programs of Triton kernels took when it was measured."""
    launched = call.launched if isinstance(call, _Named) else ()
    return replace(row, notes=(*row.notes, *dict.fromkeys(map(str, launched))))


def _prep_case(layout: TokenLayout, session: Session, dtype: torch.dtype, heads: int) -> Case:
    """Norm over all heads, rotation, geometry: queries or keys of the views."""
    call, x, tokens = _prep(layout, session, dtype, heads)
    inner = heads * HEAD_DIM

    def forward(*, wide: bool = False) -> Tensor:
        with torch.no_grad():
            return call(wide)[0]

    return Case(
        benchmark="kernels",
        name=f"norm + rope + geometry, {tokens} rows",
        dtype=dtype,
        candidates=_candidates("qk_prep", forward, x, HEAD_DIM),
        work=Work(
            bytes=float(qk_prep_bytes(1, tokens, inner, HEAD_DIM, itemsize=dtype.itemsize)),
            bytes_formula="qk_prep_bytes",
        ),
        parameters={"tokens": tokens, "heads": heads, "head_dim": HEAD_DIM},
        expected=_Named("plain", lambda: forward(wide=True)),
        reference="the plain form in fp64",
        plain="plain",
    )


def _prep_backward_case(
    layout: TokenLayout, session: Session, dtype: torch.dtype, heads: int
) -> Case:
    """The same forward and backward: gradients of rows, geometry and the norm's weight."""
    call, x, tokens = _prep(layout, session, dtype, heads)
    inner = heads * HEAD_DIM
    incoming = torch.randn(x.shape[0], tokens, heads, HEAD_DIM, generator=session.generator())

    def gradients(*, wide: bool = False) -> tuple[Tensor, ...]:
        out, leaves = call(wide)
        return torch.autograd.grad(out, leaves, incoming.to(out))

    return Case(
        benchmark="kernels",
        name=f"norm + rope + geometry, backward, {tokens} rows",
        dtype=dtype,
        candidates=_candidates("qk_prep", gradients, x, HEAD_DIM, needs_grad=True),
        work=Work(
            bytes=float(
                qk_prep_backward_bytes(1, tokens, inner, HEAD_DIM, itemsize=dtype.itemsize)
            ),
            bytes_formula="qk_prep_backward_bytes",
        ),
        parameters={"tokens": tokens, "heads": heads, "head_dim": HEAD_DIM},
        expected=_Named("plain", lambda: gradients(wide=True)),
        reference="gradients of the plain form in fp64",
        plain="plain",
    )


def _prep(
    layout: TokenLayout, session: Session, dtype: torch.dtype, heads: int
) -> tuple[Callable[[bool], tuple[Tensor, tuple[Tensor, ...]]], Tensor, int]:
    """A call that gives prepared rows and the leaves behind them, in ``dtype`` or in fp64."""
    table = rope_table(layout, RopeSpec(axis_dims=wan_axis_dims(HEAD_DIM)), device=session.device)
    rope, generator = table["mv"], session.generator()
    tokens, inner = rope.num_rows, heads * HEAD_DIM
    x = session.randn(1, tokens, inner, dtype=dtype, generator=generator)
    geometry = session.randn(1, tokens, heads, HEAD_DIM, dtype=dtype, generator=generator)
    weight = 1 + 0.1 * session.randn(inner, dtype=dtype, generator=generator)
    narrow = tuple(t.requires_grad_() for t in (x, geometry, weight))
    wide = tuple(t.detach().double().requires_grad_() for t in narrow)

    def call(in_fp64: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaves = wide if in_fp64 else narrow
        norm = QKNorm(weight=leaves[2], eps=1e-6)
        out = qk_prep(leaves[0], norm, num_heads=heads, rope=rope, geometry=leaves[1])
        return out, leaves

    return call, x, tokens


def _norm_case(rows: StreamLayout, session: Session, dtype: torch.dtype, width: int) -> Case:
    """LayerNorm, factor and shift of each frame."""
    generator, tokens = session.generator(), rows.num_tokens
    x = session.randn(1, tokens, width, dtype=dtype, generator=generator)
    shape = (2, 1, rows.num_frames, width)
    shift, factor = session.randn(*shape, dtype=torch.float32, generator=generator)

    def call(*, wide: bool = False) -> Tensor:
        stream, added, times = (t.double() if wide else t for t in (x, shift, factor))
        return modulated_norm(stream, added, times, rows, eps=1e-6)

    return Case(
        benchmark="kernels",
        name=f"LayerNorm + modulate, {tokens} rows",
        dtype=dtype,
        candidates=_candidates("norm", call, x, width),
        work=Work(
            bytes=float(norm_bytes(1, tokens, width, rows.num_frames, itemsize=dtype.itemsize)),
            bytes_formula="norm_bytes",
        ),
        parameters={"tokens": tokens, "channels": width, "frames": rows.num_frames},
        expected=_Named("plain", lambda: call(wide=True)),
        reference="the plain form in fp64",
        plain="plain",
    )


def _gate_case(rows: StreamLayout, session: Session, dtype: torch.dtype, width: int) -> Case:
    """The residual stream plus what a sublayer adds, times the gate of each frame."""
    generator, tokens = session.generator(), rows.num_tokens
    x, update = session.randn(2, 1, tokens, width, dtype=dtype, generator=generator)
    gate = session.randn(1, rows.num_frames, width, dtype=torch.float32, generator=generator)

    def call(*, wide: bool = False) -> Tensor:
        stream, added, level = (t.double() if wide else t for t in (x, update, gate))
        return gated_residual(stream, added, level, rows)

    return Case(
        benchmark="kernels",
        name=f"gate + residual, {tokens} rows",
        dtype=dtype,
        candidates=_candidates("gate", call, x, width),
        work=Work(
            bytes=float(gate_bytes(1, tokens, width, rows.num_frames, itemsize=dtype.itemsize)),
            bytes_formula="gate_bytes",
        ),
        parameters={"tokens": tokens, "channels": width, "frames": rows.num_frames},
        expected=_Named("plain", lambda: call(wide=True)),
        reference="the plain form in fp64",
        plain="plain",
    )


def _sum_case(
    rows: StreamLayout, session: Session, dtype: torch.dtype, width: int, *, backward: bool
) -> Case:
    """Gate and residual, and the modulated norm in front of the next sublayer, as one."""
    generator, tokens = session.generator(), rows.num_tokens
    x, update = session.randn(2, 1, tokens, width, dtype=dtype, generator=generator)
    levels = session.randn(3, 1, rows.num_frames, width, dtype=torch.float32, generator=generator)
    incoming = session.randn(2, 1, tokens, width, dtype=dtype, generator=generator)
    narrow = [t.detach().clone().requires_grad_(backward) for t in (x, update, *levels)]
    wide = [t.detach().double().requires_grad_(backward) for t in narrow]

    def call(*, in_fp64: bool = False) -> tuple[Tensor, ...]:
        leaves = wide if in_fp64 else narrow
        stream, added, gate, factor, shift = leaves
        norm = RowNorm(factor, shift, 1e-6)
        out = residual_norm(stream, added, rows, gate=gate, norm=norm)
        if not backward:
            return out
        return torch.autograd.grad(out, leaves, [t.to(stream.dtype) for t in incoming])

    moved = sum_norm_bytes(
        1, tokens, width, rows.num_frames, itemsize=dtype.itemsize, backward=backward
    )
    return Case(
        benchmark="kernels",
        name=f"gate + residual + LayerNorm{', backward' if backward else ''}, {tokens} rows",
        dtype=dtype,
        candidates=_candidates("norm", call, x, width, needs_grad=backward),
        work=Work(bytes=float(moved), bytes_formula="sum_norm_bytes"),
        parameters={"tokens": tokens, "channels": width, "frames": rows.num_frames},
        expected=_Named("plain", lambda: call(in_fp64=True)),
        reference="the plain form in fp64",
        plain="plain",
    )


def _machine_code(session: Session) -> list[Row]:
    """Registers, stack and the narrowest access of every Triton kernel; needs no GPU.

    At full sizes of all families; in quick runs at the smallest of them on one architecture.
    """
    if importlib.util.find_spec("triton") is None:
        reason = "needs the package triton: pip install triton"
        row = Row(
            benchmark="kernels",
            case="machine code",
            implementation="triton",
            status="unsupported",
            reason=reason,
        )
        session.say(describe(row))
        return [row]
    from seqtex_core.kernels.compile_report import (
        ARCHITECTURES,
        MODELS,
        cases,
        compile_case,
        widest,
    )

    rows, reports = [], []
    for case in cases(MODELS[:1] if session.quick else MODELS):
        for architecture in ARCHITECTURES[1:2] if session.quick else ARCHITECTURES:
            report = compile_case(case, architecture)
            reports.append(report)
            rows.append(_code_row(report))
            session.say(f"{describe(rows[-1])}{dict(rows[-1].metrics)}")
    for what, report in (
        ("most registers", max(reports, key=lambda report: report.registers)),
        ("most stack", widest(reports)),
    ):
        session.say(f"machine code, {what}: {describe(_code_row(report))}{report.registers}")
    return rows


def _code_row(report: KernelReport) -> Row:
    return Row(
        benchmark="kernels",
        case=f"machine code, {report.direction}, sm_{report.architecture}",
        implementation=f"triton, {report.case}",
        status="ok",
        dtype="bfloat16",
        metrics={
            "warps": report.warps,
            "registers": report.registers,
            "stack_bytes": report.stack,
            "in_flight": report.in_flight,
            "narrowest_store_bits": min(report.stores),
            "narrow_loads": sum(bits < WIDEST for bits in report.loads),
        },
    )
