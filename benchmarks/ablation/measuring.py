"""Measuring a trained variant on held-out objects, with the library's own measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seqtex.data.bank import GeometryBank
from seqtex.evaluation.cases import EvaluationCase, bank_cases
from seqtex.evaluation.methods import MadeTexture, MeanColor, NearestFill, TexturingMethod
from seqtex.evaluation.scores import scores
from seqtex.models.load import SeqTexModel
from seqtex.training.bank_source import painted_batch
from seqtex.training.batch_sampling import sample_batch
from seqtex_core.tasks import TEXTURE, VIEWS

from .colours import canonical
from .setting import HELD_OUT_KINDS

MEASURES = ("psnr_all", "psnr_unseen", "view_agreement")
CASE_SEED = 7
_BATCH = 32
Values = dict[str, list[float | None]]
"""By measure, one value per object; ``None`` where it does not apply."""


@dataclass(frozen=True, kw_only=True)
class CanonicalModel:
    """A model that sees pictures on grey, see ``colours``.

    Args:
        model: as users load it.
        steps: sampling steps.
        coarse: how many times coarser its textures are than the objects'.
        makes_views: whether its views are pictures.
    """

    model: SeqTexModel
    steps: int
    coarse: int = 1
    makes_views: bool = True

    def __call__(self, cases: Sequence[EvaluationCase]) -> list[MadeTexture]:
        """Textures in the objects' own size."""
        made: list[MadeTexture] = []
        for start in range(0, len(cases), _BATCH):
            made += self._batch(cases[start : start + _BATCH])
        return made

    def _batch(self, cases: Sequence[EvaluationCase]) -> list[MadeTexture]:
        view = cases[0].given_view
        seen = [canonical(case.maps, case.images, self.coarse) for case in cases]
        groups = sample_batch(
            self.model,
            painted_batch(seen),
            [case.number for case in cases],
            steps=self.steps,
            seed=CASE_SEED,
            given_views=(view,),
        )
        rows = zip(cases, groups[TEXTURE][:, 0], groups[VIEWS], strict=True)
        return [self._own(case, texture, views) for case, texture, views in rows]

    def _own(self, case: EvaluationCase, texture: Tensor, views: Tensor) -> MadeTexture:
        for axis in (-2, -1):
            texture = texture.repeat_interleave(self.coarse, dim=axis)
        views = (views * case.maps.view_mask).clamp(0, 1)
        return MadeTexture(texture=texture.clamp(0, 1), views=views if self.makes_views else None)


def held_out_cases(folder: Path, count: int) -> list[EvaluationCase]:
    """The objects to measure on, those left out that say nothing; the same for every variant."""
    bank = GeometryBank(folder)
    cases = bank_cases(bank, count=count, seed=CASE_SEED, kinds=HELD_OUT_KINDS)
    return [case for case in cases if case.exclusion is None and case.hides_enough]


def values_of(cases: Sequence[EvaluationCase], made: Sequence[MadeTexture]) -> Values:
    """Every measure of every object."""
    rows = [scores(case, one) for case, one in zip(cases, made, strict=True)]
    return {measure: [row[measure] for row in rows] for measure in MEASURES}


def references(cases: Sequence[EvaluationCase]) -> dict[str, Values]:
    """What needs no training, for the scale of the numbers."""
    methods: tuple[TexturingMethod, ...] = (MeanColor(), NearestFill())
    return {method.name: values_of(cases, method(cases)) for method in methods}
