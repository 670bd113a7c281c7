"""From exceptions to exit codes and short readable messages."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from seqtex.out_of_memory import is_out_of_memory, naming_smaller_setting, out_of_memory
from seqtex_core.errors import SeqTexError, UnsupportedError, UsageError

__all__ = ["INTERRUPTED", "TERMINATED", "naming_smaller_setting", "run_guarded"]

INTERRUPTED = 130
TERMINATED = 143
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # NumPy's, which has no number
_NUMBER = re.compile(r"\(os error (\d+)\)")  # in the text of safetensors' errors


def run_guarded(command: Callable[[], None], *, debug: bool) -> int:
    """Run ``command`` and return its exit code; errors are printed to stderr.

    Args:
        command: the work; it may raise anything, ``SystemExit`` included.
        debug: print the traceback of an error too.

    Returns:
        0 done, 2 usage, 3 input rejected, 4 environment or weights missing, 5 out of memory,
        6 contract broken, 130 interrupted, 143 terminated, 1 anything else.
    """
    try:
        code = _guarded(command, debug=debug)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads the output, such as `head`, has what it wanted
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  what is flushed at the end goes there
        return 0
    return code


def _guarded(command: Callable[[], None], *, debug: bool) -> int:
    try:
        with _terminate_as_exit():
            command()
    except BrokenPipeError:
        raise
    except (SystemExit, KeyboardInterrupt) as stop:
        code = _code(stop)
        if isinstance(stop.__context__, BrokenPipeError):  # as rich and click tell it
            raise stop.__context__ from None
        if code == INTERRUPTED:
            sys.stderr.write("\nInterrupted. No file was left half-written.\n")
        return code
    except SeqTexError as error:
        _show(error, debug=debug)
        return error.exit_code
    except Exception as error:
        known = as_known_error(error)
        if known is not None:
            _show(known, debug=debug)
            return known.exit_code
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"Error: {type(error).__name__}: {_first_line(error)}\n")
        sys.stderr.write(
            "This is a defect of seqtex, not of your files. "
            "Repeat the command with --debug for the traceback.\n"
        )
        return 1
    finally:
        _end_children()
    return 0


def as_known_error(error: Exception) -> SeqTexError | None:
    """What the machine has not or does not let us do, in our words; ``None`` for anything else."""
    if isinstance(error, SeqTexError):
        return error
    if is_out_of_memory(error):
        return out_of_memory("Use smaller sizes, or a machine with more memory.")
    number, place = _system_error(error)
    if number in _FULL:
        return UnsupportedError(
            place or "disk",
            expected="room for what is written",
            got=os.strerror(number),
            remedy="Make room, or write to another disk; temporary files go to TMPDIR.",
        )
    if number in _REFUSED:
        return UsageError(
            place or "a file",
            expected="a place that can be read and written",
            got=os.strerror(number),
            remedy="Change its permissions, or use another place.",
        )
    return None


def _system_error(error: Exception) -> tuple[int, str]:
    """Number and place of what the operating system refused; 0 for any other error."""
    if isinstance(error, OSError):
        short = _SHORT_WRITE.search(str(error))
        return error.errno or (errno.ENOSPC if short else 0), str(error.filename or "")
    found = _NUMBER.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else 0, ""


def _show(error: SeqTexError, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    lines = [f"Error: {error.subject}", f"  expected  {error.expected}", f"  got       {error.got}"]
    if error.remedy:
        lines.append(f"  try       {error.remedy}")
    sys.stderr.write("\n".join(lines) + "\n")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or "no message"


def _code(stop: SystemExit | KeyboardInterrupt) -> int:
    if isinstance(stop, KeyboardInterrupt):
        return INTERRUPTED
    if stop.code is None:
        return 0
    return stop.code if isinstance(stop.code, int) else 1


@contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """SIGTERM unwinds the block, so that scratch folders go; the old handler comes back after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def _end_children() -> None:
    for child in multiprocessing.active_children():
        child.terminate()
        child.join(timeout=2)
        if child.is_alive():
            child.kill()
            child.join()
