"""Prepared meshes as objects to measure on, in their own textures or painted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from seqtex_core.errors import InputError

from ..data.record import GeometryRecord, RecordSizes
from ..data.sample import ObjectSample, TextureImages, draw_texture
from ..data.stream import StreamedSample
from ..data.synth import object_rng
from ..training.shard_places import ShardPlaces
from .cases import EvaluationCase, check_request
from .rendering import TexelRenderer

_PAINTED = 5


class PreparedObjects:
    """The samples of a folder of shards; see ``CaseSource``.

    Args:
        folder: made by ``seqtex data prepare`` or ``seqtex data synth --format shards``.
        painted: paint the objects in procedural textures, so that those without a texture of their
            own can be measured too; samples without texels never can.

    Raises:
        InputError: no shards there, or nothing in them that can be measured.
    """

    def __init__(self, folder: str | Path, *, painted: bool = False) -> None:
        self.folder = Path(folder)
        self.painted = painted
        self._shards = ShardPlaces.scan(self.folder)
        self._places: list[int] = []
        self.left_out: dict[str, str] = {}
        for place in range(len(self._shards)):
            if self._shards.textured[place]:
                self._places.append(place)
                continue
            sample = self._shards.read(place)
            if painted and len(sample.tensors["uv_part"]):
                self._places.append(place)
            else:
                self.left_out[_title(sample)] = (
                    "no texels" if not len(sample.tensors["uv_part"]) else "no texture of its own"
                )
        if not self._places:
            raise InputError(
                str(folder),
                expected="samples whose true texture is known",
                got="views only",
                remedy="" if painted else "--textures held-out paints the objects.",
            )

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    def __len__(self) -> int:
        return len(self._places)

    def description(self) -> dict[str, Any]:
        """Name, number of objects, their sizes, and what was left out."""
        sample = self._shards.read(self._places[0])
        return {
            "name": self.name,
            "objects": len(self),
            "sizes": dict(sample.meta["sizes"]),
            "left_out": dict(self.left_out),
        }

    def cases(
        self, *, count: int, seed: int, kinds: Sequence[str], given_view: int
    ) -> Iterator[EvaluationCase]:
        """The first objects; painted ones in textures that place and seed decide.

        Args:
            count: how many.
            seed: of painted textures.
            kinds: texture kinds to paint with.
            given_view: index of the reference.

        Raises:
            UsageError: more objects than there are, or no such view.
        """
        views = RecordSizes(**self._shards.read(self._places[0]).meta["sizes"]).num_views
        check_request(
            count, len(self), given_view, views, name=self.name, remedy="Prepare more meshes."
        )
        for number, place in enumerate(self._places[:count]):
            read = self._shards.read(place)
            sizes = RecordSizes(**read.meta["sizes"])
            record = GeometryRecord.from_tensors(read.tensors, source=f"sample {read.key}")
            sample = ObjectSample(record, sizes)
            if self.painted:
                images = draw_texture(sample, object_rng(seed, _PAINTED, place), kinds=kinds)
            else:
                images = TextureImages(
                    views=torch.stack([read.images[f"view{k}"] for k in range(sizes.num_views)]),
                    uv=read.images["uv"],
                )
            yield EvaluationCase(
                number=number,
                family=_title(read),
                maps=sample.maps(),
                images=images,
                given_view=given_view,
                renderer=TexelRenderer(sample),
            )


def _title(sample: StreamedSample) -> str:
    """Name of the mesh file without folders, else the shape family."""
    name = str(sample.meta.get("file", sample.meta.get("family", sample.key)))
    return name.rpartition("/")[2]
