"""An image in tiles that overlap by what a pixel can see: the same result, less memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How an image is cut, in texels of the coarse side.

    Every tile goes through with ``reach`` texels around it, as far as there are any, and is cut
    afterwards. Nothing is blended: with a true ``reach`` each value is made from the same numbers
    as without tiles.

    Args:
        size: texels per side of a tile.
        reach: texels that a value depends on, in each direction.
        inward: input pixels per texel.
        outward: output pixels per texel.
    """

    size: int
    reach: int
    inward: int = 1
    outward: int = 1

    def __call__(self, run: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """``run(image)``, tile by tile.

        Args:
            run: maps ``[N, C, inward h, inward w]`` to ``[N, C', outward h, outward w]``.
            image: ``[N, C, H, W]``.
        """
        height, width = (side // self.inward for side in image.shape[-2:])
        rows = []
        for take_rows, keep_rows in self._spans(height):
            row = []
            for take_columns, keep_columns in self._spans(width):
                result = run(image[..., take_rows, take_columns])
                row.append(result[..., keep_rows, keep_columns])
            rows.append(torch.cat(row, dim=-1))
        return torch.cat(rows, dim=-2)

    def _spans(self, length: int) -> Iterator[tuple[slice, slice]]:
        """Per tile along one side: what is taken of the input, what is kept of its result."""
        for start in range(0, length, self.size):
            end = min(start + self.size, length)
            first, last = max(start - self.reach, 0), min(end + self.reach, length)
            take = slice(first * self.inward, last * self.inward)
            yield take, slice((start - first) * self.outward, (end - first) * self.outward)
