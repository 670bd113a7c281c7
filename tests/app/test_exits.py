"""Exit codes and messages for whatever a command may raise."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from seqtex.cli.exits import naming_smaller_setting, run_guarded
from seqtex_core.errors import (
    ContractError,
    InputError,
    MissingDependencyError,
    OutOfMemoryError,
    SeqTexError,
    UsageError,
    WeightsError,
)


def outcome(error: BaseException, *, debug: bool = False) -> int:
    def command() -> None:
        raise error

    return run_guarded(command, debug=debug)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (UsageError, 2),
        (InputError, 3),
        (WeightsError, 4),
        (MissingDependencyError, 4),
        (OutOfMemoryError, 5),
        (ContractError, 6),
    ],
)
def test_our_errors_print_four_lines(
    kind: type[SeqTexError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind("--size", expected="a number", got="'x'", remedy="Give a number.")
    assert outcome(error) == code
    assert capsys.readouterr().err.splitlines() == [
        "Error: --size",
        "  expected  a number",
        "  got       'x'",
        "  try       Give a number.",
    ]


def test_unknown_errors_give_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(ZeroDivisionError("by zero\nmore")) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("Error: ZeroDivisionError: by zero\n")
    assert "--debug" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_called_a_defect(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(OSError(number, os.strerror(number))) == 4
    errors = capsys.readouterr().err
    assert "room for what is written" in errors
    assert "defect" not in errors
    assert outcome(OSError(errno.EIO, "broken")) == 1


def test_a_disk_that_fills_under_safetensors_is_not_called_a_defect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its writer raises an error of its own, with the system's number in the text alone."""
    with pytest.raises(SafetensorError, match=f"os error {errno.ENOENT}") as raised:
        save_file({"x": torch.zeros(1)}, tmp_path / "missing" / "file")
    text = str(raised.value).replace(f"error {errno.ENOENT}", f"error {errno.ENOSPC}")
    assert outcome(SafetensorError(text)) == 4
    assert "room for what is written" in capsys.readouterr().err
    assert outcome(SafetensorError("a header of another kind")) == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_must_not_be_written_is_not_called_a_defect(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(OSError(number, os.strerror(number), "kept/latents")) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("Error: kept/latents\n")
    assert os.strerror(number) in errors
    assert "defect" not in errors


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), InputError("a", expected="b", got="c")])
def test_debug_adds_the_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    outcome(error, debug=True)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(130), 130)])
def test_interrupts(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(error) == code
    assert "Interrupted" in capsys.readouterr().err


def test_exit_codes_pass_through() -> None:
    assert outcome(SystemExit(7)) == 7
    assert outcome(SystemExit()) == 0
    assert run_guarded(lambda: None, debug=False) == 0


class FakeOutOfMemoryError(RuntimeError):
    """Named as torch's is: ``torch.OutOfMemoryError``."""


FakeOutOfMemoryError.__name__ = "OutOfMemoryError"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        FakeOutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_names_the_next_setting(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        with naming_smaller_setting("Use --uv-size 512."):
            raise error

    assert run_guarded(command, debug=False) == 5
    assert "Use --uv-size 512." in capsys.readouterr().err
    assert outcome(error) == 5


def test_an_array_that_is_too_large_is_out_of_memory() -> None:
    assert run_guarded(lambda: np.ones((1 << 45, 8)) and None, debug=False) == 5


def test_child_processes_are_ended() -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    assert outcome(KeyboardInterrupt()) == 130
    assert not child.is_alive()


@pytest.mark.parametrize("error", [None, InputError("a", expected="b", got="c")])
def test_the_signal_handler_is_given_back(error: Exception | None) -> None:
    """The command may run inside another program, whose handlers are not ours to keep."""
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def command() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))
        if error is not None:
            raise error

    run_guarded(command, debug=False)
    assert seen != [before]
    assert signal.getsignal(signal.SIGTERM) == before


def test_it_runs_outside_the_main_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_guarded(lambda: None, debug=False)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_reader_that_has_seen_enough_is_no_error(start: Callable[..., Any]) -> None:
    """As `seqtex info | head -1`: whoever writes, be it rich, click or print."""
    for words in (["texture", "--help"], ["--version"]):
        process = start(words)
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_broken_pipe_is_no_error(wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        try:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        except BrokenPipeError:
            if wrapped:
                raise SystemExit(1)  # noqa: B904  as rich and click do
            raise

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run_guarded(command, debug=False) == 0


def test_a_short_write_of_an_array_is_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    """NumPy's error has no number."""

    def command() -> None:
        raise OSError("24513 requested and 3040 written")

    assert run_guarded(command, debug=False) == 4
    assert "room for what is written" in capsys.readouterr().err
