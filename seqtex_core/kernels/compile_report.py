"""What the Triton kernels become on a GPU that need not be there: registers, spills, access widths.

``python -m seqtex_core.kernels.compile_report 90 "Wan2.1 14B"`` prints a table, for the named
architectures and models or for all, and then the widest; it needs Triton, no GPU. With ``tuned``
among the words it has all that a kernel may be tuned to, not the default alone. The kernels are
those of inputs whose rows begin at multiples of 16 bytes, in bf16.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .triton_launch import power_of_two
from .tuning import Config, backward_configs, forward_configs

TUNED = "tuned"
ARCHITECTURES = (80, 90, 100)
"""A100, H100, B200."""
MEMORY_TB_S = {80: 2.039, 90: 3.35, 100: 8.0}
MULTIPROCESSORS = {80: 108, 90: 132, 100: 148}
"""Of the SXM cards with these chips (of the A100 that with 80 GB), by their data sheets."""
ASSUMED_LATENCY_NS = 600
"""From asking memory that is busy to having: an assumption, the same for all; no GPU was asked."""


@dataclass(frozen=True, kw_only=True)
class KernelCase:
    """A kernel at the size of a model, in bf16.

    Args:
        name: of the model and of what is computed.
        kernel: name of the function.
        constants: compile-time constants.
        row: elements of a padded row.
        config: what a program takes; ``None`` for the default.
    """

    name: str
    kernel: str
    constants: dict[str, Any]
    row: int
    config: Config | None = None

    @property
    def configs(self) -> tuple[Config, ...]:
        """All that it may be tuned to; the default first."""
        if self.direction == "forward":
            return forward_configs(self.row)
        of_norm = 2 * self.constants.get("NORM_SUMS", 0)
        ones = ("WEIGHT_SUM", "BIAS_SUM", "GATE_SUM")
        return backward_configs(self.row, of_norm + sum(self.constants.get(n, 0) for n in ones))

    @property
    def width(self) -> int:
        """Channels of a row without what pads it."""
        own = self.constants
        return int(own["C"] if "C" in own else own["N"] * own["D"])

    def tuned(self) -> Iterator[KernelCase]:
        """The same with each of its configs."""
        for config in self.configs:
            yield replace(self, name=f"{self.name}, {config}", config=config)

    @property
    def direction(self) -> str:
        """Either "forward" or "backward"."""
        return self.kernel.rpartition("_")[2]


@dataclass(frozen=True, kw_only=True)
class KernelReport:
    """What was compiled.

    Args:
        case: name of the case.
        direction: "forward" or "backward".
        architecture: compute capability times ten.
        width: channels of a row.
        warps: of a program.
        registers: per thread.
        stack: bytes per thread; spills would lie here.
        loads: bits of every load instruction from global memory.
        stores: likewise of rows; not of the two numbers of a row that training keeps.
    """

    case: str
    direction: str
    architecture: int
    width: int
    warps: int
    registers: int
    stack: int
    loads: tuple[int, ...]
    stores: tuple[int, ...]

    @property
    def in_flight(self) -> float:
        """Bytes asked for at once, over those that keep the memory busy by Little's law.

        What a multiprocessor asks for is two bf16 rows of every program (backward reads as many
        before its threads wait) that 65536 registers, given in eights, and 2048 threads have room
        for; what it must, its share of the bandwidth times the latency. 1 is no promise: a third
        of the traffic is written and needs nothing in flight, but a program also computes.
        """
        threads = 32 * self.warps
        programs = min(65536 // (-(-self.registers // 8) * 8 * threads), 2048 // threads)
        share = MEMORY_TB_S[self.architecture] * 1e12 / MULTIPROCESSORS[self.architecture]
        return programs * 2 * 2 * self.width / (share * ASSUMED_LATENCY_NS * 1e-9)


@dataclass(frozen=True, kw_only=True)
class ModelKernels:
    """What the kernels of a model depend on.

    Args:
        name: of the model.
        heads: of its attention.
        head_dim: of each.
        norm: of queries and keys: RMSNorm over all heads, or RMSNorm or LayerNorm over each.
        rope: whether the angles are those of a token, of every head, or there are none.
        pairing: of RoPE.
        centred: the norm of its rows is LayerNorm, not RMSNorm.
        text_width: of text rows that a stream of their own has, 0 without.
    """

    name: str
    heads: int
    head_dim: int
    norm: Literal["rms inner", "rms head", "layer head"] = "rms inner"
    rope: Literal["token", "head"] | None = "token"
    pairing: Literal["interleaved", "half"] = "interleaved"
    centred: bool = True
    text_width: int = 0


WAN = ModelKernels(name="Wan2.1 1.3B", heads=12, head_dim=128)
LARGEST = ModelKernels(name="Wan2.1 14B", heads=40, head_dim=128)
MODELS = (
    WAN,
    replace(WAN, name="Wan2.1 1.3B, half pairing", pairing="half"),
    LARGEST,
    replace(LARGEST, name="Wan2.1 14B, half pairing", pairing="half"),
    ModelKernels(name="Wan2.2 5B", heads=24, head_dim=128),
    ModelKernels(name="CogVideoX 2B", heads=30, head_dim=64, norm="layer head", rope=None),
    ModelKernels(name="CogVideoX 5B", heads=48, head_dim=64, norm="layer head"),
    ModelKernels(name="HunyuanVideo", heads=24, head_dim=128, norm="rms head"),
    ModelKernels(
        name="Mochi", heads=24, head_dim=128, norm="rms head", rope="head", centred=False,
        text_width=1536,
    ),
    ModelKernels(name="LTX-Video 2B", heads=32, head_dim=64, rope="head", centred=False),
    ModelKernels(name="LTX-Video 13B", heads=32, head_dim=128, rope="head", centred=False),
    ModelKernels(name="Cosmos 2B", heads=16, head_dim=128, norm="rms head", pairing="half"),
    ModelKernels(name="Cosmos 7B", heads=32, head_dim=128, norm="rms head", pairing="half"),
    ModelKernels(name="Cosmos 14B", heads=40, head_dim=128, norm="rms head", pairing="half"),
)  # fmt: skip
"""Full sizes of all families; the other pairing, too, at the smallest and at the widest."""


def cases(models: Sequence[ModelKernels] = MODELS, *, tuned: bool = False) -> Iterator[KernelCase]:
    """Kernels of models, forward and backward, in both geometry orders; equal ones once.

    Args:
        models: whose.
        tuned: with every config that they may be tuned to, not the default alone.
    """
    known: set[tuple[str, tuple[tuple[str, Any], ...]]] = set()
    for model in models:
        for case in (*_prepare_cases(model), *_residual_cases(model)):
            key = (case.kernel, tuple(sorted(case.constants.items())))
            if key not in known:
                known.add(key)
                yield from case.tuned() if tuned else (case,)


def _prepare_cases(model: ModelKernels) -> Iterator[KernelCase]:
    padded = power_of_two(model.heads)
    kind, scope = model.norm.split()
    constants = {
        "N": model.heads,
        "D": model.head_dim,
        "BN": padded,
        "NORM": True,
        "WEIGHT": True,
        "LAYER": kind == "layer",
        "NORM_PER_HEAD": scope == "head",
        "ROPE": model.rope is not None,
        "ROPE_PER_HEAD": model.rope == "head",
        "HALF": model.pairing == "half",
    }
    row = padded * model.head_dim
    for order in ("", ", geometry first"):
        name, first = f"{model.name}: qk_prep{order}", bool(order)
        forward = {"BIAS": kind == "layer", "GEOMETRY": True, "GEOMETRY_FIRST": first}
        yield KernelCase(
            name=name, kernel="prepare_forward", constants=constants | forward, row=row
        )
        back = {"TURNED_GEOMETRY": first, "WEIGHT_SUM": True, "BIAS_SUM": kind == "layer"}
        yield KernelCase(name=name, kernel="prepare_backward", constants=constants | back, row=row)


def _residual_cases(model: ModelKernels) -> Iterator[KernelCase]:
    norm = {"UPDATE": False, "GATE": False, "NORM": True, "PER_FRAME": True}
    gate = {"UPDATE": True, "GATE": True, "NORM": False, "PER_FRAME": False}
    both = {"UPDATE": True, "GATE": True, "NORM": True, "PER_FRAME": True}
    plain = {"UPDATE": True, "GATE": False, "NORM": True, "PER_FRAME": False}
    for width in (model.heads * model.head_dim, *([model.text_width] if model.text_width else [])):
        block = power_of_two(width)
        name = model.name if width == model.heads * model.head_dim else f"{model.name}, text"
        kinds = {"norm": norm, "gate": gate, "gate and norm": both, "sum and norm": plain}
        kinds["last norm"] = norm  # the last one of a model is a LayerNorm in all families
        for kind, options in kinds.items():
            centred = {"CENTRED": model.centred or not options["NORM"] or kind == "last norm"}
            constants = {"C": width, "BLOCK": block} | centred | options
            sums = {"GATE_SUM": options["GATE"], "NORM_SUMS": options["NORM"]}
            for kernel, more in (("forward", {"KEEP": options["NORM"]}), ("backward", sums)):
                yield KernelCase(
                    name=f"{name}: {kind}",
                    kernel=f"residual_norm_{kernel}",
                    constants=constants | more,
                    row=block,
                )


def compile_case(case: KernelCase, architecture: int) -> KernelReport:
    """Compile a kernel for an architecture and look at the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from . import triton_kernels, triton_residual_kernels

    module = triton_residual_kernels if "residual" in case.kernel else triton_kernels
    kernel = getattr(module, case.kernel)
    names = kernel.arg_names
    config = case.config or case.configs[0]
    known = case.constants | config.constants
    signature = {n: "constexpr" if n in known else _type(n) for n in names}
    constants = {(names.index(n),): value for n, value in known.items()}
    aligned = [n for n, kind in signature.items() if kind[0] == "*" or n.endswith("stride")]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": config.num_warps})
    usage = _usage(compiled.asm["cubin"])
    stores = sorted(_widths("st", compiled.asm["ptx"]))
    kept = (1 + case.constants["CENTRED"]) if case.constants.get("KEEP") else 0
    return KernelReport(
        case=case.name,
        direction=case.direction,
        architecture=architecture,
        width=case.width,
        warps=config.num_warps,
        registers=usage["REG"],
        stack=usage["STACK"] + usage["LOCAL"],
        loads=_widths("ld", compiled.asm["ptx"]),
        stores=tuple(stores[kept:]),
    )


