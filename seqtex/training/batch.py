"""What training gets from data: pictures and maps of a few objects, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.registry import Registry


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupImages:
    """One frame group of a batch.

    Args:
        images: colours in [0, 1], ``[B, F, 3, H, W]``; black where there is no surface.
        position: of the surface, in [-1, 1], likewise; 0 where there is none.
        normal: likewise.
        mask: share of the pixel that is covered, ``[B, F, 1, H, W]`` in [0, 1].
        learned: share of the pixel that the loss counts, likewise; ``mask`` if ``None``.
        present: share of the pixel that is there for a model of foreground tokens, likewise;
            ``mask`` if ``None``.

    Raises:
        UsageError: shapes that do not go together.
    """

    images: Tensor
    position: Tensor
    normal: Tensor
    mask: Tensor
    learned: Tensor | None = None
    present: Tensor | None = None

    def __post_init__(self) -> None:
        batch, frames, _, height, width = self.images.shape
        shapes = [tuple(t.shape) for t in (self.images, self.position, self.normal)]
        wanted = (batch, frames, 3, height, width)
        mask_shape = (batch, frames, 1, height, width)
        if any(shape != wanted for shape in shapes) or tuple(self.mask.shape) != mask_shape:
            raise UsageError(
                "training images",
                expected="images, position, normal [B, F, 3, H, W] and mask [B, F, 1, H, W]",
                got=f"{shapes} and {tuple(self.mask.shape)}",
            )

    def to(self, device: torch.device) -> GroupImages:
        """The same on ``device``."""
        return GroupImages(
            images=self.images.to(device),
            position=self.position.to(device),
            normal=self.normal.to(device),
            mask=self.mask.to(device),
            learned=None if self.learned is None else self.learned.to(device),
            present=None if self.present is None else self.present.to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingBatch:
    """A few objects, in the order they were asked for.

    Args:
        groups: by group name; ``"texture"`` may be missing for tasks that do not need it.
        keys: per sample, a name of its pictures; the same name always means the same content.
            ``None`` if pictures are made anew every time. Needed to keep latents.
        geometry_keys: per sample, likewise, a name of its maps.
        captions: per sample, or ``None``.
        visible: texels of the texture that each view sees, ``[B, V, H, W]`` bool; ``None`` if the
            source does not know. Needed by tasks with a projection.
    """

    groups: Mapping[str, GroupImages]
    keys: Sequence[str] | None = None
    geometry_keys: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    visible: Tensor | None = None


class BatchSource(Protocol):
    """Where training batches come from.

    A sample is a function of its number alone: asking again, in another order, from another process
    or after a restart gives the same.
    """

    def batch(self, indices: Sequence[int], task: str) -> TrainingBatch:
        """The samples with these global numbers (0, 1, ... over the whole run).

        Args:
            indices: global sample numbers.
            task: registered task; it decides the material (albedo, lit) and whether the texture
                is needed.
        """
        ...

    def preview(self, count: int) -> TrainingBatch:
        """Objects that training never sees, always the same; fewer if there are not ``count``."""
        ...


@dataclass(frozen=True, kw_only=True)
class SourceContext:
    """What a source must know of the run.

    Args:
        seed: of the run.
        view_size: pixels of a view, square.
        uv_size: texels of the texture, square.
        supersample: samples per pixel and axis of the view maps.
        device: where the batches should be.
        folder: relative paths are meant from here.
    """

    seed: int
    view_size: int
    uv_size: int
    supersample: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folder: Path = Path()

    def path(self, text: str) -> Path:
        """A path among a source's options, relative to the config file."""
        return self.folder / text


LIT_TASKS = ("geo2mv",)
"""Tasks whose views are lit: what pictures of the object would show."""

SourceFactory = Callable[[Mapping[str, Any], SourceContext], BatchSource]
SOURCES: Registry[SourceFactory] = Registry(
    "data source",
    {
        "bank": "seqtex.training.bank_source:BankSource",
        "shards": "seqtex.training.shard_source:ShardSource",
        "sphere": "seqtex.training.sphere_source:SphereSource",
    },
    entry_point_group="seqtex.data_sources",
)
"""Sources by name: ``factory(options, context)``; a factory refuses options it does not know."""


def check_options(source: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse options that a source does not have.

    Raises:
        UsageError: names them.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"[data.options] of {source}",
            expected="options among " + (", ".join(known) or "none"),
            got=", ".join(unknown),
        )
