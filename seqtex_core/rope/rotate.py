"""The rotation itself: rotary tables and their application to queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ..checks import check_floating, check_shape, check_type
from ..errors import UsageError

Pairing = Literal["interleaved", "half"]
OWN_TABLES = "Take one of those of rope_table, or Rope(cos=..., sin=...) of tables of your own."


@dataclass(frozen=True, kw_only=True, eq=False)
class Rope:
    """Cosine and sine of every token row's rotation angles.

    Args:
        cos: fp32, ``[L, D/2]``, or ``[L, N, D/2]`` where heads rotate at different frequencies.
        sin: like ``cos``.
        pairing: which channels form a plane: ``"interleaved"`` pairs (0, 1), (2, 3), ...;
            ``"half"`` pairs (0, D/2), (1, D/2 + 1), ...

    Raises:
        UsageError: ``cos`` and ``sin`` differ in shape or device, or are not tables of fp32 (or
            fp64) numbers.
    """

    cos: Tensor
    sin: Tensor
    pairing: Pairing = "interleaved"

    def __post_init__(self) -> None:
        if self.cos.shape != self.sin.shape or self.cos.ndim not in (2, 3):
            raise UsageError(
                "rope",
                expected="cos and sin of one shape, [L, D/2] or [L, N, D/2]",
                got=f"{list(self.cos.shape)} and {list(self.sin.shape)}",
                remedy="Take axes of 1 out: cos[0, :, 0]." if 1 in self.cos.shape else "",
            )
        wide = (torch.float32, torch.float64)
        if self.cos.dtype not in wide or self.sin.dtype != self.cos.dtype:
            raise UsageError(
                "rope",
                expected="float32",
                got=f"{self.cos.dtype}, {self.sin.dtype}",
                remedy="Use freqs.real and freqs.imag." if self.cos.is_complex() else "",
            )
        if self.cos.device != self.sin.device:
            raise UsageError(
                "rope", expected="one device", got=f"{self.cos.device} and {self.sin.device}"
            )
        if self.pairing not in ("interleaved", "half"):
            raise UsageError("pairing", expected="'interleaved' or 'half'", got=repr(self.pairing))

    @property
    def num_rows(self) -> int:
        """Token rows in the table."""
        return self.cos.shape[0]

    @property
    def head_dim(self) -> int:
        """Channels per head that the table rotates."""
        return 2 * self.cos.shape[-1]

    @property
    def phase(self) -> Tensor:
        """``cos + i sin``, complex64, for the eager path.

        Built on first use; anew for every use where positions learn, because the first may lie in
        a checkpointed part of the graph.
        """
        if self.cos.requires_grad:
            return torch.complex(self.cos, self.sin)
        return self._fixed_phase

    @cached_property
    def _fixed_phase(self) -> Tensor:
        with torch.inference_mode(False):  # kept, and perhaps used in training later
            return torch.complex(self.cos, self.sin)

    def to(self, device: torch.device | str) -> Rope:
        """The same table on another device; its dtype never changes."""
        if self.cos.device == torch.device(device):
            return self
        return replace(self, cos=self.cos.to(device), sin=self.sin.to(device))

    def rows(self, which: slice | Tensor) -> Rope:
        """The rows in a slice or at int64 indices ``[K]``."""
        return replace(self, cos=self.cos[which], sin=self.sin[which])

    @staticmethod
    def cat(parts: Sequence[Rope]) -> Rope:
        """Tables one after the other.

        Raises:
            UsageError: nothing to join, or tables of different pairing or width.
        """
        first = parts[0] if parts else None
        # shapes are compared, not hashed: under torch.jit.trace their sizes are tensors
        if first is None or any(
            p.pairing != first.pairing or p.cos.shape[1:] != first.cos.shape[1:] for p in parts
        ):
            kinds = ", ".join(f"{p.pairing} {list(p.cos.shape)}" for p in parts)
            raise UsageError("rope tables", expected="one pairing and width", got=kinds or "none")
        # not replace, which torch.compile of torch 2.6 does not trace
        cos, sin = torch.cat([p.cos for p in parts]), torch.cat([p.sin for p in parts])
        return Rope(cos=cos, sin=sin, pairing=first.pairing)

    def still(self, num_rows: int) -> Rope:
        """A table of ``num_rows`` rows that turns nothing (text), of this one's width."""
        shape = (num_rows, *self.cos.shape[1:])
        return replace(self, cos=self.cos.new_ones(shape), sin=self.sin.new_zeros(shape))


