"""Textures written into a glTF document: the author's UVs kept, or new ones added."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..asset import MeshAsset
from ..load.gltf_file import GltfFile, JsonObject
from ..load.gltf_materials import SPECULAR_GLOSSINESS, TEXTURE_TRANSFORM, base_color_slot
from ..load.gltf_wrap import REPEAT, WRAP_KEYS, leaves_square
from ..mesh import FloatArray, ImageArray
from .gltf_builder import GltfBuilder
from .gltf_colors import set_colors_aside
from .gltf_split import rewrite_primitive
from .gltf_variants import follow_variants, materials_of
from .textures import encode_png, with_alpha_of

_PrimitiveId = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class _Painted:
    """A primitive that gets a texture: which material it has, and which texture set."""

    material: int | None
    texture_set: int


def textured_gltf(
    asset: MeshAsset,
    textures: Sequence[ImageArray],
    extras: Mapping[str, Any],
    new_uvs: FloatArray | None,
) -> tuple[GltfBuilder, list[str]]:
    """The document of a glTF asset with its base colour replaced, and notes.

    With the author's UVs only materials change: their base colour texture points to a new image
    (sampler, texCoord and transform stay) and their factor becomes neutral, alpha kept. The old
    image stays in the file, since other slots may use it and bytes must not move. A material
    that is also used by a primitive without UVs is copied, and only primitives that are painted
    point to the copy. Vertex colours would tint the texture: see ``gltf_colors``.

    With ``new_uvs``, painted primitives get new accessors behind the old ones: see
    ``gltf_split``; materials are treated the same way.
    """
    file = asset.document
    assert isinstance(file, GltfFile)
    builder = GltfBuilder(file.document, file.buffers, file.other_chunks)
    builder.set_extras(extras)
    painted = _painted_primitives(asset, new_uvs is not None)
    images = _add_images(builder, asset, textures, painted, new_uvs)
    owners = _material_owners(builder.document, painted, new_uvs is not None)
    replaced: dict[_PrimitiveId, int] = {}
    for (material, texture_set), primitives in owners.items():
        index = _target_material(builder, material, painted, new_uvs is not None)
        entry = builder.document["materials"][index]
        if new_uvs is not None:
            _shift_tex_coords(entry)
        axes = (False, False) if new_uvs is not None else _repeating_axes(asset, material)
        _point_to_image(builder, entry, images[texture_set], keep_slot=new_uvs is None, repeat=axes)
        replaced |= dict.fromkeys(primitives, index)
        if index != material:
            for mesh, primitive in primitives:
                builder.document["meshes"][mesh]["primitives"][primitive]["material"] = index
    notes = _variant_notes(builder, file, replaced, new_uvs is not None)
    notes += _glow_notes(builder, replaced.values())
    if new_uvs is None:
        tinted = sum(set_colors_aside(file, builder, place) for place in sorted(replaced))
    else:
        refs = (ref for ref in asset.primitives if not ref.is_instance)
        tinted = sum(rewrite_primitive(file, builder, ref, new_uvs) for ref in refs)
    if tinted:
        parts = "1 part" if tinted == 1 else f"{tinted} parts"
        notes.append(f"vertex colours of {parts} would tint the texture, kept as _COLOR_0")
    return builder, notes


def _variant_notes(
    builder: GltfBuilder, file: GltfFile, replaced: Mapping[_PrimitiveId, int], made_uvs: bool
) -> list[str]:
    change = _shift_tex_coords if made_uvs else None
    places = sorted(replaced)
    if not follow_variants(builder, file.document, places, replaced=replaced, change=change):
        return []
    return ["material variants: the one that is shown gets the texture, the others stay"]


def _glow_notes(builder: GltfBuilder, painted: Iterable[int]) -> list[str]:
    """A note on painted materials whose own light shows an old picture on top of the new one."""
    names = []
    for index in dict.fromkeys(painted):
        entry = builder.document["materials"][index]
        if "emissiveTexture" in entry and any(entry.get("emissiveFactor", ())):
            names.append(str(entry.get("name", f"material {index}")))
    if not names:
        return []
    return [f"the emissive texture stays and adds to the new one: {', '.join(names[:8])}"]


def _painted_primitives(asset: MeshAsset, all_of_them: bool) -> dict[_PrimitiveId, _Painted]:
    file = asset.document
    assert isinstance(file, GltfFile)
    painted: dict[_PrimitiveId, _Painted] = {}
    for ref in asset.primitives:
        rows = slice(ref.first_face, ref.first_face + ref.num_faces)
        texture_set = int(asset.mesh.face_texture_set[rows].max(initial=-1))
        if all_of_them and ref.num_faces:
            texture_set = 0
        if texture_set >= 0:
            assert ref.mesh is not None
            primitive = file.document["meshes"][ref.mesh]["primitives"][ref.primitive]
            painted[ref.mesh, ref.primitive] = _Painted(
                material=primitive.get("material"), texture_set=texture_set
            )
    return painted


def _add_images(
    builder: GltfBuilder,
    asset: MeshAsset,
    textures: Sequence[ImageArray],
    painted: Mapping[_PrimitiveId, _Painted],
    new_uvs: FloatArray | None,
) -> list[int]:
    """One image per texture set; alpha that cut out the old image is carried over."""
    images = []
    for number, texture in enumerate(textures):
        items = [item for item in painted.values() if item.texture_set == number]
        see_through = [
            index
            for index in dict.fromkeys(item.material for item in items)
            if index is not None
            and builder.document["materials"][index].get("alphaMode", "OPAQUE") != "OPAQUE"
        ]
        if new_uvs is not None:
            from .cutouts import with_moved_alpha  # with torch, which other exports do not load

            texture = with_moved_alpha(texture, asset, new_uvs, see_through)
        else:
            for index in see_through:
                texture = with_alpha_of(texture, asset.mesh.materials[index].base_color_image)
        images.append(builder.add_image(encode_png(texture), f"seqtex_basecolor_{number}"))
    return images


def _material_owners(
    document: JsonObject, painted: Mapping[_PrimitiveId, _Painted], made_uvs: bool
) -> dict[tuple[int | None, int], list[_PrimitiveId]]:
    """Painted primitives by material and texture set.

    With the author's UVs, primitives of other scenes that show the same image follow along.
    """
    owners: dict[tuple[int | None, int], list[_PrimitiveId]] = {}
    for key, item in painted.items():
        owners.setdefault((item.material, item.texture_set), []).append(key)
    if made_uvs:
        return owners
    sets = dict(owners.keys())
    for key, primitive in _all_primitives(document):
        material = primitive.get("material")
        if key not in painted and material in sets and _has_slot_uvs(document, primitive):
            owners[material, sets[material]].append(key)
    return owners


def _target_material(
    builder: GltfBuilder,
    material: int | None,
    painted: Mapping[_PrimitiveId, _Painted],
    made_uvs: bool,
) -> int:
    """The material to change: itself, or a copy where others must keep it; new where none."""
    document = builder.document
    if material is None:
        plain = {"name": "seqtex", "pbrMetallicRoughness": {"metallicFactor": 0.0}}
        return builder.append("materials", plain)
    for key, primitive in _all_primitives(document):
        if material not in materials_of(primitive) or key in painted:
            continue
        if made_uvs or not _has_slot_uvs(document, primitive):
            entry = copy.deepcopy(document["materials"][material])
            return builder.append("materials", entry)
    return material


def _all_primitives(document: JsonObject) -> list[tuple[_PrimitiveId, JsonObject]]:
    return [
        ((mesh_index, index), primitive)
        for mesh_index, mesh in enumerate(document.get("meshes", []))
        for index, primitive in enumerate(mesh["primitives"])
    ]


def _has_slot_uvs(document: JsonObject, primitive: JsonObject) -> bool:
    """Whether a primitive's material finds the UVs of its base colour; false without material."""
    if "material" not in primitive:
        return False
    slot = base_color_slot(document["materials"][primitive["material"]])
    return f"TEXCOORD_{slot.tex_coord}" in primitive["attributes"]


