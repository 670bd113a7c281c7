"""An evaluation: every method on every object, a few objects at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor

from seqtex_core.errors import UsageError

from ..data.bank import GeometryBank
from .cases import BankObjects, CaseSource, EvaluationCase
from .intervals import Estimate, estimate
from .methods import BASELINE, MadeTexture, TexturingMethod
from .scores import Scores, scores

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured on.

    Args:
        count: number of objects.
        seed: of their textures.
        kinds: texture kinds; none for the objects' own textures.
        given_view: index of the reference.
        batch_size: objects that a model makes at once.
        num_pictures: objects to keep pictures of, the first that are not excluded.
    """

    count: int
    seed: int
    kinds: tuple[str, ...]
    given_view: int = 0
    batch_size: int = 10
    num_pictures: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError("batch_size", expected="at least 1", got=str(self.batch_size))


@dataclass(frozen=True, kw_only=True)
class ObjectResult:
    """All methods on one object.

    Args:
        number: place in the set.
        family: shape family, or the name of the mesh file.
        kinds: texture kinds in it; none in a texture of its own.
        unseen_share: of the texels, those that the reference does not show.
        exclusion: why it does not count, or ``None``.
        results: scores by method.
    """

    number: int
    family: str
    kinds: tuple[str, ...]
    unseen_share: float
    exclusion: str | None
    results: dict[str, Scores]


@dataclass(frozen=True, kw_only=True, eq=False)
class PicturedObject:
    """One object to look at.

    Args:
        title: number, name and texture kind.
        reference: ``[3, h, w]``.
        mask: texels with surface, ``[H, W]``.
        textures: by method, ``[3, H, W]``.
        renders: the view opposite the reference, rendered from each texture, ``[3, h, w]``.
    """

    title: str
    reference: Tensor
    mask: Tensor
    textures: dict[str, Tensor]
    renders: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was measured.

    Args:
        methods: in order.
        objects: in order; excluded ones too.
        pictured: a few of them.
        seconds: wall-clock time by method.
    """

    methods: tuple[TexturingMethod, ...]
    objects: list[ObjectResult] = field(default_factory=list)
    pictured: list[PicturedObject] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def excluded(self) -> dict[str, int]:
        """Number of excluded objects by reason."""
        return dict(Counter(o.exclusion for o in self.objects if o.exclusion is not None))

    def values(self, method: str, measure: str) -> dict[int, float]:
        """A measure by object number, where it applies."""
        found = {o.number: o.results[method][measure] for o in self.objects if o.exclusion is None}
        return {number: value for number, value in found.items() if value is not None}

    def summary(self, method: str, measure: str) -> Estimate | None:
        """Mean and median; ``None`` if the measure never applies."""
        values = list(self.values(method, measure).values())
        return estimate(values) if values else None

    def difference(self, method: str, measure: str) -> Estimate | None:
        """The same of the method minus the baseline, object by object."""
        mine, base = self.values(method, measure), self.values(BASELINE, measure)
        values = [value - base[number] for number, value in mine.items() if number in base]
        return estimate(values) if values else None


def run_evaluation(
    objects: CaseSource | GeometryBank,
    methods: Sequence[TexturingMethod],
    settings: EvaluationSettings,
    *,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Measure methods on the first objects of a set.

    Args:
        objects: that the models did not see.
        methods: with different names; the baseline must be among them.
        settings: which objects, in which textures.
        on_progress: told about every batch.

    Raises:
        UsageError: names that are not unique or lack the baseline, or settings that do not fit.
    """
    names = [method.name for method in methods]
    if len(set(names)) != len(names) or BASELINE not in names:
        raise UsageError("methods", expected=f"different names, {BASELINE!r} too", got=str(names))
    result = Evaluation(methods=tuple(methods), seconds=dict.fromkeys(names, 0.0))
    source = BankObjects(bank=objects) if isinstance(objects, GeometryBank) else objects
    cases = source.cases(
        count=settings.count,
        seed=settings.seed,
        kinds=settings.kinds,
        given_view=settings.given_view,
    )
    report = on_progress or (lambda stage, done, total: None)
    report("Evaluate", 0, settings.count)
    for batch in _batches(cases, settings.batch_size):
        made = {method.name: _timed(method, batch, result.seconds) for method in methods}
        for row, case in enumerate(batch):
            own = {name: textures[row] for name, textures in made.items()}
            found = _object_result(case, own)
            result.objects.append(found)
            if found.exclusion is None and len(result.pictured) < settings.num_pictures:
                result.pictured.append(_pictured(case, own))
        report("Evaluate", len(result.objects), settings.count)
    return result


def _timed(
    method: TexturingMethod, batch: Sequence[EvaluationCase], seconds: dict[str, float]
) -> list[MadeTexture]:
    start = time.perf_counter()
    made = method(batch)
    seconds[method.name] += time.perf_counter() - start
    return made


def _object_result(case: EvaluationCase, made: dict[str, MadeTexture]) -> ObjectResult:
    return ObjectResult(
        number=case.number,
        family=case.family,
        kinds=case.images.kinds,
        unseen_share=case.unseen_share,
        exclusion=case.exclusion,
        results={name: scores(case, texture) for name, texture in made.items()},
    )


def _pictured(case: EvaluationCase, made: dict[str, MadeTexture]) -> PicturedObject:
    back = (case.given_view + 2) % len(case.images.views)
    return PicturedObject(
        title=", ".join([f"{case.number} {case.family}", *case.images.kinds[:1]]),
        reference=case.reference,
        mask=case.charted,
        textures={name: one.texture for name, one in made.items()},
        renders={name: case.renderer(one.texture)[back] for name, one in made.items()},
    )


def _batches(cases: Iterable[EvaluationCase], size: int) -> Iterator[list[EvaluationCase]]:
    cases = iter(cases)
    while batch := list(islice(cases, size)):
        yield batch
