"""Material variants: the one that is shown gets the new texture, the others keep their look."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

from ..load.gltf_file import JsonObject
from .gltf_builder import GltfBuilder

VARIANTS = "KHR_materials_variants"


def mappings_of(primitive: JsonObject) -> list[JsonObject]:
    """Which material a primitive has in which variants; empty for most files."""
    mappings: list[JsonObject] = (
        primitive.get("extensions", {}).get(VARIANTS, {}).get("mappings", [])
    )
    return mappings


def materials_of(primitive: JsonObject) -> set[int | None]:
    """All materials that a primitive may be shown with; ``None`` for none."""
    return {primitive.get("material"), *(entry["material"] for entry in mappings_of(primitive))}


def follow_variants(
    builder: GltfBuilder,
    document: JsonObject,
    painted: Iterable[tuple[int, int]],
    *,
    replaced: Mapping[tuple[int, int], int],
    change: Callable[[JsonObject], None] | None,
) -> bool:
    """Let variants of painted primitives show what they showed, except the one that is shown.

    Args:
        builder: its primitives' mappings change; copies of materials are appended.
        document: the original.
        painted: number of the mesh, and of the primitive in it.
        replaced: material that each of them has now.
        change: made to the copies, where UV sets moved; ``None`` where they stay.

    Returns:
        Whether there are other variants.
    """
    copies: dict[int, int] = {}
    others = False
    for place in painted:
        mesh, number = place
        own = document["meshes"][mesh]["primitives"][number].get("material")
        for entry in mappings_of(builder.document["meshes"][mesh]["primitives"][number]):
            material = entry["material"]
            if material == own:
                entry["material"] = replaced[place]
                continue
            others = True
            original = document["materials"][material]
            if change is None and builder.document["materials"][material] == original:
                continue
            if material not in copies:
                copied = copy.deepcopy(original)
                if change is not None:
                    change(copied)
                copies[material] = builder.append("materials", copied)
            entry["material"] = copies[material]
    return others