def _point_to_image(
    builder: GltfBuilder,
    entry: JsonObject,
    image: int,
    *,
    keep_slot: bool,
    repeat: tuple[bool, bool],
) -> None:
    """Replace the base colour of a material entry: texture, and a neutral factor."""
    alpha = base_color_slot(entry).factor[3]
    pbr = entry.setdefault("pbrMetallicRoughness", {})
    glossy = entry.get("extensions", {}).get(SPECULAR_GLOSSINESS)
    old = pbr.get("baseColorTexture") or (glossy or {}).get("diffuseTexture") or {}
    texture: JsonObject = {"source": image}
    if "index" in old:
        replaced = builder.document["textures"][old["index"]]
        if "sampler" in replaced:
            texture = {"sampler": _sampler(builder, replaced["sampler"], repeat), **texture}
    index = _existing(builder, "textures", texture)
    info = {**(old if keep_slot else _without_placement(old)), "index": index}
    targets = [(pbr, "baseColorTexture", "baseColorFactor")]
    if glossy is not None:
        targets.append((glossy, "diffuseTexture", "diffuseFactor"))
    for target, texture_key, factor_key in targets:
        target[texture_key] = copy.deepcopy(info)
        factor = target.get(factor_key, [1.0, 1.0, 1.0, 1.0])
        # Metallic-roughness also says the alpha that only specular-glossiness said before.
        neutral = [1.0, 1.0, 1.0, alpha if target is pbr else factor[3]]
        if list(factor) != neutral:
            target[factor_key] = neutral


