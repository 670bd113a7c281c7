"""``parallel``: what each of 2, 4 and 8 devices would compute and send, and the time that allows.

FLOP and bytes are counted from the library's own code on the meta device, one process after the
other, in a process group that moves nothing. Times are a projection from these counts and the
pieces below; on CUDA the rate of one device is measured, on a CPU nothing is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed

from seqtex_core.errors import UsageError
from seqtex_core.parallel import ParallelTrunk, Spread, parallel_mesh

from .counting import CountedAttend, count
from .counts import META
from .formulas import layer_flop, layer_work
from .layer import model_call
from .models import ModelSize, build_model, build_scene
from .result import Row, Scalar
from .runner import Session, describe
from .step import step_work
from .timing import time_interleaved

LAYERS = 30
OVERLAPPED = "to the uv branch"


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """What a projection is made of.

    Args:
        flop_per_s: useful FLOP per second of one device, all else hidden in it; by default 951
            TFLOP in the 1.75 s that 30 steps on one H100 should take.
        link_bytes_per_s: into one device; by default 0.8 of NVLink 4's 450 GB/s per direction.
        latency_s: of one collective operation.
        measured: the rate is that of a full-size layer, measured just now.
    """

    flop_per_s: float = 543e12
    link_bytes_per_s: float = 360e9
    latency_s: float = 20e-6
    measured: bool = False

    def layer_s(self, share: Share) -> float:
        """Time of a layer for one process."""
        waited = sum(n for kind, n in share.received.items() if kind != OVERLAPPED)
        exchanges = waited / self.link_bytes_per_s + share.collectives * self.latency_s
        return share.flop / self.flop_per_s + exchanges

    @property
    def notes(self) -> tuple[str, str]:
        """What is assumed, in words."""
        origin = "as measured on this device" if self.measured else "as the goal for an H100 says"
        return (
            f"projected, not measured: {self.flop_per_s / 1e12:.0f} useful TFLOP/s per device, "
            f"{origin}, whatever the piece, {self.link_bytes_per_s / 1e9:.0f} GB/s into each, "
            f"{self.latency_s * 1e6:.0f} us per collective",
            "exchanges inside a branch wait for each other and for the computation; what mv "
            "processes send to uv processes is hidden behind it",
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many devices, and who does what.

    Args:
        branches: 2 with each branch on devices of its own.
        sequence: devices that share the rows of a branch.
        way: how rows reach each other.
    """

    branches: int = 1
    sequence: int = 1
    way: Spread = "gather"

    @property
    def devices(self) -> int:
        """All of them."""
        return self.branches * self.sequence

    @property
    def name(self) -> str:
        """For rows."""
        spread = f" x {self.sequence} ({self.way})" if self.sequence > 1 else ""
        return f"{'branches apart' if self.branches == 2 else 'both branches'}{spread}"


