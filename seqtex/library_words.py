"""Messages that name options of the command line, in the words of the library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from seqtex_core.errors import SeqTexError

_PARTS = {
    "vae-weights": "vae",
    "text-weights": "text",
    "text-embeddings": "text_embeddings",
    "random-weights": "random_seed",
}
_ARGUMENTS = (
    *("weights", "memory", "dtype", "device", "fp8", "prompt", "steps", "seed", "guidance"),
    *("view-size", "uv-size", "texture-size", "foreground", "step-reuse", "shift", "task"),
    "cuda-graph",
)
_PREPARED = {
    "unwrap": 'uv="unwrap"',
    "keep-uv": 'uv="keep"',
    **{name: f"{name.replace('-', '_')}=..." for name in ("up", "front", "min-iou", "rasterizer")},
    "charts": "charts=...",
    "charts directions": 'charts="directions"',
}
_NAMES = {"model": "name_or_path", **{name: name.replace("-", "_") for name in _ARGUMENTS}}
_VALUE = r"[A-Z]{2,}\b|\d+(?:\.\d+)?|b?float\d+|cpu\b|cuda\b|[\w.-]+/[\w./-]*\w"
_OPTION = re.compile(
    rf"--({'|'.join(sorted([*_PARTS, *_PREPARED, *_NAMES], key=len, reverse=True))})"
    rf"\b(?!-)(?:[ =]({_VALUE}))?"
)


@contextmanager
def library_words() -> Iterator[None]:
    """Errors that leave the block name arguments where they named options."""
    try:
        yield
    except SeqTexError as error:
        words = [translated(text) for text in (error.subject, error.expected, error.got)]
        subject, expected, got = words
        said = type(error)(subject, expected=expected, got=got, remedy=translated(error.remedy))
        if str(said) == str(error):
            raise
        raise said from error.__cause__


def translated(text: str) -> str:
    """``--weights DIR`` as ``weights=DIR``, ``--vae-weights`` as ``ModelSources(vae=...)``.

    What is asked of the preparation, such as ``--unwrap``, is named as ``PrepareOptions(...)``.
    """
    return _OPTION.sub(_argument, text)


def _argument(found: re.Match[str]) -> str:
    option, value = found.group(1), found.group(2)
    if option in _PARTS:
        return f"weights=ModelSources({_PARTS[option]}={value or '...'})"
    if option in _PREPARED:
        return f"PrepareOptions({_PREPARED[option]})"
    return _NAMES[option] if value is None else f"{_NAMES[option]}={value}"
