"""All shape families by name, and how one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from seqtex_core.registry import Registry

from .part import Shape

ShapeFamily = Callable[[np.random.Generator], Shape]

_MODULES = {
    "families_round": (
        "lathe",
        "superquadric",
        "supertorus",
        "displaced",
        "polyhedron",
        "spindle",
        "loft",
    ),
    "families_swept": ("worm", "knot", "spring", "hoops", "sheet", "badge"),
    "families_implicit": ("blend", "boolean", "creature", "asteroid", "bust"),
    "families_vessels": ("mug", "teapot", "bottle", "lamp", "tool", "cake"),
    "families_animals": ("beast", "fish", "bird", "figure", "insect"),
    "families_built": ("car", "aircraft", "rocket", "chair", "table", "house", "machine", "tower"),
    "families_plants": ("tree", "flower", "mushroom", "fruit", "cactus", "bunch"),
}

SHAPE_FAMILIES: Registry[ShapeFamily] = Registry(
    "shape family",
    {
        name: f"{__package__}.{module}:{name}"
        for module, names in _MODULES.items()
        for name in names
    },
    entry_point_group="seqtex.shapes",
)


def draw_shape(rng: np.random.Generator, families: Sequence[str]) -> Shape:
    """A shape of a random family among ``families``, in the family's own frame.

    Raises:
        UsageError: an unknown family.
    """
    name = families[int(rng.integers(len(families)))]
    shape = SHAPE_FAMILIES.get(name)(rng)
    return Shape(parts=shape.parts, labels=shape.labels, family=name)
