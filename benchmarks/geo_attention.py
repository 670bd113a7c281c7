"""``geo_attention``: what the library adds to an attention kernel, and geometry to attention.

The call over the bare kernel; norm, rotation and geometry of queries and keys alone; attention with
and without them; the layer with its projections, with and without them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from seqtex_core.attention import (
    Attend,
    AttendBase,
    AttentionInputs,
    SdpaAttend,
    choose_attention,
)
from seqtex_core.attention.geo_attention import GeoAttention, GeoAttentionConfig, Placement
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.query_key import QKNorm, qk_prep, qk_prep_reference, split_heads
from seqtex_core.rope import Rope, RopeSpec, rope_table, wan_axis_dims

from .accuracy import FACTOR
from .attention import exact_attention
from .formulas import attention_bytes, attention_flop, qk_prep_bytes
from .result import Row, Work
from .runner import Candidate, Case, Session, run_cases

HEAD_DIM = 128
EPS = 1e-6
BARE, CALL = "bare kernel", "library's call"
WITHOUT, WITH, PREP = "attention alone", "Geo-Attention", "norm, rotation, geometry alone"
COPY, BOTH = "copy of as many bytes", "queries and keys"
LAYER_WITHOUT, LAYER_WITH = "layer without them", "Geo-Attention layer"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Queries, keys and values as projections give them, and what is done to them.

    Args:
        q: ``[1, Lq, N * D]``.
        k: ``[1, Lk, N * D]``.
        v: likewise.
        heads: N.
        rope: tables of queries and keys.
        geometry: of queries and keys, ``[1, L, N, D]``.
        weight: of the norm, ``[N * D]``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    rope: tuple[Rope, Rope]
    geometry: tuple[Tensor, Tensor]
    weight: Tensor

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values in heads, nothing done to them."""
        q, k, v = (split_heads(x, self.heads) for x in (self.q, self.k, self.v))
        return q, k, v

    def prepared(self) -> tuple[Tensor, Tensor]:
        """Queries and keys, normed, rotated, with geometry."""
        return self._prepared(qk_prep, wide=False)

    def exactly(self) -> tuple[Tensor, Tensor]:
        """The same by the definition, in fp64."""
        return self._prepared(qk_prep_reference, wide=True)

    def _prepared(self, prepare: Callable[..., Tensor], *, wide: bool) -> tuple[Tensor, Tensor]:
        def kind(x: Tensor) -> Tensor:
            return x.double() if wide else x

        norm = QKNorm(weight=kind(self.weight), eps=EPS)
        q, k = (
            prepare(kind(x), norm, num_heads=self.heads, rope=rope, geometry=kind(geometry))
            for x, rope, geometry in zip((self.q, self.k), self.rope, self.geometry, strict=True)
        )
        return q, k


def run(session: Session) -> list[Row]:
    """Rows of both branches' shapes; times over those of the first of each pair as metrics."""
    rows = run_cases(_cases(session), session)
    found = with_ratios(rows)
    for row in found:
        if "over" in row.metrics:
            session.say(
                f"{row.benchmark:10} {row.case:36} {row.implementation:32} "
                f"{row.metrics['over']:.4f} of {row.metrics['over_what']}"
            )
    return found


