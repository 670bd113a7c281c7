"""What trains and what does not, by part of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PARTS = ("LoRA", "geometry", "copy head", "UV branch", "MV branch and shared")


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """Parameters of one part of a model.

    Args:
        part: one of ``PARTS``.
        trained: numbers that train.
        frozen: numbers that do not.
    """

    part: str
    trained: int
    frozen: int


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name in a ``SeqTexTransformer``.

    Parts that the branches share are listed under the MV branch, whose name comes first.
    """
    if ".lora_A." in name or ".lora_B." in name:
        return "LoRA"
    if name.startswith("geometry.") or ".geometry_caster." in name:
        return "geometry"
    if name.startswith("copy_head."):
        return "copy head"
    if name.startswith("shells.uv.") or ".uv." in name:
        return "UV branch"
    return "MV branch and shared"


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that train, each once, by its first name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def count_parts(model: nn.Module) -> list[PartCount]:
    """Parameters by part, for the report at the start."""
    trained = dict.fromkeys(PARTS, 0)
    frozen = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts = trained if parameter.requires_grad else frozen
        counts[part_of(name)] += parameter.numel()
    return [PartCount(part=p, trained=trained[p], frozen=frozen[p]) for p in PARTS]


def report_parts(counts: list[PartCount]) -> Iterator[str]:
    """One line per part, and a last one for the sum."""
    for count in counts:
        if count.trained or count.frozen:
            yield f"{count.part}: {count.trained:,} trained, {count.frozen:,} frozen"
    total, frozen = sum(c.trained for c in counts), sum(c.frozen for c in counts)
    yield f"all: {total:,} trained, {frozen:,} frozen"


def frozen(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters that do not train, by name."""
    return ((name, p) for name, p in model.named_parameters() if not p.requires_grad)


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names and values, to notice other weights."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()
