"""A Wan transformer whose grids share the coordinates of one base grid, as an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from seqtex_backbones.entry_config import ARCHITECTURES
from seqtex_backbones.wan.configs import WanConfig, WanEntry
from seqtex_core.adapter import Backbone
from seqtex_core.rope import Interpolation

NAME = "wan-interpolated"


@dataclass(frozen=True, kw_only=True)
class InterpolatedEntry(WanEntry):
    """A Wan model with interpolated positions.

    Args:
        base_grid: rows and columns of the grid that all others are laid over.
    """

    base_grid: int

    def build(self) -> Backbone:
        """The model; nothing but its rotary table differs."""
        backbone = super().build()
        shell: Any = backbone.shell
        policy = Interpolation(
            base_height=self.base_grid, base_width=self.base_grid, linspace_end="aligned"
        )
        shell.rope_spec = replace(shell.rope_spec, policy=policy)
        return backbone


def entry(name: str, sizes: Mapping[str, Any]) -> InterpolatedEntry:
    """An entry from plain data: the sizes of a Wan model and ``base_grid``."""
    values = {**sizes, "patch_size": tuple(sizes["patch_size"])}
    base_grid = values.pop("base_grid")
    return InterpolatedEntry(
        name=name, summary=NAME, config=WanConfig(**values), base_grid=base_grid
    )


def register() -> None:
    """Make the architecture known to model configs, once."""
    if NAME not in ARCHITECTURES.names():
        ARCHITECTURES.register(NAME, entry)
