"""Which weights fit and which do not, told in groups instead of thousands of lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .errors import WeightsError

Shape = Sequence[int]
_SHOWN = 6


def check_weights(
    subject: str, wanted: Mapping[str, Shape], found: Mapping[str, Shape], *, remedy: str = ""
) -> None:
    """Refuse weights whose names or shapes differ from those of the model.

    Args:
        subject: what the weights are ("weights of wan2.1-t2v-1.3b in x.safetensors").
        wanted: shape of every tensor of the model.
        found: shape of every tensor given.
        remedy: what to try.

    Raises:
        WeightsError: with the missing, unexpected and misshapen tensors, grouped over blocks.
    """
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} {list(found[name])} instead of {list(wanted[name])}"
        for name in wanted
        if name in found and list(found[name]) != list(wanted[name])
    ]
    groups = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(groups.values()):
        told = "; ".join(
            f"{len(names)} {kind}: {grouped(names)}" for kind, names in groups.items() if names
        )
        raise WeightsError(
            subject,
            expected=f"{len(wanted)} tensors of the model's names and shapes",
            got=f"{len(found)} tensors, {told}",
            remedy=remedy,
        )


def grouped(names: Iterable[str]) -> str:
    """Names with their numbers replaced by ``*``, each with its count; the first few.

    Args:
        names: dotted tensor names.
    """
    patterns = Counter(
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
    )
    told = [f"{name} ({count}x)" if count > 1 else name for name, count in patterns.items()]
    more = f", and {len(told) - _SHOWN} more kinds" if len(told) > _SHOWN else ""
    return ", ".join(told[:_SHOWN]) + more
