"""Objects to measure on: what every method is given, and the truth.

Objects of a bank or of shards have no pictures at full resolution. In place of the reference
back-projected from one, methods get the exact colour of every texel that the reference's camera
sees; no sampling, no blur at outlines, no seen texel missed. That favours the methods that copy, so
a model that beats them here has not won by their loss of detail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from seqtex_core.errors import UsageError

from ..data.bank import GeometryBank
from ..data.sample import GeometryMaps, ObjectSample, TextureImages, draw_texture
from ..data.synth import object_rng
from .rendering import TexelRenderer

_EVALUATION = 4
_CONSTANT = 0.02
_FEW = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationCase:
    """One object in one texture.

    Args:
        number: names the random draws of the case.
        family: shape family, or the name of the mesh file.
        maps: geometry maps, and which texels each view sees.
        images: the true views and the true texture.
        given_view: index of the reference.
        renderer: draws the views of any texture of the object.
    """

    number: int
    family: str
    maps: GeometryMaps
    images: TextureImages
    given_view: int
    renderer: TexelRenderer

    @property
    def charted(self) -> Tensor:
        """Texels with surface, ``[H, W]`` bool."""
        return self.maps.uv_mask[0] > 0

    @property
    def seen(self) -> Tensor:
        """Texels that the reference shows, ``[H, W]`` bool."""
        return self.maps.uv_visible[self.given_view] & self.charted

    @property
    def unseen(self) -> Tensor:
        """Texels that it does not show, ``[H, W]`` bool."""
        return self.charted & ~self.seen

    @property
    def unseen_share(self) -> float:
        """Of the texels with surface."""
        return float(self.unseen.sum()) / float(self.charted.sum())

    @property
    def reference(self) -> Tensor:
        """The picture that is given, ``[3, h, w]``."""
        return self.images.views[self.given_view]

    @property
    def exclusion(self) -> str | None:
        """Why the case says nothing about any method, or ``None``."""
        texels = self.images.uv[:, self.charted]
        if float(texels.std(dim=1).max()) <= _CONSTANT:
            return "constant texture"
        if 1.0 - self.unseen_share < _FEW:
            return "reference shows nothing"
        return None

    @property
    def hides_enough(self) -> bool:
        """Whether there are texels enough to measure what was not seen."""
        return self.unseen_share >= _FEW


class CaseSource(Protocol):
    """Objects to measure on."""

    @property
    def name(self) -> str:
        """Of the set."""
        ...

    def __len__(self) -> int:
        """Number of objects that can be measured."""
        ...

    def description(self) -> dict[str, Any]:
        """What the set is, plain JSON types only; ``name`` and ``objects`` are among it."""
        ...

    def cases(
        self, *, count: int, seed: int, kinds: Sequence[str], given_view: int
    ) -> Iterator[EvaluationCase]:
        """The first objects, in their own textures or in kinds of textures; see each source."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class BankObjects:
    """The objects of a bank, painted; see ``CaseSource``.

    Args:
        bank: of objects that training did not see.
    """

    bank: GeometryBank

    @property
    def name(self) -> str:
        """Of the bank's folder."""
        return self.bank.folder.name

    def __len__(self) -> int:
        return len(self.bank)

    def description(self) -> dict[str, Any]:
        """Name, number of objects, and the settings that they were made with."""
        return {"name": self.name, "objects": len(self.bank), **self.bank.settings}

    def cases(
        self, *, count: int, seed: int, kinds: Sequence[str], given_view: int
    ) -> Iterator[EvaluationCase]:
        """See :func:`bank_cases`."""
        return bank_cases(self.bank, count=count, seed=seed, kinds=kinds, given_view=given_view)


def bank_cases(
    bank: GeometryBank, *, count: int, seed: int, kinds: Sequence[str], given_view: int = 0
) -> Iterator[EvaluationCase]:
    """The first objects of a bank, each in a texture that its place and the seed decide.

    Args:
        bank: of objects that training did not see.
        count: how many.
        seed: of the textures.
        kinds: texture kinds to draw from.
        given_view: index of the reference.

    Raises:
        UsageError: more objects than the bank has, no such view, or an unknown kind.
    """
    check_request(
        count,
        len(bank),
        given_view,
        bank.sizes.num_views,
        name=bank.folder.name,
        remedy="Make a larger bank; one object in two textures would not count as two.",
    )
    for place in range(count):
        sample = ObjectSample(bank.record(place), bank.sizes)
        images = draw_texture(sample, object_rng(seed, _EVALUATION, place), kinds=kinds)
        yield EvaluationCase(
            number=place,
            family=bank.entries[place].family,
            maps=sample.maps(),
            images=images,
            given_view=given_view,
            renderer=TexelRenderer(sample),
        )


def check_request(
    count: int, available: int, given_view: int, num_views: int, *, name: str, remedy: str
) -> None:
    """Refuse more objects than there are, and views that there are not.

    Raises:
        UsageError: either.
    """
    if not 1 <= count <= available:
        raise UsageError(
            "count",
            expected=f"1 to {available}, the objects of {name}",
            got=str(count),
            remedy=remedy,
        )
    if not 0 <= given_view < num_views:
        raise UsageError("given view", expected=f"0 to {num_views - 1}", got=str(given_view))
