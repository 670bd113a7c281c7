"""The banks of the ablation, made by the library's own command."""

from __future__ import annotations

from pathlib import Path

from seqtex.data.production import Production, produce
from seqtex.data.record import RecordSizes
from seqtex.data.splits import split_families, split_kinds
from seqtex.data.synth import SynthSettings

from .setting import Banks
from .source import BANKS


def make_banks(folder: Path, banks: Banks) -> None:
    """Make what is not there yet; the same as three calls of ``seqtex data synth``."""
    counts = {"train": banks.train, "views-only": banks.views_only, "held-out": banks.held_out}
    sizes = RecordSizes(view_size=banks.view_size, uv_size=banks.uv_size, supersample=2)
    for part in BANKS:
        settings = SynthSettings(
            seed=part.seed,
            families=tuple(split_families(part.split)),
            kinds=tuple(split_kinds(part.split)),
            sizes=sizes,
        )
        produce(Production(folder=folder / part.name, count=counts[part.name], settings=settings))
