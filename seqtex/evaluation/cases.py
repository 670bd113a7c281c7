"""Objects to measure on: what every method is given, and the truth.

Objects of a bank have no pictures at full resolution. In place of the reference back-projected from
one, methods get the exact colour of every texel that the reference's camera sees; no sampling, no
blur at outlines, no seen texel missed. That favours the methods that copy, so a model that beats
them here has not won by their loss of detail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
        family: shape family.
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
    if not 1 <= count <= len(bank):
        raise UsageError(
            "count",
            expected=f"1 to {len(bank)}, the objects of {bank.folder.name}",
            got=str(count),
            remedy="Make a larger bank; one object in two textures would not count as two.",
        )
    if not 0 <= given_view < bank.sizes.num_views:
        raise UsageError(
            "given view", expected=f"0 to {bank.sizes.num_views - 1}", got=str(given_view)
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
