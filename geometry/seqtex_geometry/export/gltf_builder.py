"""A glTF document that is only ever added to, and its packing into files."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from seqtex_core.errors import InputError, UsageError

from ..load.gltf_accessors import COMPONENT_DTYPES, TYPE_SIZES, AnyArray
from ..load.gltf_file import CHUNK_BIN, CHUNK_JSON, GLB_MAGIC, GltfFile, JsonObject, read_uri

_COMPONENT_OF_DTYPE = {dtype: code for code, dtype in COMPONENT_DTYPES.items()}
_TARGETS = {"vertex": 34962, "index": 34963}


class GltfBuilder:
    """Copies a document and appends to it; what was there keeps its index and its bytes.

    Args:
        document: JSON to start from; it is copied.
        buffers: contents of its buffers.
        other_chunks: type and content of further GLB chunks; a GLB gets them, a ``.gltf`` cannot.
    """

    def __init__(
        self,
        document: JsonObject,
        buffers: tuple[bytes, ...] = (),
        other_chunks: tuple[tuple[int, bytes], ...] = (),
    ) -> None:
        self.document: JsonObject = copy.deepcopy(document)
        self.buffers = buffers
        self._other_chunks = other_chunks
        self._blobs: list[tuple[bytes, JsonObject]] = []
        self._images: dict[int, bytes] = {}

    def append(self, kind: str, entry: JsonObject) -> int:
        """Add an entry to ``document[kind]``; its index."""
        entries: list[JsonObject] = self.document.setdefault(kind, [])
        entries.append(entry)
        return len(entries) - 1

    def add_image(self, png: bytes, name: str) -> int:
        """Add a PNG image; where its bytes go is decided when packing."""
        index = self.append("images", {"name": name, "mimeType": "image/png"})
        self._images[index] = png
        return index

    def add_accessor(self, elements: AnyArray, like: JsonObject, *, use: str = "vertex") -> int:
        """Add an accessor over its own bytes.

        Args:
            elements: ``[N, components]`` in the type to be stored.
            like: fields to copy: "type", "normalized", "name".
            use: "vertex" or "index", the buffer view's target.
        """
        size = elements.dtype.itemsize * elements.shape[1]
        stride = size if use == "index" else -(-size // 4) * 4
        rows = np.zeros((len(elements), stride), np.uint8)
        stored = np.ascontiguousarray(elements)
        rows[:, :size] = stored.view(np.uint8).reshape(len(elements), size)
        view: JsonObject = {"target": _TARGETS[use]}
        if stride != size:
            view["byteStride"] = stride
        self._blobs.append((rows.tobytes(), view))
        accessor: JsonObject = {key: like[key] for key in ("name", "normalized") if key in like}
        accessor |= {
            "bufferView": self._view_index(len(self._blobs) - 1),
            "componentType": _COMPONENT_OF_DTYPE[stored.dtype.newbyteorder("<")],
            "count": len(elements),
            "type": like["type"],
        }
        assert TYPE_SIZES[like["type"]] == elements.shape[1]
        # JSON has no word for bounds that are not numbers, as broken normals have.
        if ("min" in like or like.get("needs_bounds")) and np.isfinite(elements).all():
            accessor["min"] = elements.min(axis=0).tolist()
            accessor["max"] = elements.max(axis=0).tolist()
        return self.append("accessors", accessor)

    def set_extras(self, extras: Mapping[str, Any]) -> None:
        """Store ``asset.extras.seqtex``.

        Raises:
            UsageError: the values cannot be written as JSON.
        """
        try:
            stored = json.loads(json.dumps(extras, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError("extras", expected="JSON values", got=str(error)) from error
        asset = self.document["asset"]
        old = asset.get("extras", {})
        asset["extras"] = {**(old if isinstance(old, dict) else {"original": old})}
        asset["extras"]["seqtex"] = stored

    def pack_glb(self, path: Path) -> bytes:
        """One self-contained GLB; original buffers come first in its binary chunk.

        Args:
            path: file beside which external images lie.
        """
        chunk = self._merge_buffers()
        for index, image in enumerate(self.document.get("images", [])):
            if index in self._images:
                self._blobs.append((self._images[index], {}))
                image["bufferView"] = self._view_index(len(self._blobs) - 1)
            elif "uri" in image and not image["uri"].startswith("data:"):
                self._embed_image(path, index, image)
        for data, view in self._blobs:
            chunk += bytes(-len(chunk) % 4)
            entry = {"buffer": 0, "byteOffset": len(chunk), "byteLength": len(data), **view}
            self.append("bufferViews", entry)
            chunk += data
        chunk += bytes(-len(chunk) % 4)
        if chunk:
            buffers = self.document.setdefault("buffers", [{}])
            self.document["buffers"] = [{**buffers[0], "byteLength": len(chunk)}]
            self.document["buffers"][0].pop("uri", None)
        return _glb_bytes(self.document, bytes(chunk), self._other_chunks)

    def pack_gltf(self, source: GltfFile | None, stem: str) -> dict[str, bytes]:
        """A ``.gltf`` and the files that it refers to, by name; original ones keep theirs.

        Raises:
            UsageError: the original refers to files outside of its own folder.
        """
        files: dict[str, bytes] = {}
        buffers = self.document.setdefault("buffers", [])
        for index, buffer in enumerate(buffers):
            if "uri" not in buffer:
                buffer["uri"] = quote(f"{stem}_{index}.bin")
                files[f"{stem}_{index}.bin"] = self.buffers[index]
        if source is not None:
            files |= _external_files(source)
        fresh = bytearray()
        for data, view in self._blobs:
            fresh += bytes(-len(fresh) % 4)
            entry = {"buffer": len(buffers), "byteOffset": len(fresh), "byteLength": len(data)}
            self.append("bufferViews", {**entry, **view})
            fresh += data
        if fresh:
            buffers.append({"uri": quote(f"{stem}_added.bin"), "byteLength": len(fresh)})
            files[f"{stem}_added.bin"] = bytes(fresh)
        if not buffers:
            del self.document["buffers"]
        for number, (index, png) in enumerate(sorted(self._images.items())):
            name = texture_file_name(stem, number)
            self.document["images"][index]["uri"] = quote(name)
            files[name] = png
        files[f"{stem}.gltf"] = _json_bytes(self.document, indent=1)
        return files

    def _view_index(self, blob: int) -> int:
        return len(self.document.get("bufferViews", [])) + blob

    def _merge_buffers(self) -> bytearray:
        chunk = bytearray()
        offsets = []
        for data in self.buffers:
            chunk += bytes(-len(chunk) % 16)
            offsets.append(len(chunk))
            chunk += data
        if len(offsets) > 1:
            for view in self.document.get("bufferViews", []):
                view["byteOffset"] = offsets[view["buffer"]] + view.get("byteOffset", 0)
                view["buffer"] = 0
        return chunk

    def _embed_image(self, path: Path, index: int, image: JsonObject) -> None:
        try:
            data = read_uri(path, image["uri"], f"images[{index}]")
        except InputError:
            return  # No base colour uses it, or loading had failed: the file stays as it is.
        image.setdefault("mimeType", _mime_type(data))
        image.setdefault("name", Path(image["uri"]).stem)
        del image["uri"]
        self._blobs.append((data, {}))
        image["bufferView"] = self._view_index(len(self._blobs) - 1)


def texture_file_name(stem: str, number: int) -> str:
    """Name of the PNG of texture set ``number`` beside an output called ``stem``."""
    return f"{stem}_basecolor_{number}.png"


def _external_files(source: GltfFile) -> dict[str, bytes]:
    from urllib.parse import unquote

    files = dict(source.resources)
    for index, image in enumerate(source.document.get("images", [])):
        uri = image.get("uri", "data:")
        if not uri.startswith("data:"):
            try:
                files[uri] = read_uri(source.path, uri, f"images[{index}]")
            except InputError:
                continue
    outside = [uri for uri in files if ".." in Path(unquote(uri)).parts or unquote(uri)[:1] == "/"]
    if outside:
        raise UsageError(
            "--out",
            expected=".glb for a file whose parts lie in other folders",
            got=f".gltf, and a part at {outside[0]}",
            remedy="Name an output that ends in .glb.",
        )
    return {unquote(uri): data for uri, data in files.items()}


def _mime_type(data: bytes) -> str:
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/ktx2" if data[1:4] == b"KTX" else "image/png"


def _json_bytes(document: JsonObject, indent: int | None = None) -> bytes:
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        text = json.dumps(document, ensure_ascii=False, separators=separators, indent=indent)
        return text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can write
        return json.dumps(document, separators=separators, indent=indent).encode("ascii")


def _glb_bytes(
    document: JsonObject, chunk: bytes, other_chunks: tuple[tuple[int, bytes], ...]
) -> bytes:
    text = _json_bytes(document)
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), CHUNK_JSON) + text
    if chunk:
        chunks += struct.pack("<II", len(chunk), CHUNK_BIN) + chunk
    for kind, data in other_chunks:
        chunks += struct.pack("<II", len(data), kind) + data
    return GLB_MAGIC + struct.pack("<II", 2, 12 + len(chunks)) + chunks
