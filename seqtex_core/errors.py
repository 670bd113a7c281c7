"""The error family: each error names what was given, what was expected and what to do about it."""

from __future__ import annotations

from collections.abc import Callable


class SeqTexError(Exception):
    """Base of every error that a user can cause or repair.

    Args:
        subject: what the error is about: an argument, a file, a tensor, a package.
        expected: what would have been accepted.
        got: what was found instead.
        remedy: the next thing to try, as an instruction. Optional.

    Convention:
        ``exit_code`` is the exit status of the command line: 2 usage, 3 input rejected,
        4 environment or weights missing, 5 out of memory, 6 contract broken.
    """

    exit_code = 1

    def __init__(self, subject: str, *, expected: str, got: str, remedy: str = "") -> None:
        self.subject = subject
        self.expected = expected
        self.got = got
        self.remedy = remedy
        text = f"{subject}: expected {expected}, got {got}."
        super().__init__(f"{text} {remedy}" if remedy else text)

    def __reduce__(self) -> tuple[Callable[..., SeqTexError], tuple[object, ...]]:
        """Lets copies and worker processes rebuild the error."""
        return _rebuild, (type(self), self.subject, self.expected, self.got, self.remedy)


class UsageError(SeqTexError, ValueError):
    """An argument or a combination of arguments cannot be used."""

    exit_code = 2


class InputError(SeqTexError, ValueError):
    """A file that the user gave (mesh, image, texture) is rejected."""

    exit_code = 3


class WeightsError(SeqTexError):
    """Weights are missing, damaged, or belong to another model."""

    exit_code = 4


class MissingDependencyError(SeqTexError, ImportError):
    """An optional package is not installed, or what is installed cannot be used here."""

    exit_code = 4


class UnsupportedError(SeqTexError):
    """A named implementation cannot run on these inputs or on this machine."""

    exit_code = 4


class OutOfMemoryError(SeqTexError, MemoryError):
    """The device ran out of memory; the remedy names the next smaller setting."""

    exit_code = 5


class ContractError(SeqTexError):
    """A promise of the library was about to be broken; nothing was written."""

    exit_code = 6


def _rebuild(
    kind: type[SeqTexError], subject: str, expected: str, got: str, remedy: str
) -> SeqTexError:
    return kind(subject, expected=expected, got=got, remedy=remedy)
