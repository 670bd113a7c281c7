"""The MTL file beside an OBJ: painted materials show the new images, all else stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..asset import MeshAsset
from ..load.lookup import decode_text, encode_text, find_beside
from ..load.mtl import MtlLibrary, is_map_key, map_file_name, mtl_statement
from ..load.obj import ObjFile

BOM = b"\xef\xbb\xbf"


def new_library(
    asset: MeshAsset, document: ObjFile, images: Sequence[str], made_uvs: bool
) -> tuple[bytes, dict[str, bytes]]:
    """The new MTL text, and copies of the other images that it names.

    Args:
        asset: an OBJ.
        document: of it.
        images: file names of the new textures, one per texture set.
        made_uvs: UVs were made; further maps of painted materials, which an OBJ can only lay out
            by the same UVs, are left out.
    """
    image_of: dict[str, str] = {}
    for index, material in enumerate(asset.mesh.materials):
        rows = asset.mesh.face_material == index
        texture_set = int(asset.mesh.face_texture_set[rows].max(initial=-1))
        if made_uvs and rows.any():
            texture_set = 0
        if texture_set >= 0:
            image_of[material.name] = images[texture_set]
    text = bytearray()
    copied: dict[str, bytes] = {}
    written: set[str] = set()
    for library in document.libraries:
        renamed, found = _other_images(library, image_of, made_uvs)
        copied |= found
        text += _rewritten_library(library.text, image_of, renamed, written, made_uvs)
    spelled = _material_names(document)
    for name, image in image_of.items():
        if name not in written:
            text += b"newmtl " + spelled.get(name, name.encode()) + b"\n"
            text += _base_color_lines(image, b"\n")
    return bytes(text), copied


def _material_names(document: ObjFile) -> dict[str, bytes]:
    """Material names as the OBJ spells them, in whatever encoding, by what they are read as."""
    statements = (line.split(None, 1) for line in document.text.lines)
    values = [words[1].strip() for words in statements if len(words) > 1 and words[0] == b"usemtl"]
    return {decode_text(value): value for value in values}


def _base_color_lines(image: str, end: bytes) -> bytes:
    return b"Kd 1.0 1.0 1.0" + end + b"map_Kd " + image.encode() + end


def _rewritten_library(
    text: bytes,
    image_of: dict[str, str],
    renamed: dict[str, str],
    written: set[str],
    made_uvs: bool,
) -> bytes:
    """MTL text whose painted materials show the new images; other lines stay as they are."""
    result = bytearray()
    image: str | None = None
    for line in text.removeprefix(BOM).splitlines(keepends=True):
        key, value = mtl_statement(line)
        end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
        if key == "newmtl":
            image = image_of.get(value)
            written.add(value)
            result += line.rstrip(b"\r\n") + end
            if image is not None:
                result += _base_color_lines(image, end)
        elif image is not None and (key == "kd" or _is_left_out(key, made_uvs)):
            continue
        elif is_map_key(key) and map_file_name(value) in renamed:
            name = map_file_name(value)
            result += line.replace(encode_text(name, line), encode_text(renamed[name], line))
        else:
            result += line
    if result and not result.endswith(b"\n"):
        result += b"\n"
    return bytes(result)


def _is_left_out(key: str, made_uvs: bool) -> bool:
    """Whether a map of a painted material goes: its base colour, or all, which fit old UVs only."""
    return is_map_key(key) if made_uvs else key == "map_kd"


def other_maps(asset: MeshAsset) -> list[str]:
    """Images other than base colours that an OBJ's materials name."""
    document = asset.document
    if not isinstance(document, ObjFile):
        return []
    used = {material.name for material in asset.mesh.materials}
    found: dict[str, None] = {}
    for library in document.libraries:
        name = ""
        for line in library.text.splitlines():
            key, value = mtl_statement(line)
            name = value if key == "newmtl" else name
            if name in used and is_map_key(key) and key != "map_kd" and map_file_name(value):
                found[map_file_name(value)] = None
    return list(found)


def _other_images(
    library: MtlLibrary, image_of: dict[str, str], made_uvs: bool
) -> tuple[dict[str, str], dict[str, bytes]]:
    """New names for images that lie elsewhere, and the content of all that are kept."""
    renamed: dict[str, str] = {}
    files: dict[str, bytes] = {}
    material = ""
    for line in library.text.splitlines():
        key, value = mtl_statement(line)
        if key == "newmtl":
            material = value
        replaced = material in image_of and _is_left_out(key, made_uvs)
        if not is_map_key(key) or replaced:
            continue
        name = map_file_name(value)
        found = find_beside(library.path.parent, name) if name else None
        if found is None:
            continue
        plain = found == library.path.parent / name and ".." not in Path(name).parts
        target = name if plain and not Path(name).is_absolute() else found.name
        if target != name:
            renamed[name] = target
        files[target] = found.read_bytes()
    return renamed, files