PAIRS = {CALL: BARE, WITH: WITHOUT, PREP: WITHOUT, LAYER_WITH: LAYER_WITHOUT}
"""What an implementation is compared with."""


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows with the median time over that of what they are compared with, see ``PAIRS``."""
    times = {(row.case, row.implementation): row.time for row in rows}
    made = []
    for row in rows:
        other = PAIRS.get(row.implementation)
        base = None if other is None else times.get((row.case, other))
        if row.time is not None and base is not None and other is not None:
            row = row.with_metrics(over=row.time.median_s / base.median_s, over_what=other)
        made.append(row)
    return made


def bare_kernel(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Tensor]:
    """The kernel that ``attend`` would run, without the library around it.

    Args:
        attend: the library's implementation.
        q: ``[B, Lq, N, D]``.
        k: keys.
        v: values.
    """
    scale = q.shape[3] ** -0.5
    if isinstance(attend, SdpaAttend) and attend.kernel is None:
        a, b, c = (x.transpose(1, 2) for x in (q, k, v))
        return lambda: functional.scaled_dot_product_attention(a, b, c, scale=scale)
    assert isinstance(attend, AttendBase), "auto chooses built-in ones"
    return lambda: attend.attend(q, k, v, None, scale)


def _cases(session: Session) -> Iterator[Case]:
    side = 8 if session.quick and not session.on_cuda else 32
    heads = 12 if session.on_cuda or not session.quick else 4
    for dtype in [torch.bfloat16] if session.on_cuda else [torch.float32]:
        for stream in ("mv", "uv"):
            rows = _rows(stream, side, heads, session, dtype)
            yield _call_case(stream, rows, dtype)
            yield _geometry_case(stream, rows, dtype)
        yield _layer_case(side, heads, session, dtype)


def _rows(stream: str, side: int, heads: int, session: Session, dtype: torch.dtype) -> Rows:
    """Rows of a branch: views over views, or the texture over views and texture."""
    tables = _tables(side, session.device)
    asked = tables["mv"] if stream == "mv" else Rope.cat([tables["mv"], tables["uv"]])
    asking, inner = tables[stream], heads * HEAD_DIM
    generator = session.generator()

    def drawn(*shape: int) -> Tensor:
        return session.randn(*shape, dtype=dtype, generator=generator)

    return Rows(
        q=drawn(1, asking.num_rows, inner),
        k=drawn(1, asked.num_rows, inner),
        v=drawn(1, asked.num_rows, inner),
        heads=heads,
        rope=(asking, asked),
        geometry=(
            drawn(1, asking.num_rows, heads, HEAD_DIM),
            drawn(1, asked.num_rows, heads, HEAD_DIM),
        ),
        weight=1 + 0.1 * drawn(inner),
    )


def _tables(side: int, device: torch.device) -> dict[str, Rope]:
    groups = [
        FrameGroup(name="views", stream="mv", grid=Grid(frames=4, height=side, width=side)),
        FrameGroup(
            name="texture", stream="uv", grid=Grid(frames=1, height=2 * side, width=2 * side)
        ),
    ]
    spec = RopeSpec(axis_dims=wan_axis_dims(HEAD_DIM))
    tables = rope_table(TokenLayout.of(groups), spec, device=device)
    return {"mv": tables["mv"], "uv": tables["uv"]}


def _name(stream: str, rows: Rows) -> str:
    return f"{stream} {rows.q.shape[1]}x{rows.k.shape[1]}"


def _parameters(rows: Rows) -> dict[str, int]:
    return {
        "queries": rows.q.shape[1],
        "keys": rows.k.shape[1],
        "heads": rows.heads,
        "head_dim": HEAD_DIM,
    }


def _work(rows: Rows, dtype: torch.dtype) -> Work:
    sizes = (1, rows.q.shape[1], rows.k.shape[1], rows.heads * HEAD_DIM)
    return Work(
        flop=float(attention_flop(*sizes)),
        flop_formula="attention_flop, forward",
        bytes=float(attention_bytes(*sizes, itemsize=dtype.itemsize)),
        bytes_formula="attention_bytes",
    )


def _call_case(stream: str, rows: Rows, dtype: torch.dtype) -> Case:
    """The library's call over the kernel that it runs, on rows that are prepared."""
    q, k, v = *rows.prepared(), rows.split()[2]
    auto = choose_attention()
    chosen = choose_attention("auto", AttentionInputs.of(q, k, v))
    bare = bare_kernel(chosen, q, k, v)
    heads_first = isinstance(chosen, SdpaAttend) and chosen.kernel is None

    def wanted() -> Tensor:
        exact = exact_attention((q, k, v), q, backward=False)[0]
        return exact.transpose(1, 2) if heads_first else exact

    return Case(
        benchmark="geo_attention",
        name=f"call, {_name(stream, rows)}",
        dtype=dtype,
        candidates=[
            Candidate(name=BARE, call=bare, expected=wanted, notes=(f"that of {chosen.name}",)),
            Candidate(name=CALL, call=lambda: auto(q, k, v)),
        ],
        work=_work(rows, dtype),
        parameters={**_parameters(rows), "auto": chosen.name},
        expected=lambda: exact_attention((q, k, v), q, backward=False),
        reference="attention_reference in fp64, head by head",
        plain=BARE,
    )


