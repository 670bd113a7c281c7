"""glTF 2.0 containers: ``.glb`` and ``.gltf`` as a JSON document and untouched buffers."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from seqtex_core.errors import InputError

from .lookup import find_beside

JsonObject = dict[str, Any]
GLB_MAGIC = b"glTF"
CHUNK_JSON = 0x4E4F534A
CHUNK_BIN = 0x004E4942

_DAMAGED = "The file is damaged or was cut off: copy or export it again."
_UNPACK = "Decompress it first, for example with `gltf-transform copy IN OUT`, and try again."
_PACKED = {
    "KHR_draco_mesh_compression": "Draco",
    "EXT_meshopt_compression": "meshopt",
    "KHR_meshopt_compression": "meshopt",
}
# Extensions that may be required by a file and still leave its geometry readable as it stands.
_HARMLESS_PREFIXES = ("KHR_materials_", "KHR_lights", "KHR_texture_transform", "EXT_lights")
_HARMLESS = {
    "KHR_mesh_quantization",
    "KHR_texture_basisu",
    "EXT_texture_webp",
    "EXT_mesh_gpu_instancing",
    "KHR_animation_pointer",
    "KHR_xmp_json_ld",
    "KHR_node_visibility",
    "MSFT_texture_dds",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class GltfFile:
    """A glTF asset: the parsed JSON, its buffers, and the files they came from.

    Args:
        path: the main file.
        is_binary: it is a GLB; buffer 0 is then usually its binary chunk.
        document: the JSON; never changed in place.
        buffers: contents of ``buffers[i]``: for the GLB chunk with its padding.
        source: bytes of the main file.
        resources: bytes of external buffer files, by URI as written.
        other_chunks: type and content of a GLB's chunks other than JSON and binary, in order.
    """

    path: Path
    is_binary: bool
    document: JsonObject
    buffers: tuple[bytes, ...]
    source: bytes
    resources: Mapping[str, bytes]
    other_chunks: tuple[tuple[int, bytes], ...] = ()

    def entry(self, kind: str, index: object) -> JsonObject:
        """``document[kind][index]``.

        Raises:
            InputError: there is no such entry.
        """
        entries = self.document.get(kind, [])
        if not isinstance(index, int) or not 0 <= index < len(entries):
            raise InputError(
                f"{self.path.name}: {kind}[{index}]",
                expected=f"an index below {len(entries)}",
                got=repr(index),
                remedy=_DAMAGED,
            )
        found: JsonObject = entries[index]
        return found

    def view_bytes(self, index: object) -> memoryview:
        """The bytes of a buffer view.

        Raises:
            InputError: the view reaches past its buffer.
        """
        view = self.entry("bufferViews", index)
        if any(extension in view.get("extensions", {}) for extension in _PACKED):
            raise _packed_error(self.path, "meshopt")
        self.entry("buffers", view["buffer"])
        data = self.buffers[view["buffer"]]
        start, length = int(view.get("byteOffset", 0)), int(view["byteLength"])
        if start < 0 or length < 0 or start + length > len(data):
            raise InputError(
                f"{self.path.name}: bufferViews[{index}]",
                expected=f"bytes within its buffer of {len(data)}",
                got=f"bytes {start} to {start + length}",
                remedy=_DAMAGED,
            )
        return memoryview(data)[start : start + length]


def read_gltf_file(path: Path) -> GltfFile:
    """The container of a ``.glb`` or ``.gltf`` file, with its external buffers read.

    Raises:
        InputError: cut off, not JSON, not glTF 2.0, compressed, or a buffer file is missing or
            too short.
    """
    source = path.read_bytes()
    is_binary = source[:4] == GLB_MAGIC
    text, chunk, others = _split_glb(path, source) if is_binary else (source, None, ())
    document = _parse_json(path, text)
    _check_supported(path, document)
    resources: dict[str, bytes] = {}
    buffers = []
    for index, buffer in enumerate(document.get("buffers", [])):
        if any(extension in buffer.get("extensions", {}) for extension in _PACKED):
            raise _packed_error(path, "meshopt")
        if "uri" in buffer:
            data = read_uri(path, buffer["uri"], f"buffers[{index}]")
            if not buffer["uri"].startswith("data:"):
                resources[buffer["uri"]] = data
        elif index == 0 and chunk is not None:
            data = chunk
        else:
            data = b""
        if len(data) < int(buffer["byteLength"]):
            raise InputError(
                f"{path.name}: buffers[{index}]",
                expected=f"{buffer['byteLength']} bytes",
                got=f"{len(data)} bytes",
                remedy=_DAMAGED,
            )
        buffers.append(data)
    return GltfFile(
        path=path,
        is_binary=is_binary,
        document=document,
        buffers=tuple(buffers),
        source=source,
        resources=resources,
        other_chunks=others,
    )


def read_uri(path: Path, uri: str, subject: str) -> bytes:
    """The bytes behind a URI: data, or a file beside ``path``.

    Raises:
        InputError: a network address, broken base64, or a file that cannot be read.
    """
    if uri.startswith("data:"):
        header, _, body = uri.partition(",")
        try:
            if header.endswith(";base64"):
                return base64.b64decode(body, validate=False)
            return unquote(body).encode("latin-1")
        except (binascii.Error, UnicodeEncodeError) as error:
            raise InputError(
                f"{path.name}: {subject}", expected="base64 data", got=str(error), remedy=_DAMAGED
            ) from error
    target = find_file(path, uri)
    if target is None:
        place = path.parent / unquote(uri)
        raise InputError(
            f"{path.name}: {subject}",
            expected="a file beside it",
            got=f"{uri!r}, which is not there",
            remedy=f"Put the file at {place}." if "://" not in uri else "Download it first.",
        )
    return target.read_bytes()


def find_file(path: Path, uri: str) -> Path | None:
    """The file that a URI in ``path`` means, ``None`` if there is none.

    Programs write names without escaping them, with backslashes or in another case.
    """
    if "://" in uri:
        return None
    return find_beside(path.parent, unquote(uri)) or find_beside(path.parent, uri)


def _split_glb(
    path: Path, source: bytes
) -> tuple[bytes, bytes | None, tuple[tuple[int, bytes], ...]]:
    """The JSON chunk, the binary chunk if there is one, and all others."""
    if len(source) < 20:
        raise InputError(str(path), expected="a GLB", got=f"{len(source)} bytes", remedy=_DAMAGED)
    version, length = struct.unpack_from("<II", source, 4)
    if version != 2:
        raise InputError(
            str(path),
            expected="glTF version 2",
            got=f"version {version}",
            remedy="Convert the file to glTF 2.0.",
        )
    if length > len(source):
        raise InputError(
            str(path),
            expected=f"{length} bytes, as its header declares",
            got=f"{len(source)} bytes",
            remedy=_DAMAGED,
        )
    chunks: list[tuple[int, bytes]] = []
    offset = 12
    while offset + 8 <= length:
        size, kind = struct.unpack_from("<II", source, offset)
        if offset + 8 + size > length:
            raise InputError(
                str(path),
                expected=f"a chunk of {size} bytes at byte {offset}",
                got=f"{length - offset - 8} bytes",
                remedy=_DAMAGED,
            )
        chunks.append((kind, source[offset + 8 : offset + 8 + size]))
        offset += 8 + size
    if not chunks or chunks[0][0] != CHUNK_JSON:
        raise InputError(
            str(path), expected="a JSON chunk first", got="another chunk", remedy=_DAMAGED
        )
    text, rest = chunks[0][1], chunks[1:]
    binary = next((number for number, (kind, _) in enumerate(rest) if kind == CHUNK_BIN), None)
    if binary is None:
        return text, None, tuple(rest)
    return text, rest[binary][1], tuple(rest[:binary] + rest[binary + 1 :])


def _parse_json(path: Path, text: bytes) -> JsonObject:
    try:
        document = json.loads(text.decode("utf-8-sig").rstrip("\x00 \t\r\n"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            str(path),
            expected="glTF JSON",
            got=f"text that fails to parse ({error})",
            remedy=_DAMAGED,
        ) from error
    if not isinstance(document, dict) or "asset" not in document:
        raise InputError(
            str(path),
            expected="a glTF document with an `asset`",
            got="other JSON",
            remedy="Check that this is a glTF file.",
        )
    return document


def _check_supported(path: Path, document: JsonObject) -> None:
    version = str(document["asset"].get("version", ""))
    if not version.startswith("2"):
        raise InputError(
            str(path),
            expected="glTF version 2",
            got=f"version {version or 'missing'}",
            remedy="Convert the file to glTF 2.0.",
        )
    required = document.get("extensionsRequired", [])
    for name in required:
        if name in _PACKED:
            raise _packed_error(path, _PACKED[name])
        if name not in _HARMLESS and not name.startswith(_HARMLESS_PREFIXES):
            raise InputError(
                str(path),
                expected="required extensions that are known here",
                got=name,
                remedy="Export without it, or convert the file with gltf-transform.",
            )


def _packed_error(path: Path, name: str) -> InputError:
    return InputError(
        str(path), expected="uncompressed geometry", got=f"{name} compression", remedy=_UNPACK
    )
