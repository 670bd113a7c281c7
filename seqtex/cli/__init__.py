"""The command line: ``seqtex texture``, ``batch``, ``train`` and the rest of ``seqtex --help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``seqtex`` command; exits with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return the exit code.

    ``--debug`` may stand anywhere; it adds tracebacks to error messages.
    """
    from .exits import run_guarded

    kept = [argument for argument in arguments if argument != "--debug"]

    def command() -> None:
        from .app import app  # in here, so that an interrupt of the imports is handled too

        app(args=kept, prog_name="seqtex")

    return run_guarded(command, debug=len(kept) < len(arguments))
