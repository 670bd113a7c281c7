"""Shards in the WebDataset convention: tar files whose members ``key.name.ext`` form samples.

Members are PNG images, safetensors and JSON; nothing is ever unpickled. Members of an object:
``key.view0.png`` and so on (sRGB, background black), ``key.uv.png``, ``key.geometry.safetensors``
(the record of ``record``), ``key.meta.json``. Lit renders are ``key.lit0.png`` and so on, in a
second light ``key.lit0-1.png``. A sample without ``key.uv.png`` has views only.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from seqtex_core.whole_files import replacing

from .sample import ObjectSample, TextureImages, draw_texture
from .synth import SynthSettings, make_object, object_rng
from .textures.lighting import draw_lighting

_TEXTURE = 11


class ShardWriter:
    """Writes samples into one tar file that appears when the block ends well.

    The bytes depend on the samples only: no times, owners or paths are stored.

    Args:
        path: of the shard.
    """

    def __init__(self, path: Path) -> None:
        self._replacing = replacing(path)

    def __enter__(self) -> ShardWriter:
        self._tar = tarfile.open(self._replacing.__enter__(), "w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(self, *failure: Any) -> None:
        self._tar.close()
        self._replacing.__exit__(*failure)

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Add a sample.

        Args:
            key: unique in the set, without a dot.
            members: contents by extension ("uv.png").
        """
        assert "." not in key, "the key of a sample ends at its first dot"
        for extension, content in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))


def write_synthetic_shard(path: Path, settings: SynthSettings, indices: Sequence[int]) -> None:
    """The shard of the given synthetic objects, each in one texture, albedo and lit.

    Args:
        path: of the shard.
        settings: what the objects and their textures are.
        indices: numbers of the objects.
    """
    with ShardWriter(path) as writer:
        for index in indices:
            made = make_object(settings, index)
            sample = ObjectSample(made.record, settings.sizes)
            rng = object_rng(settings.seed, index, _TEXTURE)
            albedo = draw_texture(sample, rng, kinds=settings.kinds)
            assert albedo.texture is not None, "draw_texture paints one"
            lit = sample.painted(albedo.texture, draw_lighting(rng))
            meta = {
                "index": index,
                "family": made.mesh.family,
                "chart_style": made.mesh.chart_style,
                "kinds": list(albedo.kinds),
                "sizes": vars(settings.sizes),
            }
            writer.add(f"{index:08d}", _members(made.record.tensors(), albedo, lit.views, meta))


def num_samples(path: Path) -> int:
    """Samples in a shard, from its headers; 0 if it is none."""
    try:
        with tarfile.open(path, "r:") as tar:
            return len({info.name.rpartition("/")[2].partition(".")[0] for info in tar})
    except (tarfile.TarError, OSError):
        return 0


def _members(
    geometry: Mapping[str, Tensor], albedo: TextureImages, lit: Tensor, meta: Mapping[str, Any]
) -> dict[str, bytes]:
    members = {f"view{k}.png": png_bytes(view) for k, view in enumerate(albedo.views)}
    members |= {f"lit{k}.png": png_bytes(view) for k, view in enumerate(lit)}
    members["uv.png"] = png_bytes(albedo.uv)
    members["geometry.safetensors"] = save({k: v.contiguous() for k, v in geometry.items()})
    members["meta.json"] = json.dumps(meta, sort_keys=True).encode()
    return members


def lit_name(view: int, light: int) -> str:
    """Name of a lit view: ``lit0`` in the first light, ``lit0-1`` in the second."""
    return f"lit{view}" + (f"-{light}" if light else "")


def png_bytes(image: Tensor) -> bytes:
    """An sRGB image ``[3, H, W]`` in [0, 1] as PNG."""
    pixels = (image.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(stream, "PNG")
    return stream.getvalue()


def image_of_png(content: bytes) -> Tensor:
    """The sRGB image ``[3, H, W]`` in [0, 1] of a PNG."""
    with Image.open(io.BytesIO(content)) as picture:
        pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
