"""Recognising that memory ran out, and saying which setting to try next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seqtex_core.errors import OutOfMemoryError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch reports that memory ran out."""
    if isinstance(error, OutOfMemoryError):
        return False
    named = type(error).__name__ in ("OutOfMemoryError", "_ArrayMemoryError")
    in_torch = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return named or in_torch or isinstance(error, MemoryError)


def out_of_memory(remedy: str) -> OutOfMemoryError:
    """The error of exit code 5, with the next setting to try as its remedy."""
    return OutOfMemoryError("memory", expected="room for this run", got="none left", remedy=remedy)


@contextmanager
def naming_smaller_setting(remedy: str | Callable[[], str]) -> Iterator[None]:
    """Turn out-of-memory of any kind into the error of exit code 5 that says ``remedy``.

    Args:
        remedy: the next setting to try, or a function that knows it.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            text = remedy if isinstance(remedy, str) else remedy()
            raise out_of_memory(text) from error
        raise
