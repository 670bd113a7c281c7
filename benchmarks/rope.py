"""``rope``: rotary tables, their application, and norm + rotation + geometry in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.query_key import QKNorm, qk_prep, qk_prep_reference
from seqtex_core.rope import Rope, RopeSpec, apply_rope, rope_table, wan_axis_dims
from seqtex_core.rope.rotate import Pairing, apply_rope_reference

from .formulas import qk_prep_bytes, rope_bytes
from .released import phases, rms_norm_eager, rotate_complex128
from .result import Row, Work
from .runner import Candidate, Case, Session, run_cases

HEAD_DIM = 128


def run(session: Session) -> list[Row]:
    """Rows of all cases."""
    return run_cases(_cases(session), session)


def _cases(session: Session) -> Iterator[Case]:
    views, texture = (8, 16) if session.quick else (32, 64)
    layout = TokenLayout.of(
        [
            FrameGroup(name="views", stream="mv", grid=Grid(frames=4, height=views, width=views)),
            FrameGroup(
                name="texture", stream="uv", grid=Grid(frames=1, height=texture, width=texture)
            ),
        ]
    )
    yield _table_case(layout, session)
    dtypes = (torch.bfloat16, torch.float32)
    for dtype in dtypes:
        for pairing in ("interleaved", "half"):
            yield _apply_case(layout, session, dtype, pairing)
    for dtype in dtypes:
        yield _prep_case(layout, session, dtype)


def _spec(pairing: Pairing = "interleaved") -> RopeSpec:
    return RopeSpec(axis_dims=wan_axis_dims(HEAD_DIM), pairing=pairing)


def _heads(session: Session) -> int:
    return 12 if session.on_cuda or not session.quick else 4


def _table_case(layout: TokenLayout, session: Session) -> Case:
    """Both streams' tables; built once per object, against once per forward as released."""
    spec, device = _spec(), session.device
    tokens = sum(rows.num_tokens for rows in layout.streams.values())

    def ours() -> list[Tensor]:
        tables = rope_table(layout, spec, device=device)
        return [t for s in ("mv", "uv") for t in (tables[s].cos, tables[s].sin)]

    def released() -> list[Tensor]:
        parts = [phases(layout, name, spec, device)[:, 0] for name in ("views", "texture")]
        return [t for part in parts for t in (part.real, part.imag)]

    return Case(
        benchmark="rope",
        name=f"table, {tokens} rows",
        dtype=torch.float32,
        candidates=[
            Candidate(name="rope_table", call=ours, notes=("once per object",)),
            Candidate(name="complex128", call=released, notes=("once per forward",)),
        ],
        work=Work(bytes=float(tokens * HEAD_DIM * 4), bytes_formula="fp32 table written once"),
        parameters={"tokens": tokens, "head_dim": HEAD_DIM},
        expected=released,
        reference="complex128 tables",
    )


def _apply_case(
    layout: TokenLayout, session: Session, dtype: torch.dtype, pairing: Pairing
) -> Case:
    heads, device = _heads(session), session.device
    table = rope_table(layout, _spec(pairing), device=device)["mv"]
    tokens = table.num_rows
    generator = session.generator()
    x = session.randn(1, tokens, heads, HEAD_DIM, dtype=dtype, generator=generator)
    candidates = [
        Candidate(name="apply_rope", call=lambda: apply_rope(x, table)),
        Candidate(name="real arithmetic", call=lambda: _rotate_real(x, table)),
    ]
    if pairing == "interleaved":
        phase = phases(layout, "views", _spec(), device)
        candidates.append(Candidate(name="complex128", call=lambda: rotate_complex128(x, phase)))
    inner = heads * HEAD_DIM
    return Case(
        benchmark="rope",
        name=f"apply {pairing}, {tokens} rows",
        dtype=dtype,
        candidates=candidates,
        work=Work(
            bytes=float(rope_bytes(1, tokens, inner, HEAD_DIM, itemsize=dtype.itemsize)),
            bytes_formula="rope_bytes",
        ),
        parameters={"tokens": tokens, "heads": heads, "head_dim": HEAD_DIM, "pairing": pairing},
        expected=lambda: apply_rope_reference(x.double(), table),
        reference="apply_rope_reference in fp64",
        plain="real arithmetic",
    )


def _prep_case(layout: TokenLayout, session: Session, dtype: torch.dtype) -> Case:
    """Queries or keys of the views, from projection to attention, geometry already rotated."""
    heads, device = _heads(session), session.device
    table = rope_table(layout, _spec(), device=device)["mv"]
    tokens, inner = table.num_rows, heads * HEAD_DIM
    generator = session.generator()
    x = session.randn(1, tokens, inner, dtype=dtype, generator=generator)
    geometry = session.randn(1, tokens, heads, HEAD_DIM, dtype=dtype, generator=generator)
    weight = 1 + 0.1 * session.randn(inner, dtype=dtype, generator=generator)
    norm = QKNorm(weight=weight, eps=1e-6)
    wide = QKNorm(weight=weight.double(), eps=1e-6)
    phase = phases(layout, "views", _spec(), device)

    def run_with(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: function(x, norm, num_heads=heads, rope=table, geometry=geometry)

    def released() -> Tensor:
        rows = rms_norm_eager(x, weight, 1e-6).unflatten(-1, (heads, -1))
        return rotate_complex128(rows, phase) + geometry

    return Case(
        benchmark="rope",
        name=f"norm + rope + geometry, {tokens} rows",
        dtype=dtype,
        candidates=[
            Candidate(name="qk_prep", call=run_with(qk_prep)),
            Candidate(name="released bookkeeping", call=released),
        ],
        work=Work(
            bytes=float(qk_prep_bytes(1, tokens, inner, HEAD_DIM, itemsize=dtype.itemsize)),
            bytes_formula="qk_prep_bytes",
        ),
        parameters={"tokens": tokens, "heads": heads, "head_dim": HEAD_DIM},
        expected=lambda: qk_prep_reference(
            x.double(), wide, num_heads=heads, rope=table, geometry=geometry.double()
        ),
        reference="qk_prep_reference in fp64",
        plain="released bookkeeping",
    )


def _rotate_real(x: Tensor, table: Rope) -> Tensor:
    """The rotation as plain torch: real arithmetic in fp32, several passes."""
    wide, cos, sin = x.float(), table.cos[:, None], table.sin[:, None]
    if table.pairing == "half":
        a, b = wide.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)
    a, b = wide[..., 0::2], wide[..., 1::2]
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
