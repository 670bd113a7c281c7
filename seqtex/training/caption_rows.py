"""Encoded captions: each text is encoded once, kept in memory, and on disk if there is a folder."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from seqtex_backbones.text import TextEncoder
from seqtex_core.weight_files import WeightFiles, write_tensors

from ..models.sources import TEXT_FOLDERS

_ROWS, _LENGTH = "rows", "length"


class CaptionRows:
    """A text encoder that encodes a text only once; safe to share a folder between processes.

    Rows that are zero to the end are not stored: of the 512 rows of a short caption a dozen are
    kept. The encoder is loaded when the first text is missing, so a run whose captions are all on
    disk never holds it.

    Args:
        load: makes the encoder.
        identity: of the encoder; another one uses another sub-folder.
        folder: made when the first text is encoded; ``None`` keeps texts in memory only.
        most: texts held in memory.
    """

    def __init__(
        self,
        load: Callable[[], TextEncoder],
        *,
        identity: str,
        folder: Path | None = None,
        most: int = 4096,
    ) -> None:
        self._load = load
        self._encoder: TextEncoder | None = None
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._folder = None if folder is None else folder / f"text-{name}"
        self._most = most
        self._kept: OrderedDict[str, tuple[Tensor, int]] = OrderedDict()
        self.encoded = 0

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows ``[B, S, E]`` on the CPU, as the encoder gives them."""
        texts = [" ".join(prompt.split()) for prompt in prompts]
        found = {text: self._known(text) for text in dict.fromkeys(texts)}
        missing = [text for text, rows in found.items() if rows is None]
        if missing:
            self._encoder = self._encoder or self._load()
            for text, rows in zip(missing, self._encoder.encode(missing), strict=True):
                found[text] = self._keep(text, rows.detach().float().cpu())
        filled = []
        for text in texts:
            known = found[text]
            assert known is not None, "the missing ones were just encoded"
            rows, length = known
            filled.append(torch.nn.functional.pad(rows, (0, 0, 0, length - len(rows))))
        return torch.stack(filled)

    def _known(self, text: str) -> tuple[Tensor, int] | None:
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        path = self._path(text)
        if path is None or not path.is_file():
            return None
        with WeightFiles([path]) as files:
            return self._remember(text, files.read(_ROWS), int(files.metadata[_LENGTH]))

    def _keep(self, text: str, rows: Tensor) -> tuple[Tensor, int]:
        self.encoded += 1
        used = torch.nonzero(rows.abs().amax(dim=1))
        kept = rows[: int(used.max()) + 1 if len(used) else 1].contiguous()
        path = self._path(text)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {_ROWS: kept}, metadata={_LENGTH: str(len(rows))})
        return self._remember(text, kept, len(rows))

    def _remember(self, text: str, rows: Tensor, length: int) -> tuple[Tensor, int]:
        self._kept[text] = rows, length
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return rows, length

    def _path(self, text: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def encoder_identity(folder: Path) -> str:
    """What tells one encoder's folder from another: names and sizes of all files, small ones read.

    Weights are told apart by their size and name only, since hashing them takes minutes.
    """
    parts = []
    for name in TEXT_FOLDERS:
        place = folder / name
        for path in sorted(p for p in place.rglob("*") if p.is_file()):
            size = path.stat().st_size
            small = size <= 1 << 20 and path.suffix == ".json"
            content = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
            parts.append(f"{name}/{path.relative_to(place).as_posix()} {size} {content}")
    return "\n".join(parts)
