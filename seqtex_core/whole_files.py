"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``, which takes its place when the block ends well and else goes.

    Its name, ``.seqtex-`` and a random number, is new in every process and short enough for names
    of any length; a process that is killed leaves it behind. Others may read the file as far as any
    new file of this user, whatever the writer makes of that (safetensors makes files private).

    Args:
        path: a file that need not exist, in a folder that does.

    Raises:
        UsageError: the folder does not exist, or the path is a folder.
    """
    if path.is_dir():
        raise UsageError(str(path), expected="a file", got="a folder")
    if not path.parent.is_dir():
        raise UsageError(str(path), expected="a path in a folder that exists", got="none such")
    temporary = path.with_name(f".seqtex-{secrets.token_hex(8)}")
    temporary.touch(exist_ok=False)
    try:
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
