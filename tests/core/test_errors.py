"""The error family: messages, exit codes, and the builtins they also are."""

from __future__ import annotations

import inspect
import pickle

import pytest

from seqtex_core import errors
from seqtex_core.errors import SeqTexError

FAMILY = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, SeqTexError)
]


def test_the_message_has_all_four_parts_in_order() -> None:
    error = SeqTexError("steps", expected="at least 1", got="0", remedy="Try 30.")
    assert str(error) == "steps: expected at least 1, got 0. Try 30."
    assert str(SeqTexError("steps", expected="1", got="0")) == "steps: expected 1, got 0."


@pytest.mark.parametrize(
    ("name", "code", "builtin"),
    [
        ("UsageError", 2, ValueError),
        ("InputError", 3, ValueError),
        ("WeightsError", 4, Exception),
        ("MissingDependencyError", 4, ImportError),
        ("UnsupportedError", 4, Exception),
        ("OutOfMemoryError", 5, MemoryError),
        ("ContractError", 6, Exception),
    ],
)
def test_exit_codes_and_builtin_parents(name: str, code: int, builtin: type[Exception]) -> None:
    error = getattr(errors, name)("x", expected="a", got="b")
    assert error.exit_code == code
    assert isinstance(error, builtin)
    assert isinstance(error, SeqTexError)


def test_every_member_of_the_family_is_listed_above() -> None:
    names = {"SeqTexError", "UsageError", "InputError", "WeightsError", "MissingDependencyError"}
    names |= {"UnsupportedError", "OutOfMemoryError", "ContractError"}
    assert {member.__name__ for member in FAMILY} == names


@pytest.mark.parametrize("member", FAMILY, ids=lambda member: member.__name__)
def test_errors_survive_process_boundaries(member: type[SeqTexError]) -> None:
    """Worker processes (unwrapping) send errors back to their parent."""
    error = member("mesh", expected="faces", got="none", remedy="Check it.")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is member
    assert str(back) == str(error)
    assert (back.subject, back.remedy) == ("mesh", "Check it.")