def _repeating_axes(asset: MeshAsset, material: int | None) -> tuple[bool, bool]:
    """Along which of u and v a material's UVs leave the unit square, which then repeats."""
    shown = asset.mesh.face_material == material
    if material is None or asset.mesh.face_uvs is None or not shown.any():
        return False, False
    return leaves_square(asset.mesh.face_uvs[shown])


def _sampler(builder: GltfBuilder, index: int, repeat: tuple[bool, bool]) -> int:
    """The sampler, or one like it that repeats."""
    old = builder.document["samplers"][index]
    fixed = {key for key, needed in zip(WRAP_KEYS, repeat, strict=True) if needed}
    kept = {key: value for key, value in old.items() if key not in fixed or value == REPEAT}
    return index if kept == old else _existing(builder, "samplers", kept)


def _without_placement(info: JsonObject) -> JsonObject:
    """A texture info without what says where the image lies: its UV set and transform."""
    kept = {key: value for key, value in info.items() if key not in ("texCoord", "extensions")}
    extensions = dict(info.get("extensions", {}))
    extensions.pop(TEXTURE_TRANSFORM, None)
    return {**kept, "extensions": extensions} if extensions else kept


def _existing(builder: GltfBuilder, kind: str, wanted: JsonObject) -> int:
    """Index of an equal entry, or of a new one."""
    for index, entry in enumerate(builder.document.get(kind, [])):
        if entry == wanted:
            return index
    return builder.append(kind, wanted)


def _shift_tex_coords(entry: Any) -> None:
    """Let every texture of a material use the UV set after its own: ours becomes set 0."""
    if not isinstance(entry, dict):
        return
    for key, value in entry.items():
        if key.endswith("Texture") and isinstance(value, dict) and "index" in value:
            value["texCoord"] = int(value.get("texCoord", 0)) + 1
            transform = value.get("extensions", {}).get("KHR_texture_transform", {})
            if "texCoord" in transform:
                transform["texCoord"] += 1
        else:
            _shift_tex_coords(value)
