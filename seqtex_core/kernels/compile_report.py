"""What the Triton kernels become on a GPU that need not be there: registers, spills, access widths.

``python -m seqtex_core.kernels.compile_report`` prints a table, for named architectures or for all;
it needs Triton, no GPU.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .triton_launch import warps

ARCHITECTURES = (80, 90, 100)
"""A100, H100, B200."""


@dataclass(frozen=True, kw_only=True)
class KernelCase:
    """A kernel at the sizes of Wan2.1 1.3B in bf16.

    Args:
        name: in words.
        kernel: name of the function.
        constants: compile-time constants.
        row: elements of a padded row.
    """

    name: str
    kernel: str
    constants: dict[str, Any]
    row: int


@dataclass(frozen=True, kw_only=True)
class KernelReport:
    """What was compiled.

    Args:
        case: name of the case.
        architecture: compute capability times ten.
        registers: per thread.
        stack: bytes per thread; spills would lie here.
        loads: bits of every load instruction from global memory.
        stores: likewise.
    """

    case: str
    architecture: int
    registers: int
    stack: int
    loads: tuple[int, ...]
    stores: tuple[int, ...]


def cases() -> Iterator[KernelCase]:
    """All kernels as the models use them."""
    wan = {"N": 12, "D": 128, "BN": 16, "NORM": True, "WEIGHT": True, "ROPE": True}
    wan |= {"LAYER": False, "NORM_PER_HEAD": False, "ROPE_PER_HEAD": False, "HALF": False}
    added = {"BIAS": False, "GEOMETRY": True, "GEOMETRY_FIRST": False}
    heads = {"LAYER": True, "NORM_PER_HEAD": True, "BIAS": True}
    forward, backward = "prepare_forward", "prepare_backward"
    back = {"STRIP": 16, "TURNED_GEOMETRY": False}
    yield KernelCase(name="qk_prep, inner", kernel=forward, constants=wan | added, row=2048)
    yield KernelCase(name="qk_prep, heads", kernel=forward, constants=wan | added | heads, row=2048)
    half = wan | added | {"HALF": True, "GEOMETRY_FIRST": True}
    yield KernelCase(name="qk_prep, half", kernel=forward, constants=half, row=2048)
    yield KernelCase(name="qk_prep, backward", kernel=backward, constants=wan | back, row=2048)
    size = {"C": 1536, "BLOCK": 2048, "CENTRED": True}
    norm = {"UPDATE": False, "GATE": False, "NORM": True, "PER_FRAME": True}
    gate = {"UPDATE": True, "GATE": True, "NORM": False, "PER_FRAME": False}
    both = {"UPDATE": True, "GATE": True, "NORM": True, "PER_FRAME": True}
    forward, backward = "residual_norm_forward", "residual_norm_backward"
    for name, options in (("norm", norm), ("gate", gate), ("gate and norm", both)):
        constants = size | options
        yield KernelCase(name=name, kernel=forward, constants=constants, row=2048)
        constants = constants | {"STRIP": 16}
        name = f"{name}, backward"
        yield KernelCase(name=name, kernel=backward, constants=constants, row=2048)


def compile_case(case: KernelCase, architecture: int) -> KernelReport:
    """Compile a kernel for an architecture and look at the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from . import triton_kernels, triton_residual_kernels

    module = triton_residual_kernels if "residual" in case.kernel else triton_kernels
    kernel = getattr(module, case.kernel)
    names = kernel.arg_names
    signature = {n: "constexpr" if n in case.constants else _type(n) for n in names}
    constants = {(names.index(n),): value for n, value in case.constants.items()}
    aligned = [n for n, kind in signature.items() if kind[0] == "*" or n.endswith("stride")]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps(case.row)})
    usage = _usage(compiled.asm["cubin"])
    return KernelReport(
        case=case.name,
        architecture=architecture,
        registers=usage["REG"],
        stack=usage["STACK"] + usage["LOCAL"],
        loads=_widths("ld", compiled.asm["ptx"]),
        stores=_widths("st", compiled.asm["ptx"]),
    )


def _type(name: str) -> str:
    if name == "eps":
        return "fp32"
    if not name.endswith("_ptr"):
        return "i32"
    wide = ("cos", "sin", "gate", "factor", "shift")
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


def main(architectures: Sequence[int]) -> None:
    """Print the table."""
    print("kernel | sm | registers | stack | loads, bits | stores, bits")
    for case in cases():
        for architecture in architectures:
            r = compile_case(case, architecture)
            print(f"{r.case} | {r.architecture} | {r.registers} | {r.stack} | ", end="")
            print(" ".join(map(str, r.loads)), "|", " ".join(map(str, r.stores)))


if __name__ == "__main__":
    main([int(name) for name in sys.argv[1:]] or ARCHITECTURES)