def apply_rope(x: Tensor, rope: Rope) -> Tensor:
    """``x`` with every row turned by its position, ``[B, L, N, D]`` in ``x``'s dtype.

    Computes in fp32 (fp64 for fp64 inputs) and rounds once at the end. Interleaved tables use
    complex64 in eager mode, which is one pass over memory (3 to 16 times faster than the real
    form on a CPU at 4096 x 12 x 128), and real arithmetic inside ``torch.compile``, whose code
    generator has no complex numbers.

    Args:
        x: queries or keys, ``[B, L, N, D]``.
        rope: table with ``L`` rows for head dim ``D``.

    Raises:
        UsageError: the table does not fit ``x``.

    Source: paper Alg. 1; Su et al. 2021 (RoFormer), Eq. 34.
    """
    check_rope(x, rope)
    return rotate(x.to(compute_dtype(x)), rope).to(x.dtype)


def apply_rope_reference(x: Tensor, rope: Rope) -> Tensor:
    """The definition of ``apply_rope``: every plane turned by its angle, one pair at a time."""
    wide = x.to(compute_dtype(x))
    half = rope.head_dim // 2
    turned = torch.empty_like(wide)
    for pair in range(half):
        interleaved = rope.pairing == "interleaved"
        i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
        cos, sin = rope.cos[..., pair], rope.sin[..., pair]
        if cos.ndim == 1:
            cos, sin = cos[:, None], sin[:, None]
        turned[..., i] = wide[..., i] * cos - wide[..., j] * sin
        turned[..., j] = wide[..., i] * sin + wide[..., j] * cos
    return turned.to(x.dtype)


def check_rope(x: Tensor, rope: Rope) -> None:
    """Refuse a table that does not fit ``x [B, L, N, D]``.

    Raises:
        UsageError: no ``Rope``, other rows, heads or width than ``x`` has, or another device.
    """
    check_type("rope", rope, Rope, remedy=OWN_TABLES)
    if x.ndim == 4 and x.shape[3] * 2 == rope.head_dim:
        raise UsageError(
            "rope",
            expected=f"every angle once, [L, D/2] with D = {x.shape[3]}",
            got=str(list(rope.cos.shape)),
            remedy="If each is there twice in a row, as in diffusers: cos[:, 0::2], sin[:, 0::2].",
        )
    check_shape("x", x, (None, rope.num_rows, None, rope.head_dim), "B L N D")
    check_floating("x", x)
    if rope.cos.ndim == 3:
        check_shape("rope.cos", rope.cos, (None, x.shape[2], None), "L N D/2")
    if rope.cos.device != x.device:
        raise UsageError(
            "rope",
            expected=f"a table on {x.device}",
            got=f"one on {rope.cos.device}",
            remedy="Use rope.to(device).",
        )


def compute_dtype(x: Tensor) -> torch.dtype:
    """fp32 for half precisions and fp32, fp64 for fp64."""
    return torch.promote_types(x.dtype, torch.float32)


def rotate(wide: Tensor, rope: Rope) -> Tensor:
    """The rotation of ``wide [B, L, N, D]`` (fp32 or fp64), unchecked and unrounded."""
    if rope.pairing == "interleaved" and not torch.compiler.is_compiling():
        return _rotate_complex(wide, rope)
    cos, sin = rope.cos, rope.sin
    if cos.ndim == 2:
        cos, sin = cos[:, None], sin[:, None]
    if rope.pairing == "half":
        a, b = wide.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    a, b = wide.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def rotate_in_place(wide: Tensor, rope: Rope, rows: slice) -> Tensor:
    """``rotate`` by some rows of a table, of a tensor that nobody needs afterwards."""
    if rope.pairing != "interleaved" or not wide.is_contiguous():
        return rotate(wide, rope.rows(rows))
    phase = rope.phase[rows] if rope.cos.ndim == 3 else rope.phase[rows, None]
    torch.view_as_complex(wide.unflatten(-1, (-1, 2))).mul_(phase)
    return wide


def _rotate_complex(wide: Tensor, rope: Rope) -> Tensor:
    phase = rope.phase if rope.cos.ndim == 3 else rope.phase[:, None]
    odd = wide.stride(-1) != 1 or any(stride % 2 for stride in wide.stride()[:-1])
    if odd or wide.storage_offset() % 2:  # planes must start on even addresses
        wide = wide.clone(memory_format=torch.contiguous_format)
    planes = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    return torch.view_as_real(planes * phase).flatten(-2)