PLANS = (
    Plan(),
    Plan(branches=2),
    *(Plan(sequence=2, way=way) for way in ("gather", "ulysses")),
    *(Plan(branches=2, sequence=2, way=way) for way in ("gather", "ulysses")),
    *(Plan(sequence=4, way=way) for way in ("gather", "ulysses")),
    *(Plan(branches=2, sequence=4, way=way) for way in ("gather", "ulysses")),
    *(Plan(sequence=8, way=way) for way in ("gather", "ulysses")),
)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process does.

    Args:
        flop: of one layer.
        received: bytes of one layer by kind of exchange.
        collectives: exchanges of one layer that are waited for.
        once: bytes received once per step, outside the layers.
    """

    flop: int
    received: Counter[str]
    collectives: int
    once: int


def run(session: Session) -> list[Row]:
    """One row per plan."""
    pieces = measured_pieces(ModelSize(), session) if session.on_cuda else Pieces()
    rows = list(plan_rows(PLANS, ModelSize(), pieces))
    for row in rows:
        session.say(f"{describe(row)}{_summary(row)}")
    return rows


def measured_pieces(size: ModelSize, session: Session) -> Pieces:
    """The rate at which one device computes a layer now; links are assumed.

    Args:
        size: of the model; one layer.
        session: has the device.
    """
    model = build_model(size, device=session.device, dtype=torch.bfloat16, seed=session.seed)
    scene = build_scene(size, model, device=session.device, dtype=torch.bfloat16)
    calls = {"layer": model_call(model, scene)}
    seconds = time_interleaved(calls, session.device, session.budget)["layer"].median_s
    flop = step_work(size, itemsize=2).flop
    assert flop is not None
    return Pieces(flop_per_s=flop / seconds, measured=True)


def plan_rows(
    plans: Sequence[Plan], size: ModelSize, pieces: Pieces | None = None
) -> Iterator[Row]:
    """Rows of the plans; "wrong" where the processes together do not do the work of a layer.

    Args:
        plans: how many devices, and who does what.
        size: of the model.
        pieces: what times are projected from.
    """
    pieces = pieces or Pieces()
    total = sum(layer_flop(size.layer).values())
    for plan in plans:
        row = Row(
            benchmark="parallel",
            case=f"{plan.devices} device{'s' * (plan.devices > 1)}, one layer of full size",
            implementation=plan.name,
            dtype="bfloat16",
            parameters=size.parameters() | {"layers": LAYERS, "devices": plan.devices},
            work=layer_work(size.layer),
            notes=pieces.notes,
        )
        try:
            shares = [count_share(plan, branch, size) for branch in range(plan.branches)]
        except UsageError as error:
            yield replace(row, status="unsupported", reason=str(error))
            continue
        done = plan.sequence * sum(share.flop for share in shares)
        if done != total:
            row = replace(row, status="wrong", reason=f"{done} FLOP in all, formula {total}")
        yield row.with_metrics(**_projection(plan, shares, total, pieces))


def count_share(plan: Plan, branch: int, size: ModelSize) -> Share:
    """What the first process of a branch does: the difference of two layers and one.

    Raises:
        UsageError: a plan that the model does not allow.
    """
    one, two = (_counted(plan, branch, replace(size, layers=layers)) for layers in (1, 2))
    received = Counter(two[1])
    received.subtract(one[1])
    return Share(
        flop=two[0] - one[0],
        received=+received,
        collectives=two[2] - one[2],
        once=one[1].total() - received.total(),
    )


def _counted(plan: Plan, branch: int, size: ModelSize) -> tuple[int, Counter[str], int]:
    """FLOP, received bytes and collectives of one step of one process."""
    model = build_model(size, device=META, dtype=torch.bfloat16, attention=CountedAttend())
    scene = build_scene(size, model, device=META, dtype=torch.bfloat16)
    cache = scene.prepare(model)
    with _processes(plan.devices, branch * plan.sequence), _Exchanges() as seen:
        if plan.devices > 1:
            mesh = parallel_mesh("cpu", branches=plan.branches, sequence=plan.sequence)
            model.trunk = ParallelTrunk(mesh, sequence=plan.way)

        def step() -> object:
            return model(scene.latents, scene.sigmas, cache)

        with torch.no_grad():
            step()
        seen.received.clear()
        seen.collectives = 0
        flop = count(step).total_flop
    return flop, seen.received, seen.collectives


@contextmanager
def _processes(count: int, rank: int) -> Iterator[None]:
    """A process group of which only this process exists; nothing is moved in it."""
    if count == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


class _Exchanges(ExitStack):
    """Counts what torch's exchanges would bring to this process, in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.received: Counter[str] = Counter()
        self.collectives = 0

    def __enter__(self) -> _Exchanges:
        for name in ("isend", "irecv", "broadcast", "all_to_all_single"):
            self.enter_context(patch.object(distributed, name, getattr(self, f"_{name}")))
        gather = "seqtex_core.parallel.spread_attention._all_gather"
        self.enter_context(patch(gather, self._all_gather))
        return self

    def _add(self, kind: str, size: int, share: float = 1.0) -> None:
        self.received[kind] += round(size * share)
        self.collectives += kind != OVERLAPPED

    def _isend(self, x: Tensor, *_: Any, **__: Any) -> None:
        del x

    def _irecv(self, x: Tensor, *_: Any, **__: Any) -> None:
        self._add(OVERLAPPED, x.nbytes)

    def _broadcast(self, x: Tensor, *, src: int, **_: Any) -> None:
        self._add("broadcast", x.nbytes, float(src != distributed.get_rank()))

    def _all_gather(self, out: Tensor, x: Tensor, **_: Any) -> None:
        self._add("gather", out.nbytes - x.nbytes)

    def _all_to_all_single(
        self, out: Tensor, x: Tensor, received: list[int], sent: list[int], **_: Any
    ) -> None:
        del x, sent
        self._add("all-to-all", out.nbytes, 1 - 1 / len(received))


def _projection(
    plan: Plan, shares: Sequence[Share], total: int, pieces: Pieces
) -> dict[str, Scalar]:
    """Times under the assumptions, beside what was counted."""
    slowest = max(map(pieces.layer_s, shares))
    fill = pieces.layer_s(shares[0]) if plan.branches == 2 else 0.0
    once = max(share.once for share in shares) / pieces.link_bytes_per_s
    step = fill + LAYERS * slowest + once
    alone = LAYERS * total / pieces.flop_per_s
    busiest = max(share.flop for share in shares)
    return {
        "devices": plan.devices,
        "gflop of the busiest": busiest / 1e9,
        "bound": total / busiest,
        "received_mb": max(share.received.total() for share in shares) / 1e6,
        "received_mb_waited_for": max(
            sum(n for kind, n in share.received.items() if kind != OVERLAPPED) for share in shares
        )
        / 1e6,
        "projected_step_ms": step * 1e3,
        "projected_speedup": alone / step,
    }


def _summary(row: Row) -> str:
    if row.status == "unsupported":
        return ""
    m = row.metrics
    return (
        f"bound {m['bound']:.2f}x, projected {m['projected_speedup']:.2f}x, "
        f"{m['received_mb']:.1f} MB a layer"
    )
