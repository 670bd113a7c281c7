"""Base colour of glTF materials, and how it is laid over the mesh."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from seqtex_core.errors import InputError

from ..mesh import FloatArray, ImageArray, Material
from .gltf_file import GltfFile, JsonObject, find_file, read_uri
from .images import decode_image, missing_image

SPECULAR_GLOSSINESS = "KHR_materials_pbrSpecularGlossiness"
TEXTURE_TRANSFORM = "KHR_texture_transform"


@dataclass(frozen=True, kw_only=True)
class BaseColorSlot:
    """Where a material's base colour comes from.

    Args:
        texture: index of the texture, or ``None``.
        tex_coord: which TEXCOORD set it uses.
        transform: KHR_texture_transform in glTF's UV space, 2 x 3 row by row; ``None`` if none.
        factor: linear RGBA.
    """

    texture: int | None = None
    tex_coord: int = 0
    transform: tuple[float, ...] | None = None
    factor: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)


def base_color_slot(material: JsonObject) -> BaseColorSlot:
    """The base colour of a material: metallic-roughness first, else specular-glossiness."""
    pbr = material.get("pbrMetallicRoughness", {})
    info, factor = pbr.get("baseColorTexture"), pbr.get("baseColorFactor")
    glossy = material.get("extensions", {}).get(SPECULAR_GLOSSINESS)
    if glossy is not None and info is None:
        info = glossy.get("diffuseTexture")
        factor = glossy.get("diffuseFactor", factor)
    red, green, blue, alpha = (float(value) for value in factor or (1.0, 1.0, 1.0, 1.0))
    if info is None:
        return BaseColorSlot(factor=(red, green, blue, alpha))
    extension = info.get("extensions", {}).get(TEXTURE_TRANSFORM)
    tex_coord = int(info.get("texCoord", 0))
    if extension is not None:
        tex_coord = int(extension.get("texCoord", tex_coord))
    return BaseColorSlot(
        texture=int(info["index"]),
        tex_coord=tex_coord,
        transform=None if extension is None else _transform(extension),
        factor=(red, green, blue, alpha),
    )


def apply_transform(slot: BaseColorSlot, uvs: FloatArray) -> FloatArray:
    """Texture coordinates as the base colour image sees them, glTF space, ``[N, 2]``."""
    if slot.transform is None:
        return uvs
    matrix = np.array(slot.transform, dtype=np.float64).reshape(2, 3)
    return (uvs.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def _transform(extension: JsonObject) -> tuple[float, ...]:
    """Offset x rotation x scale; a positive rotation turns the UVs counter-clockwise on screen."""
    (move_u, move_v), (scale_u, scale_v) = (
        extension.get("offset", (0.0, 0.0)),
        extension.get("scale", (1.0, 1.0)),
    )
    cos, sin = math.cos(extension.get("rotation", 0.0)), math.sin(extension.get("rotation", 0.0))
    return (cos * scale_u, sin * scale_v, move_u, -sin * scale_u, cos * scale_v, move_v)


def texture_image(file: GltfFile, texture_index: object) -> int | None:
    """The image that a texture shows, ``None`` if it names none that can be read."""
    texture = file.entry("textures", texture_index)
    extensions = texture.get("extensions", {})
    source = texture.get("source", extensions.get("EXT_texture_webp", {}).get("source"))
    if source is None:
        return None
    file.entry("images", source)
    return int(source)


def _other_format(file: GltfFile, texture_index: object) -> InputError | None:
    """The error of a texture that exists in a format that cannot be read only (KTX2, DDS)."""
    extensions = file.entry("textures", texture_index).get("extensions", {})
    if not extensions or texture_image(file, texture_index) is not None:
        return None
    return InputError(
        f"{file.path.name}: textures[{texture_index}]",
        expected="a PNG, JPEG or WebP image",
        got=", ".join(extensions),
        remedy="Convert its textures to PNG first, for example with gltf-transform.",
    )


def image_bytes(file: GltfFile, image_index: int) -> bytes:
    """The image file that ``images[image_index]`` holds or refers to.

    Raises:
        InputError: it is missing.
    """
    image = file.entry("images", image_index)
    name = f"images[{image_index}] {image.get('name', '')}".strip()
    if "uri" in image:
        return read_uri(file.path, image["uri"], f"texture {name}")
    return bytes(file.view_bytes(image.get("bufferView")))


@dataclass(frozen=True, kw_only=True, eq=False)
class MaterialTable:
    """All materials of a file, the glTF default material last.

    Args:
        materials: decoded.
        keys: digest of the base colour image, ``None`` for plain colours.
        slots: where each base colour comes from.
    """

    materials: tuple[Material, ...]
    keys: tuple[str | None, ...]
    slots: tuple[BaseColorSlot, ...]


def read_materials(file: GltfFile, used: set[int]) -> MaterialTable:
    """The materials of a file; images are decoded only for those in ``used``."""
    decoded: dict[str, ImageArray] = {}
    materials, keys, slots = [], [], []
    for index, entry in enumerate(file.document.get("materials", [])):
        slot = base_color_slot(entry)
        shown = _ShownImage()
        if index in used and slot.texture is not None:
            shown = _shown_image(file, slot.texture, decoded)
        material = Material(
            name=str(entry.get("name", f"material {index}")),
            base_color_factor=slot.factor,
            base_color_image=shown.image,
            image_error=shown.error,
        )
        materials.append(material)
        keys.append(None if material.is_plain else shown.key)
        slots.append(slot)
    return MaterialTable(
        materials=(*materials, Material(name="default")),
        keys=(*keys, None),
        slots=(*slots, BaseColorSlot()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _ShownImage:
    """What an image is known by, its pixels, or why there are none."""

    key: str | None = None
    image: ImageArray | None = None
    error: InputError | None = None


def _shown_image(file: GltfFile, texture: int, decoded: dict[str, ImageArray]) -> _ShownImage:
    """The image that a texture shows.

    Raises:
        InputError: the file is damaged.
    """
    other = _other_format(file, texture)
    if other is not None:
        return _ShownImage(key=f"texture {texture}", error=other)
    source = texture_image(file, texture)
    if source is None:
        return _ShownImage()
    uri: str = file.entry("images", source).get("uri", "data:")
    if not uri.startswith("data:") and find_file(file.path, uri) is None:
        error = missing_image(f"{uri} of {file.path.name}")
        return _ShownImage(key=f"image {source}", error=error)
    data = image_bytes(file, source)
    key = hashlib.sha256(data).hexdigest()
    if key not in decoded:
        try:
            decoded[key] = decode_image(data, _image_name(file, source))
        except InputError as error:
            return _ShownImage(key=key, error=error)
    return _ShownImage(key=key, image=decoded[key])


def _image_name(file: GltfFile, index: int) -> str:
    image = file.entry("images", index)
    uri = str(image.get("uri", ""))
    label = image.get("name") or (uri if not uri.startswith("data:") else "")
    return f"images[{index}]{f' {label}' if label else ''} of {file.path.name}"
