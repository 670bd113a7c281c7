"""Files of encoded prompts, seen from their headers; importable without torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from seqtex_core.errors import UsageError, WeightsError

UNNAMED = "(the rows of the file)"
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """What a file of encoded prompts holds.

    Args:
        path: safetensors file.
        prompts: in order; the first is what a run without a prompt reads. Empty for a file that
            `seqtex embed` did not write.
        shapes: of its tensors, in the order of their names.
    """

    path: Path
    prompts: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, path: Path) -> PromptFile:
        """From the header of a file.

        Raises:
            WeightsError: no such file, or not safetensors.
        """
        try:
            with safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                shapes = [tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())]
            prompts = json.loads(metadata.get("prompts", "[]"))
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                str(path),
                expected="a file by `seqtex embed`, or other text rows as safetensors",
                got="a folder" if path.is_dir() else f"one that cannot be read ({error})",
            ) from error
        named = isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
        return cls(path=path, prompts=tuple(prompts) if named else (), shapes=tuple(shapes))

    @property
    def names(self) -> tuple[str, ...]:
        """What the rows are known by; a file of others holds one prompt without a name."""
        return self.prompts or (UNNAMED,)

    def check_rows(self, width: int | None = None) -> None:
        """Refuse tensors that are no text rows.

        Args:
            width: that a backbone reads; ``None`` for any.

        Raises:
            WeightsError: other tensors.
        """
        rows = [s[1:] if len(s) == 3 and s[0] == 1 else s for s in self.shapes]
        fits = all(len(s) == 2 and width in (None, s[1]) for s in rows)
        if fits and len(rows) == len(self.names):
            return
        shown = ", ".join(str(list(shape)) for shape in self.shapes[:_SHOWN]) or "nothing"
        more = len(self.shapes) - _SHOWN
        raise WeightsError(
            str(self.path),
            expected=f"{len(self.names)} tensor(s) of text rows [S, {width or 'width'}]",
            got=shown + (f" and {more} more" if more > 0 else ""),
            remedy="Write it with `seqtex embed PROMPT --model NAME --text-weights DIR -o FILE`.",
        )


def is_prompt_file(path: Path) -> bool:
    """Whether `seqtex embed` made a file; false for one that cannot be read."""
    try:
        return bool(PromptFile.of(path).prompts)
    except WeightsError:
        return False


def check_prompts(prompts: Sequence[str], held: Collection[str], *, source: str) -> None:
    """Refuse prompts that a file does not have.

    Args:
        prompts: that are wanted; "" is the one that guidance needs.
        held: in the file.
        source: its name.

    Raises:
        UsageError: one that is not; names those that are.
    """
    missing = [prompt for prompt in prompts if prompt not in held]
    if not missing:
        return
    shown = ", ".join(repr(prompt) for prompt in [*held][:_SHOWN])
    more = len(held) - _SHOWN
    raise UsageError(
        f"prompt {missing[0]!r}" if missing[0] else "the empty prompt, which --guidance needs",
        expected=f"one of those in {source}: {shown}" + (f" and {more} more" if more > 0 else ""),
        got="another",
        remedy=f"Encode {missing[0]!r} too with `seqtex embed`, or give --text-weights.",
    )