def _geometry_case(stream: str, rows: Rows, dtype: torch.dtype) -> Case:
    """Attention of projected rows with and without norm, rotation and geometry; these alone."""
    attend = choose_attention()
    length = rows.q.shape[1] + rows.k.shape[1]
    prep = qk_prep_bytes(1, length, rows.heads * HEAD_DIM, HEAD_DIM, itemsize=dtype.itemsize)
    source = rows.q.new_ones(prep // (2 * dtype.itemsize))
    target = torch.zeros_like(source)

    def exact(q: Tensor, k: Tensor) -> list[Tensor]:
        return exact_attention((q, k, rows.split()[2]), rows.split()[0], backward=False)

    return Case(
        benchmark="geo_attention",
        name=f"projected rows, {_name(stream, rows)}",
        dtype=dtype,
        candidates=[
            Candidate(
                name=WITHOUT,
                call=lambda: attend(*rows.split()),
                expected=lambda: exact(*rows.split()[:2]),
            ),
            Candidate(
                name=WITH,
                call=lambda: attend(*rows.prepared(), rows.split()[2]),
                factor=2 * FACTOR,  # geometry makes scores twice as large
            ),
            Candidate(
                name=PREP,
                call=rows.prepared,
                expected=rows.exactly,
                work=Work(bytes=float(prep), bytes_formula=f"qk_prep_bytes, {BOTH}"),
            ),
            Candidate(
                name=COPY,
                call=lambda: target.copy_(source),
                expected=source.double,
                work=Work(bytes=float(2 * source.nbytes), bytes_formula="read and written once"),
                notes=("as many bytes in one launch: what a copy of this size reaches",),
            ),
        ],
        work=_work(rows, dtype),
        parameters=_parameters(rows),
        expected=lambda: exact(*rows.exactly()),
        reference="the definitions in fp64",
    )


def _layer_case(side: int, heads: int, session: Session, dtype: torch.dtype) -> Case:
    """The module, projections included, on the rows of the views."""
    rope, dim = _tables(side, session.device)["mv"], heads * HEAD_DIM
    generator = session.generator()
    x = session.randn(1, rope.num_rows, dim, dtype=dtype, generator=generator)
    geometry = session.randn(1, rope.num_rows, heads, HEAD_DIM, dtype=dtype, generator=generator)
    plain = GeoAttentionConfig(dim=dim, num_heads=heads, qk_norm=None)
    made = {}
    for name, config in ((LAYER_WITHOUT, plain), (LAYER_WITH, replace(plain, qk_norm="rms"))):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(session.seed)
            layer = GeoAttention(config).to(device=session.device, dtype=dtype)
        made[name] = layer.requires_grad_(False)

    def runs(name: str, *, exact: bool = False) -> Callable[[], Tensor]:
        layer, placed = made[name], name == LAYER_WITH
        if exact:
            layer = copy.deepcopy(layer).double()
            layer.attend = choose_attention("sdpa")

        def call() -> Tensor:
            cast = geometry.double() if exact else geometry
            where = Placement(rope=rope, geometry=cast) if placed else Placement()
            out: Tensor = layer(x.double() if exact else x, placement=where)
            return out

        return call

    flop = attention_flop(1, rope.num_rows, rope.num_rows, dim) + 8 * rope.num_rows * dim * dim
    return Case(
        benchmark="geo_attention",
        name=f"layer, mv {rope.num_rows}x{rope.num_rows}",
        dtype=dtype,
        candidates=[
            Candidate(name=name, call=runs(name), expected=runs(name, exact=True)) for name in made
        ],
        work=Work(flop=float(flop), flop_formula="attention_flop, + four projections"),
        parameters={"tokens": rope.num_rows, "heads": heads, "head_dim": HEAD_DIM},
        reference="the same layer in fp64",
    )
