"""What is found out about a surface once, however many textures are painted on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from .surface import SurfaceTensors

T = TypeVar("T")


def once_per_surface(find: Callable[[SurfaceTensors], T]) -> Callable[[SurfaceTensors], T]:
    """``find``, whose answer is kept for as long as the surface lives and its tensors stay.

    A mesh of a hundred materials is painted a hundred times, and these answers are the same each
    time. A tensor that was changed in place, as an optimiser does, is looked at anew.
    """
    known: WeakKeyDictionary[SurfaceTensors, tuple[tuple[int, int], T]] = WeakKeyDictionary()

    @wraps(find)
    def remembered(surface: SurfaceTensors) -> T:
        if surface.vertices.is_inference() or surface.faces.is_inference():
            return find(surface)  # such tensors do not say whether they were changed
        version = (surface.vertices._version, surface.faces._version)
        found = known.get(surface)
        if found is None or found[0] != version:
            found = (version, find(surface))
            known[surface] = found
        return found[1]

    return remembered
