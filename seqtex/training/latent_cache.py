"""Encoded pictures kept on disk, one small safetensors file each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from seqtex_backbones.codecs.protocol import Codec
from seqtex_core.weight_files import WeightFiles, write_tensors

from .trainable import fingerprint


class LatentCache:
    """Latents by name, in fp32, so that training is bit for bit the same.

    Safe to share between processes, because files appear whole.

    Args:
        folder: made if it does not exist.
        identity: of the codec, see ``codec_identity``; another one uses another sub-folder.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

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
        if missing:
            encoded = encode(images[missing]).float()
            for row, number in enumerate(missing):
                paths[number].parent.mkdir(exist_ok=True)
                write_tensors(paths[number], {"latents": encoded[row].cpu()})
        rows = [_read(path) for path in paths]
        return torch.stack(rows).to(images.device)

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"


def codec_identity(codec: Codec) -> str:
    """What tells codecs apart: their settings, and their weights if they have some."""
    weights = fingerprint(codec.state_dict().items()) if isinstance(codec, nn.Module) else ""
    return json.dumps([dict(codec.to_config()), weights], sort_keys=True)


def _read(path: Path) -> Tensor:
    with WeightFiles([path]) as files:
        return files.read("latents")
