"""Training data of the ablation: all variants see the same objects in the same textures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqtex.data.sample import GeometryMaps, ObjectSample, TextureImages
from seqtex.data.splits import Split
from seqtex.data.synth import object_rng
from seqtex.data.textures.lighting import Lighting, draw_lighting, shaded
from seqtex.training.bank_source import BankSource, painted_batch
from seqtex.training.batch import (
    LIT_TASKS,
    SOURCES,
    SourceContext,
    TrainingBatch,
    check_options,
)

from .colours import canonical

NAME = "ablation"
_LIGHT = 71
_OPTIONS = ("banks", "kinds", "lit", "coarse_texture", "views_only")
Painted = tuple[GeometryMaps, TextureImages]


class AblationSource:
    """Objects of a bank with pictures that are kept for the next variant; see ``BatchSource``.

    Args:
        options: ``banks``, folder of the banks; ``kinds``, texture kinds; ``lit``, shading is
            baked into everything; ``coarse_texture``, how many times coarser textures are than the
            bank's; ``views_only``, every other sample of ``geo2mv`` is of a further bank.
        context: sizes and seed of the run.
    """

    _kept: dict[tuple[str, int, bool], Painted] = {}  # noqa: RUF012
    _kept_seed: int | None = None

    def __init__(self, options: Mapping[str, Any], context: SourceContext) -> None:
        check_options(NAME, options, _OPTIONS)
        self._factor = int(options.get("coarse_texture", 1))
        self._lit = bool(options.get("lit", False))
        self._seed = context.seed
        self.painting_seconds = 0.0
        fine = replace(context, uv_size=context.uv_size * self._factor)
        folder = Path(options["banks"])

        def bank(name: str) -> BankSource:
            source = BankSource({"path": str(folder / name)}, fine)
            source.kinds = list(options["kinds"])
            return source

        self._main = bank("train")
        self._further = bank("views-only") if options.get("views_only") else self._main
        self._shown = bank("held-out")
        if AblationSource._kept_seed != context.seed:
            AblationSource._kept, AblationSource._kept_seed = {}, context.seed

    def batch(self, indices: Sequence[int], task: str) -> TrainingBatch:
        """Samples by number; ``geo2mv`` gets lit views."""
        return painted_batch([self._sample(int(index), task) for index in indices])

    def preview(self, count: int) -> TrainingBatch:
        """Held-out objects."""
        shown = [self._shown.painted(number) for number in range(count)]
        return painted_batch([canonical(*one, self._factor) for one in shown])

    def _sample(self, number: int, task: str) -> Painted:
        unlit_task = task not in LIT_TASKS
        bank = self._main if unlit_task or number % 2 == 0 else self._further
        lit = self._lit or not unlit_task
        key = (bank.bank.folder.name, number, lit)
        if key not in self._kept:
            start = time.process_time()
            self._kept[key] = _painted(bank, number, seed=self._seed, lit=lit)
            self.painting_seconds += time.process_time() - start
        return canonical(*self._kept[key], self._factor)


def _painted(source: BankSource, number: int, *, seed: int, lit: bool) -> Painted:
    maps, images = source.painted(number)
    assert images.texture is not None, "objects of a bank are painted"
    if lit:
        light = draw_diffuse(object_rng(seed, _LIGHT, number))
        record = source.bank.record(source.place(number))
        views = ObjectSample(record, source.bank.sizes).painted(images.texture, light).views
        images = replace(images, views=views, uv=lit_texture(maps, images, light))
    return maps, replace(images, texture=None)  # functions, which would keep what they close over


def draw_diffuse(rng: Any) -> Lighting:
    """A random light that looks the same from everywhere, so that it can be baked."""
    return replace(draw_lighting(rng), headlight=0.0, gloss=0.0)


def lit_texture(maps: GeometryMaps, images: TextureImages, light: Lighting) -> Any:
    """The texture with shading baked in, ``[3, H, W]``; black around the charts."""
    normal = maps.uv_normal.flatten(1).T
    colours = shaded(images.uv.flatten(1).T, normal, normal, light)
    return colours.T.reshape(images.uv.shape) * maps.uv_mask


def register() -> None:
    """Make the source known to ``seqtex train``'s machinery, once."""
    if NAME not in SOURCES.names():
        SOURCES.register(NAME, AblationSource)


@dataclass(frozen=True, kw_only=True)
class BankPart:
    """One of the banks that the source reads.

    Args:
        name: of its folder.
        split: shape families.
        seed: of the objects.
    """

    name: str
    split: Split
    seed: int


BANKS = (
    BankPart(name="held-out", split="held-out", seed=1),
    BankPart(name="train", split="train", seed=0),
    BankPart(name="views-only", split="train", seed=2),
)
