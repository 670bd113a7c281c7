"""Rows of several streams as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .transforms import is_transformed


class JointRows:
    """Rows written where they belong in one tensor, or concatenated where that cannot be.

    With gradients on, in a traced graph and inside of transforms, nothing may be written into a
    tensor that exists.

    Args:
        like: has their dtype, device, batch and width, ``[B, L, D]``.
        lengths: rows of each stream.
        written: whether whoever makes the rows can write them in place.
    """

    def __init__(self, like: Tensor, lengths: Sequence[int], *, written: bool = True) -> None:
        self.places: Sequence[Tensor | None] = [None] * len(lengths)
        self._whole: Tensor | None = None
        followed = torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed()
        if written and not followed:
            self._whole = like.new_empty(like.shape[0], sum(lengths), like.shape[2])
            self.places = self._whole.split(list(lengths), dim=1)

    def put(self, index: int, rows: Tensor) -> Tensor:
        """The rows of a stream that were made elsewhere, in their place if there is one."""
        place = self.places[index]
        return rows if place is None else place.copy_(rows)

    def joined(self, *parts: Tensor) -> Tensor:
        """All rows, ``[B, sum of lengths, D]``, from those of each stream."""
        return torch.cat(parts, dim=1) if self._whole is None else self._whole
