"""Vertex colours set aside: viewers multiply them with the texture, which shows its own colours."""

from __future__ import annotations

import numpy as np

from ..load.gltf_accessors import AnyArray, read_floats, read_stored
from ..load.gltf_file import GltfFile, JsonObject
from ..mesh import IntArray
from .gltf_builder import GltfBuilder

SET_ASIDE_COLORS = "_COLOR_0"
_WHITE = 1e-3  # how far from 1 a factor may be that nobody sees


def names_set_aside(file: GltfFile, primitive: JsonObject) -> dict[str, str]:
    """New names of the colours of a primitive that gets a texture; none if they change nothing.

    Args:
        file: the original.
        primitive: of the original.

    Returns:
        ``COLOR_n`` -> ``_COLOR_n``, a name of one's own in glTF, which viewers do not draw; with
        more underscores where the file has that name already.
    """
    attributes = primitive["attributes"]
    names = [name for name in attributes if name.startswith("COLOR_")]
    if not any(_tints(read_floats(file, attributes[name])) for name in names):
        return {}
    renamed = {}
    for name in names:
        aside = f"_{name}"
        while aside in attributes:
            aside = f"_{aside}"
        renamed[name] = aside
    return renamed


def opacity_alone(file: GltfFile, primitive: JsonObject, rows: IntArray | None) -> AnyArray | None:
    """White with the alpha of ``COLOR_0``, as stored, ``[V, 4]``; ``None`` if all is opaque.

    Args:
        file: the original.
        primitive: of the original.
        rows: vertices wanted; all of them if ``None``.
    """
    accessor = primitive["attributes"].get("COLOR_0")
    if accessor is None or file.entry("accessors", accessor)["type"] != "VEC4":
        return None
    stored = read_stored(file, accessor)
    full = 1.0 if stored.dtype.kind == "f" else np.iinfo(stored.dtype).max
    if bool((stored[:, 3] == full).all()):
        return None
    white = stored.copy() if rows is None else stored[rows]
    white[:, :3] = full
    return white


def set_colors_aside(file: GltfFile, builder: GltfBuilder, place: tuple[int, int]) -> bool:
    """Let a painted primitive show its texture untinted; whether it had colours.

    Its colours keep their accessor under another name. Alpha, which cuts out or fades, stays.

    Args:
        file: the original.
        builder: its copy of the primitive is changed.
        place: number of the mesh, and of the primitive in it.
    """
    old = file.document["meshes"][place[0]]["primitives"][place[1]]
    names = names_set_aside(file, old)
    if not names:
        return False
    target = builder.document["meshes"][place[0]]["primitives"][place[1]]
    target["attributes"] = renamed(target["attributes"], names)
    if "targets" in target:
        target["targets"] = [renamed(item, names) for item in target["targets"]]
    keep_opacity(file, builder, old, target)
    return True


def renamed(attributes: JsonObject, names: dict[str, str]) -> JsonObject:
    """The same accessors under new names."""
    return {names.get(name, name): accessor for name, accessor in attributes.items()}


def keep_opacity(
    file: GltfFile,
    builder: GltfBuilder,
    old: JsonObject,
    target: JsonObject,
    rows: IntArray | None = None,
) -> None:
    """Give ``target`` a white ``COLOR_0`` with the alpha of the one that was set aside, if any.

    Args:
        file: the original.
        builder: receives the accessor.
        old: primitive of the original.
        target: the builder's copy of it, its colours set aside.
        rows: vertices of ``old`` that ``target`` has; all of them if ``None``.
    """
    white = opacity_alone(file, old, rows)
    if white is not None:
        like = file.entry("accessors", old["attributes"]["COLOR_0"])
        target["attributes"]["COLOR_0"] = builder.add_accessor(white, like)


def _tints(colors: AnyArray) -> bool:
    return not bool((np.abs(colors[:, :3] - 1.0) <= _WHITE).all())
