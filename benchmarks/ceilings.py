"""What the machine can do at best: matrix products, copies, launches; measured, not looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .result import Rate, Scalar, Timing, Work
from .timing import FULL, QUICK, Budget, time_interleaved

GEMM_SHAPES: Mapping[str, Sequence[tuple[int, int, int]]] = {
    "cpu": ((1024, 1024, 1024), (2048, 1536, 1536)),
    "cuda": ((8192, 8192, 8192), (8192, 1536, 8960), (8192, 8960, 1536)),
}
COPY_BYTES = {"cpu": 512 << 20, "cuda": 2 << 30}
LAUNCHES = 200


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One ceiling as it was measured.

    Args:
        kind: "gemm", "copy" or "launch".
        dtype: of the operands, without "torch.".
        parameters: sizes.
        work: FLOP and bytes of one call.
        time: of one call.
    """

    kind: str
    dtype: str
    parameters: Mapping[str, Scalar]
    work: Work
    time: Timing


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The limits that rows are compared with.

    Args:
        gemm_flop_per_s: the best median rate of all shapes, by dtype; "tf32" on CUDA too.
        copy_bytes_per_s: bytes read plus bytes written.
        launch_s: time of one operator on one element, in a row of many.
        measured: the measurements behind them.
    """

    gemm_flop_per_s: Mapping[str, float]
    copy_bytes_per_s: float
    launch_s: float
    measured: tuple[Measured, ...]

    def rate(self, work: Work, timing: Timing, dtype: str) -> Rate:
        """How near a time is to the nearer of the two limits, arithmetic and traffic.

        Args:
            work: of one call; at least one of FLOP and bytes.
            timing: of one call.
            dtype: which matrix rate bounds the FLOP; fp32 where that dtype was not measured.

        Raises:
            ValueError: neither FLOP nor bytes.
        """
        limits: dict[str, float] = {}
        if work.flop:
            kind = dtype if dtype in self.gemm_flop_per_s else "float32"
            limits[f"gemm {kind}"] = work.flop / self.gemm_flop_per_s[kind]
        if work.bytes:
            limits["copy"] = work.bytes / self.copy_bytes_per_s
        if not limits:
            raise ValueError("a rate needs FLOP or bytes")
        limit = max(limits, key=lambda name: limits[name])
        median = timing.median_s
        return Rate(
            flop_per_s=None if work.flop is None else work.flop / median,
            bytes_per_s=None if work.bytes is None else work.bytes / median,
            limit=limit,
            limit_s=limits[limit],
            achieved_over_limit=limits[limit] / median,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, without the measurements."""
        record = asdict(self)
        del record["measured"]
        return record


def measure_ceilings(
    device: torch.device, dtypes: Sequence[torch.dtype], *, quick: bool
) -> Ceilings:
    """Matrix, copy and launch limits of a device, now.

    Args:
        device: which.
        dtypes: whose matrix rate is wanted; fp32 is always measured.
        quick: fewer repetitions.
    """
    budget = QUICK if quick else FULL
    wanted = list(dict.fromkeys([torch.float32, *dtypes]))
    measured = [
        _gemm(device, dtype, shape, budget)
        for dtype in wanted
        for shape in GEMM_SHAPES[device.type]
    ]
    if device.type == "cuda":
        measured += [_tf32(device, shape, budget) for shape in GEMM_SHAPES["cuda"]]
    copy, launch = _copy(device, budget), _launch(device, budget)
    rates: dict[str, float] = {}
    for entry in measured:
        assert entry.work.flop is not None
        rate = entry.work.flop / entry.time.median_s
        rates[entry.dtype] = max(rate, rates.get(entry.dtype, 0.0))
    assert copy.work.bytes is not None
    return Ceilings(
        gemm_flop_per_s=rates,
        copy_bytes_per_s=copy.work.bytes / copy.time.median_s,
        launch_s=launch.time.median_s / LAUNCHES,
        measured=(*measured, copy, launch),
    )


def drift(start: Ceilings, end: Ceilings) -> dict[str, Scalar]:
    """End over start of every limit; 1 is none, below 1 the machine became slower."""
    record: dict[str, Scalar] = {
        f"gemm {name}": end.gemm_flop_per_s[name] / rate
        for name, rate in start.gemm_flop_per_s.items()
        if name in end.gemm_flop_per_s
    }
    record["copy"] = end.copy_bytes_per_s / start.copy_bytes_per_s
    record["launch"] = start.launch_s / end.launch_s
    return record


def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _gemm(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], budget: Budget
) -> Measured:
    m, k, n = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(m, k, generator=generator).to(device=device, dtype=dtype)
    b = torch.randn(k, n, generator=generator).to(device=device, dtype=dtype)
    out = torch.empty(m, n, device=device, dtype=dtype)
    timing = time_interleaved({"mm": lambda: torch.mm(a, b, out=out)}, device, budget)["mm"]
    return Measured(
        kind="gemm",
        dtype=dtype_name(dtype),
        parameters={"m": m, "k": k, "n": n},
        work=Work(
            flop=2.0 * m * k * n,
            flop_formula="2 m k n",
            bytes=float((m * k + k * n + m * n) * dtype.itemsize),
            bytes_formula="operands and result once",
        ),
        time=timing,
    )


def _tf32(device: torch.device, shape: tuple[int, int, int], budget: Budget) -> Measured:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = _gemm(device, torch.float32, shape, budget)
    finally:
        torch.set_float32_matmul_precision(before)
    return Measured(
        kind=found.kind,
        dtype="tf32",
        parameters=found.parameters,
        work=found.work,
        time=found.time,
    )


def _copy(device: torch.device, budget: Budget) -> Measured:
    size = COPY_BYTES[device.type]
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.zeros_like(source)
    timing = time_interleaved({"copy": lambda: target.copy_(source)}, device, budget)["copy"]
    return Measured(
        kind="copy",
        dtype="int8",
        parameters={"bytes": size},
        work=Work(bytes=2.0 * size, bytes_formula="read and written once"),
        time=timing,
    )


def _launch(device: torch.device, budget: Budget) -> Measured:
    x = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(LAUNCHES):
            x.add_(1.0)

    return Measured(
        kind="launch",
        dtype="float32",
        parameters={"launches": LAUNCHES},
        work=Work(),
        time=time_interleaved({"launch": many}, device, budget)["launch"],
    )
