"""Encoded pictures kept on disk, one small safetensors file each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqtex_core.weight_files import WeightFiles, write_tensors


class LatentCache:
    """Latents by name; safe to share between processes, because files appear whole.

    Args:
        folder: made if it does not exist.
        codec_config: of the codec; other settings use another sub-folder.
        dtype: of the stored latents; fp32 keeps training bit for bit the same.
    """

    def __init__(
        self, folder: Path, codec_config: Mapping[str, Any], *, dtype: torch.dtype = torch.float32
    ) -> None:
        described = json.dumps([dict(codec_config), str(dtype)], sort_keys=True)
        self.folder = folder / hashlib.sha256(described.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dtype = dtype
        self.hits = 0
        self.misses = 0

    def get(
        self, images: Tensor, keys: Sequence[str], encode: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Latents of all samples; only those not kept yet are encoded.

        Args:
            images: ``[B, F, 3, H, W]``.
            keys: one per sample; the same key always means the same images.
            encode: the codec, on any number of samples.
        """
        size = "x".join(str(n) for n in images.shape[1:])
        paths = [self._path(f"{key}-{size}") for key in keys]
        missing = [number for number, path in enumerate(paths) if not path.is_file()]
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        if missing:
            encoded = encode(images[missing]).to(self.dtype)
            for row, number in enumerate(missing):
                paths[number].parent.mkdir(exist_ok=True)
                write_tensors(paths[number], {"latents": encoded[row].cpu()})
        rows = [_read(path) for path in paths]
        return torch.stack(rows).to(images.device, torch.float32)

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"


def _read(path: Path) -> Tensor:
    with WeightFiles([path]) as files:
        return files.read("latents")