def _type(name: str) -> str:
    if name == "eps":
        return "fp32"
    if not name.endswith("_ptr"):
        return "i32"
    wide = ("cos", "sin", "gate", "factor", "shift", "statistics")
    name = name.removesuffix("_ptr")
    if name in ("frame", "strip"):
        return "*i64"
    return "*fp32" if name in wide or name.endswith("_parts") else "*bf16"


def _usage(cubin: bytes) -> dict[str, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(tool), "-res-usage", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


def _widths(kind: str, ptx: str) -> tuple[int, ...]:
    """Bits of every access to global memory."""
    pattern = rf"{kind}\.global(?:\.(?!v\d|[bfsu]\d)[\w:]+)*(?:\.v(\d))?\.[bfsu](\d+)"
    return tuple(int(count or 1) * int(bits) for count, bits in re.findall(pattern, ptx))


def widest(reports: Sequence[KernelReport]) -> KernelReport:
    """The one with most bytes of stack, and of these with most registers."""
    return max(reports, key=lambda report: (report.stack, report.registers))


def main(asked: Sequence[str]) -> None:
    """Print the table.

    Args:
        asked: architectures, and beginnings of models' names, all where none is given; ``tuned``.
    """
    architectures = [int(name) for name in asked if name.isdigit()] or ARCHITECTURES
    names = tuple(name for name in asked if not name.isdigit() and name != TUNED) or ("",)
    models = [model for model in MODELS if model.name.startswith(names)]
    print("kernel | sm | warps | registers | stack | in flight / needed | loads | stores, bits")
    reports = []
    for case in cases(models, tuned=TUNED in asked):
        for architecture in architectures:
            r = compile_case(case, architecture)
            reports.append(r)
            print(f"{r.case}, {r.direction} | {r.architecture} | {r.warps} | ", end="")
            print(f"{r.registers} | {r.stack} | {r.in_flight:.2f}", end="")
            print(" |", " ".join(map(str, r.loads)), "|", " ".join(map(str, r.stores)))
    for what, r in (
        ("most registers", max(reports, key=lambda report: report.registers)),
        ("most stack", widest(reports)),
    ):
        print(f"{what}: {r.case}, {r.direction}, sm_{r.architecture}: {r.registers}, {r.stack}")


if __name__ == "__main__":
    main(sys.argv[1:])
