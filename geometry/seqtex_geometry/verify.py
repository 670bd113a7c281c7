"""The promise of every export: nothing but the base colour changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from seqtex_core.errors import ContractError, InputError

from .asset import MeshAsset, load_asset
from .axes import Axes
from .export.gltf_colors import names_set_aside, opacity_alone, renamed
from .export.gltf_new import faces_by_part, near_positions, primitive_faces
from .export.gltf_split import file_corner_uvs, flip_v
from .export.gltf_variants import VARIANTS, mappings_of
from .export.obj import tinting_colors
from .load.gltf import triangle_indices
from .load.gltf_accessors import read_stored
from .load.gltf_file import GltfFile, JsonObject
from .load.gltf_materials import base_color_slot, image_bytes, texture_image
from .load.obj import DEFAULT_MATERIAL, ObjFile
from .load.obj_text import ObjText
from .load.parsed import lies_far_out
from .mesh import FloatArray, ImageArray

_FREE_KEYS = {"asset", "buffers", "bufferViews", "accessors", "images", "samplers", "textures",
              "materials", "meshes"}  # fmt: skip
_BASE_COLOR_KEYS = {"baseColorTexture", "baseColorFactor", "diffuseTexture", "diffuseFactor"}


def verify_unchanged(
    asset: MeshAsset,
    out_path: str | Path,
    *,
    textures: Sequence[ImageArray] | None = None,
    new_uvs: FloatArray | None = None,
) -> list[str]:
    """Names of what was compared between an asset and the file written from it.

    Args:
        asset: the input.
        out_path: the output, read again from disk.
        textures: what its images must show, pixel by pixel. Optional.
        new_uvs: UVs that were made by us, ``[T, 3, 2]``; ``None`` if the author's were kept.

    Raises:
        ContractError: a difference that is not the base colour, or a file that cannot be read.
    """
    out_path = Path(out_path)
    try:
        axes = asset.axes
        written = load_asset(out_path, up=axes.up, front=axes.front, bad_images="tell")
    except InputError as error:
        raise ContractError(
            "export", expected="a file that can be read again", got=str(error)
        ) from error
    if isinstance(asset.document, ObjFile) and isinstance(written.document, ObjFile):
        checked = _check_obj(asset, written, new_uvs)
    else:
        result = written.document
        assert isinstance(result, GltfFile)
        if isinstance(asset.document, GltfFile):
            checked = _check_gltf(asset, asset.document, result, new_uvs)
        else:
            checked = _check_new_gltf(asset, result, new_uvs)
    if textures is not None:
        _check_textures(written, textures)
        checked.append("texture pixels")
    return checked


def require(same: bool, what: str, got: str = "a difference") -> None:
    """Raise unless ``same``.

    Raises:
        ContractError: ``same`` is false.
    """
    if not same:
        raise ContractError(
            f"export, {what}",
            expected="what the input has",
            got=got,
            remedy="Nothing was written. Please report this mesh.",
        )


def _check_gltf(
    asset: MeshAsset, old: GltfFile, new: GltfFile, new_uvs: FloatArray | None
) -> list[str]:
    before, after = old.document, new.document
    for key in sorted({*before, *after} - _FREE_KEYS):
        require(before.get(key) == after.get(key), key)
    asset_entry = {key: value for key, value in after["asset"].items() if key != "extras"}
    expected = {key: value for key, value in before["asset"].items() if key != "extras"}
    require(asset_entry == expected, "asset")
    extras = before["asset"].get("extras", {})
    if isinstance(extras, dict):
        kept = {key: after["asset"]["extras"].get(key) for key in extras if key != "seqtex"}
        require(kept == {k: v for k, v in extras.items() if k != "seqtex"}, "asset.extras")
    if new.is_binary:
        require(old.other_chunks == new.other_chunks, "GLB chunks")
    _check_entries(before, after, "accessors")
    _check_entries(before, after, "samplers")
    _check_views(old, new)
    _check_materials(before, after, new_uvs is None)
    _check_images(old, new)
    if new_uvs is None:
        _check_meshes(old, new)
        return ["buffers", "accessors", "meshes", "nodes", "skins", "animations", "extras"]
    _check_split(asset, old, new, new_uvs)
    return ["corner positions", "attributes", "nodes", "skins", "animations", "extras"]


def _check_entries(before: JsonObject, after: JsonObject, kind: str) -> None:
    entries = before.get(kind, [])
    require(after.get(kind, [])[: len(entries)] == entries, kind)


def _check_views(old: GltfFile, new: GltfFile) -> None:
    """Every old buffer view holds the same bytes; a single buffer is a prefix of the new one."""
    views = old.document.get("bufferViews", [])
    require(len(new.document.get("bufferViews", [])) >= len(views), "bufferViews")
    for index, view in enumerate(views):
        other = new.document["bufferViews"][index]
        if len(old.buffers) == 1:
            require(view == other, f"bufferViews[{index}]")
        same_keys = {**view, "buffer": 0, "byteOffset": 0} == {
            **other,
            "buffer": 0,
            "byteOffset": 0,
        }
        require(same_keys and old.view_bytes(index) == new.view_bytes(index), f"bytes of {index}")
    if len(old.buffers) == 1:
        require(new.buffers[0][: len(old.buffers[0])] == old.buffers[0], "buffer 0")


def _check_materials(before: JsonObject, after: JsonObject, same_uvs: bool) -> None:
    materials = before.get("materials", [])
    require(len(after.get("materials", [])) >= len(materials), "materials")
    for index, entry in enumerate(materials):
        other = after["materials"][index]
        skipped = _BASE_COLOR_KEYS | (set() if same_uvs else {"texCoord"})
        same = _without(entry, skipped) == _without(other, skipped)
        require(same, f"materials[{index}]")
        require(_info_extras(entry) == _info_extras(other), f"extras in materials[{index}]")
        slot, new_slot = base_color_slot(entry), base_color_slot(other)
        require(slot.factor[3] == new_slot.factor[3], f"alpha of materials[{index}]")
        if same_uvs and slot.texture is not None:
            same = slot.tex_coord == new_slot.tex_coord and slot.transform == new_slot.transform
            require(same, f"UVs of materials[{index}]")
    _check_entries(before, after, "textures")


def _info_extras(material: JsonObject) -> Any:
    return material.get("pbrMetallicRoughness", {}).get("baseColorTexture", {}).get("extras")


def _without(entry: Any, skipped: set[str]) -> Any:
    """A JSON value without the keys in ``skipped`` and without objects that are empty then."""
    if not isinstance(entry, dict):
        return entry
    kept = {key: _without(value, skipped) for key, value in entry.items() if key not in skipped}
    return {key: value for key, value in kept.items() if value != {} or key == "extras"}


def _check_images(old: GltfFile, new: GltfFile) -> None:
    for index, image in enumerate(old.document.get("images", [])):
        other = new.document["images"][index]
        if "bufferView" in image:
            require(image == other, f"images[{index}]")
        elif "uri" in other:
            require(image["uri"] == other["uri"], f"images[{index}]")
        else:
            require(image_bytes(old, index) == image_bytes(new, index), f"images[{index}]")


def _check_meshes(old: GltfFile, new: GltfFile) -> None:
    """Meshes are equal, but for materials that had to be copied and colours that were set aside."""
    copies = len(old.document.get("materials", []))
    old_meshes, new_meshes = old.document.get("meshes", []), new.document.get("meshes", [])
    require(len(old_meshes) == len(new_meshes), "meshes")
    for index, (mesh, other) in enumerate(zip(old_meshes, new_meshes, strict=True)):
        what = f"meshes[{index}]"
        require(len(mesh["primitives"]) == len(other["primitives"]), what)
        require({**mesh, "primitives": None} == {**other, "primitives": None}, what)
        for was, now in zip(mesh["primitives"], other["primitives"], strict=True):
            expected = dict(was)
            if now.get("material", -1) >= copies:
                expected["material"] = now["material"]
            _check_variants(was, now, copies, what)
            if mappings_of(was):
                expected["extensions"] = {
                    **was["extensions"],
                    VARIANTS: now["extensions"][VARIANTS],
                }
            if now["attributes"] != was["attributes"]:
                expected = _colors_aside(old, new, expected, now)
            require(expected == now, what)


def _check_variants(was: JsonObject, now: JsonObject, copies: int, what: str) -> None:
    """Variants name the same materials, or copies of them."""
    old, new = mappings_of(was), mappings_of(now)
    require(len(old) == len(new), f"variants of {what}")
    for entry, other in zip(old, new, strict=True):
        same = {**entry, "material": 0} == {**other, "material": 0}
        material = other["material"]
        require(
            same and (material == entry["material"] or material >= copies), f"variants of {what}"
        )


def _colors_aside(
    old: GltfFile, new: GltfFile, expected: JsonObject, now: JsonObject
) -> JsonObject:
    """The primitive with its colours set aside, as far as it must be; alpha must stay."""
    names = names_set_aside(old, expected)
    result = {**expected, "attributes": renamed(expected["attributes"], names)}
    if "targets" in expected:
        result["targets"] = [renamed(item, names) for item in expected["targets"]]
    white = opacity_alone(old, expected, None) if names else None
    if white is not None and "COLOR_0" in now["attributes"]:
        stored = read_stored(new, now["attributes"]["COLOR_0"])
        require(np.array_equal(stored, white), "alpha of vertex colours")
        result["attributes"]["COLOR_0"] = now["attributes"]["COLOR_0"]
    return result


def _check_split(asset: MeshAsset, old: GltfFile, new: GltfFile, new_uvs: FloatArray) -> None:
    """Each corner of each triangle shows the same attribute values as before."""
    rewritten = {(ref.mesh, ref.primitive): ref for ref in asset.primitives if ref.num_faces}
    for ref in (item for item in asset.primitives if not item.is_instance and item.num_faces):
        before = old.document["meshes"][ref.mesh]["primitives"][ref.primitive]
        after = new.document["meshes"][ref.mesh]["primitives"][ref.primitive]
        _check_variants(before, after, len(old.document.get("materials", [])), ref.name)
        was, now = triangle_indices(old, before), triangle_indices(new, after)
        require(was.shape == now.shape, f"faces of {ref.name}")
        aside = names_set_aside(old, before)
        for name, accessor in before["attributes"].items():
            now_called = aside.get(name, name)
            if name.startswith("TEXCOORD_"):
                now_called = f"TEXCOORD_{int(name[9:]) + 1}"
            require(now_called in after["attributes"], f"{name} of {ref.name}", "no such attribute")
            _require_same_corners(
                (old, accessor, was), (new, after["attributes"][now_called], now), name
            )
        white = opacity_alone(old, before, None) if aside else None
        if white is not None:
            require("COLOR_0" in after["attributes"], f"alpha of colours of {ref.name}")
            stored = read_stored(new, after["attributes"]["COLOR_0"])[now]
            require(np.array_equal(stored, white[was]), f"alpha of colours of {ref.name}")
        for target, other in zip(before.get("targets", []), after.get("targets", []), strict=True):
            for name, accessor in target.items():
                moved = other[aside.get(name, name)]
                _require_same_corners((old, accessor, was), (new, moved, now), name)
        uvs = read_stored(new, after["attributes"]["TEXCOORD_0"])[now]
        require(np.array_equal(uvs, file_corner_uvs(ref, new_uvs)), f"new UVs of {ref.name}")
    for mesh_index, mesh in enumerate(old.document.get("meshes", [])):
        other = new.document["meshes"][mesh_index]
        require(
            {k: v for k, v in mesh.items() if k != "primitives"}
            == {k: v for k, v in other.items() if k != "primitives"},
            f"meshes[{mesh_index}]",
        )
        for index, primitive in enumerate(mesh["primitives"]):
            if (mesh_index, index) not in rewritten:
                require(primitive == other["primitives"][index], f"meshes[{mesh_index}]")


def _require_same_corners(
    before: tuple[GltfFile, int, np.ndarray], after: tuple[GltfFile, int, np.ndarray], what: str
) -> None:
    was = read_stored(before[0], before[1])[before[2]]
    now = read_stored(after[0], after[1])[after[2]]
    require(was.dtype == now.dtype and was.tobytes() == now.tobytes(), what)


def _check_new_gltf(asset: MeshAsset, new: GltfFile, new_uvs: FloatArray | None) -> list[str]:
    mesh = asset.mesh
    sets = np.zeros_like(mesh.face_texture_set) if new_uvs is not None else mesh.face_texture_set
    groups = [
        rows[some]
        for rows in faces_by_part(asset).values()
        for some in primitive_faces(mesh.face_material[rows], sets[rows])
    ]
    primitives = [item for one in new.document["meshes"] for item in one["primitives"]]
    require(len(groups) == len(primitives), "number of parts")
    shown = [node["mesh"] for node in new.document["nodes"] if "mesh" in node]
    require(shown == list(range(len(new.document["meshes"]))), "parts")
    uvs = new_uvs if new_uvs is not None else mesh.face_uvs
    assert uvs is not None
    placed = np.array(new.document["nodes"][0].get("matrix", np.eye(4))).reshape(4, 4).T
    local = near_positions(mesh, placed[:3, :3].T @ placed[:3, 3] + 0.0)
    require(not lies_far_out(local[mesh.faces].reshape(-1, 3)), "corners", "a blur by rounding")
    for rows, primitive in zip(groups, primitives, strict=True):
        triangles = triangle_indices(new, primitive)
        positions = read_stored(new, primitive["attributes"]["POSITION"])[triangles]
        require(positions.tobytes() == local[mesh.faces[rows]].tobytes(), "corners")
        if "TEXCOORD_0" in primitive["attributes"]:
            stored = read_stored(new, primitive["attributes"]["TEXCOORD_0"])[triangles]
            require(np.array_equal(stored, flip_v(uvs[rows])), "UVs")
    require(np.array_equal(Axes().rotation() @ placed[:3, :3], asset.axes.rotation()), "axes")
    return ["corner positions", "UVs"]


def _check_obj(asset: MeshAsset, written: MeshAsset, new_uvs: FloatArray | None) -> list[str]:
    kept = {b"v", b"vt", b"vn", b"f", b"l", b"p", b"o", b"g", b"s", b"usemtl"}
    if new_uvs is not None:
        kept -= {b"vt", b"f", b"l"}
    if tinting_colors(asset):
        kept -= {b"v"}
        was, now = _obj_text(asset).positions, _obj_text(written).positions
        require(np.array_equal(was, now), "positions")
    before, after = _obj_lines(asset, kept), _obj_lines(written, kept)
    added = f"usemtl {DEFAULT_MATERIAL}".encode()
    if added not in (line.strip() for line in before):
        after = [line for line in after if line.strip() != added]
    require(before == after, "OBJ lines")
    old, new = asset.mesh, written.mesh
    same = old.faces.shape == new.faces.shape
    same = same and np.array_equal(old.vertices[old.faces], new.vertices[new.faces])
    require(same, "corner positions")
    if new_uvs is not None:
        require(new.face_uvs is not None and np.array_equal(new.face_uvs, new_uvs), "new UVs")
        return ["corner positions", "OBJ lines other than vt and f"]
    return ["OBJ lines", "corner positions"]


def _obj_lines(asset: MeshAsset, kept: set[bytes]) -> list[bytes]:
    lines = []
    for line in _obj_text(asset).lines:
        words = line.removeprefix(b"\xef\xbb\xbf").split(None, 1)
        if words and words[0] in kept:
            lines.append(line.removeprefix(b"\xef\xbb\xbf"))
    return lines


def _obj_text(asset: MeshAsset) -> ObjText:
    assert isinstance(asset.document, ObjFile)
    return asset.document.text


def _check_textures(written: MeshAsset, textures: Sequence[ImageArray]) -> None:
    """Some material shows each texture; alpha may have been carried over from the old image."""
    shown = [
        material.base_color_image
        for material in written.mesh.materials
        if material.base_color_image is not None
    ]
    if isinstance(written.document, GltfFile):
        shown += _all_base_colors(written.document)
    for number, texture in enumerate(textures):
        channels = texture.shape[2]
        found = any(
            image.shape[:2] == texture.shape[:2] and np.array_equal(image[..., :channels], texture)
            for image in shown
        )
        require(found, f"texture {number}", "no material that shows it")


def _all_base_colors(file: GltfFile) -> list[ImageArray]:
    """The PNG images of all base colours, each once."""
    from .load.images import decode_image

    slots = [base_color_slot(material) for material in file.document.get("materials", [])]
    textures = {slot.texture for slot in slots if slot.texture is not None}
    sources = {source for index in textures if (source := texture_image(file, index)) is not None}
    images = []
    for source in sorted(sources):
        if file.document["images"][source].get("mimeType") == "image/png":
            with suppress(InputError):  # one of the original's that cannot be read is not ours
                images.append(decode_image(image_bytes(file, source), f"images[{source}]"))
    return images
