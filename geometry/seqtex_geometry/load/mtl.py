"""MTL files: the base colour of OBJ materials."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from seqtex_core.errors import InputError

from ..mesh import Material
from .images import image_beside
from .lookup import decode_text

# Values that an option takes; after the first, only numbers count as values.
_OPTION_WORDS = {"-mm": 2, "-o": 3, "-s": 3, "-t": 3}


@dataclass(frozen=True, kw_only=True, eq=False)
class MtlLibrary:
    """One MTL file.

    Args:
        name: as the OBJ file names it.
        path: where it was found.
        text: its bytes.
    """

    name: str
    path: Path
    text: bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class MtlMaterial:
    """A decoded material.

    Args:
        material: for the mesh.
        key: digest of its image, ``None`` if it has none.
    """

    material: Material
    key: str | None


def read_mtl(library: MtlLibrary, used: set[str]) -> dict[str, MtlMaterial]:
    """The materials of a library; images are read only for those in ``used``."""
    found: dict[str, MtlMaterial] = {}
    for name, fields in _blocks(library.text):
        if name in used and name not in found:
            found[name] = _material(library, name, fields)
    return found


def map_file_name(value: str) -> str:
    """The file name of a ``map_`` statement, its options removed; it may contain spaces."""
    rest = value.strip()
    while rest.startswith("-"):
        option, _, rest = rest.partition(" ")
        for number in range(_OPTION_WORDS.get(option.lower(), 1)):
            word, _, tail = rest.lstrip().partition(" ")
            if number and not _is_number(word):
                break
            rest = tail.lstrip()
    return rest


def map_file_names(text: bytes) -> list[str]:
    """All image files that a library names, each once."""
    names = [
        map_file_name(value)
        for _, fields in _blocks(text)
        for key, value in fields.items()
        if is_map_key(key)
    ]
    return list(dict.fromkeys(name for name in names if name))


def is_map_key(key: str) -> bool:
    """Whether a statement names an image file."""
    return key.lower().startswith("map_") or key.lower() in (
        "bump",
        "disp",
        "decal",
        "norm",
        "refl",
    )


def mtl_statement(line: bytes) -> tuple[str, str]:
    """Keyword, in lower case, and value of one line; both empty on an empty one.

    Every line is decoded by itself, as in OBJ files: one comment in another encoding must not
    change the names of materials. Only ASCII spaces count, since the bytes of a Chinese name may
    look like others.
    """
    words = line.removeprefix(b"\xef\xbb\xbf").split(None, 1)
    key = decode_text(words[0]).lower() if words else ""
    return key, decode_text(words[1].strip()) if len(words) > 1 else ""


def _blocks(text: bytes) -> list[tuple[str, dict[str, str]]]:
    blocks: list[tuple[str, dict[str, str]]] = []
    for line in text.splitlines():
        key, value = mtl_statement(line)
        if key == "newmtl":
            blocks.append((value, {}))
        elif blocks:
            blocks[-1][1].setdefault(key, value)
    return blocks


def _material(library: MtlLibrary, name: str, fields: dict[str, str]) -> MtlMaterial:
    color = [float(word) for word in fields.get("kd", "").split()[:3] if _is_number(word)]
    red, green, blue = color if len(color) == 3 else (1.0, 1.0, 1.0)
    alpha = _dissolve(fields.get("d", ""))
    file_name = map_file_name(fields.get("map_kd", ""))
    if not file_name:
        plain = Material(name=name, base_color_factor=(red, green, blue, alpha))
        return MtlMaterial(material=plain, key=None)
    label = f"{file_name} of material {name} in {library.path.name}"
    try:
        image, data = image_beside(library.path.parent, file_name, label)
    except InputError as error:
        factor = (red, green, blue, alpha)
        bare = Material(name=name, base_color_factor=factor, image_error=error)
        return MtlMaterial(material=bare, key=f"file {file_name}")
    # Programs that write an image often leave a meaningless Kd beside it: the image alone counts.
    factor = (1.0, 1.0, 1.0, alpha)
    material = Material(name=name, base_color_factor=factor, base_color_image=image)
    key = None if material.is_plain else hashlib.sha256(data).hexdigest()
    return MtlMaterial(material=material, key=key)


def _dissolve(value: str) -> float:
    """Opacity after ``d``; a 0 is not believed, since some programs write it for solid things."""
    words = [word for word in value.split() if _is_number(word)]
    alpha = float(words[0]) if words else 1.0
    return alpha if 0.0 < alpha < 1.0 else 1.0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
