"""The hub's client without its own bars and notes; what it does is told in our words."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from seqtex_core.errors import MissingDependencyError, WeightsError

OnBytes = Callable[[int, int], None]
"""Called as ``on_bytes(done, total)`` while files come; the total grows as they are begun."""


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Show none of the client's bars, warnings and retries; they are as before after it."""
    try:
        client: Any = import_module("huggingface_hub.utils")
    except ImportError as error:
        raise MissingDependencyError(
            "huggingface_hub",
            expected="an installed package, for hub ids",
            got="none",
            remedy="pip install huggingface_hub, or name a local folder.",
        ) from error
    level, hidden = client.logging.get_verbosity(), client.are_progress_bars_disabled()
    client.logging.set_verbosity_error()
    client.disable_progress_bars()
    try:
        yield
    finally:
        client.logging.set_verbosity(level)
        if not hidden:
            client.enable_progress_bars()


def download_files(
    hub_id: str,
    *,
    allow: Sequence[str],
    ignore: Sequence[str] = (),
    local_files_only: bool = False,
    on_bytes: OnBytes | None = None,
) -> Path:
    """The local copy of some of a repository's files; the one function that fetches weights.

    Args:
        hub_id: ``owner/name``.
        allow: patterns of the files.
        ignore: patterns of files to leave out.
        local_files_only: use what was downloaded before.
        on_bytes: told how far it is. Optional.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
        WeightsError: it cannot be downloaded.
    """
    with quiet_hub():
        import huggingface_hub

        try:
            folder = huggingface_hub.snapshot_download(
                hub_id,
                allow_patterns=list(allow),
                ignore_patterns=list(ignore),
                local_files_only=local_files_only,
                tqdm_class=_silent_bar(on_bytes),
            )
        except Exception as error:  # the client's errors: no network, no such id, no permission
            raise WeightsError(
                hub_id,
                expected="a local folder, or a hub id that can be downloaded"
                if not local_files_only
                else "a local folder, or a cached hub id",
                got=f"no such folder; from the hub: {first_line(error)}",
                remedy="Check the name and the network, or give a local folder.",
            ) from error
    return Path(folder)


def first_line(error: Exception) -> str:
    """The part of a client's message that says what happened."""
    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[0].removeprefix("Got: ")


def _silent_bar(on_bytes: OnBytes | None) -> Any:
    """A class of tqdm's bars that draw nothing and tell their bytes."""
    base: Any = import_module("tqdm").tqdm

    def start(bar: Any, *args: Any, **options: Any) -> None:
        options.pop("name", None)
        base.__init__(bar, *args, **{**options, "file": io.StringIO(), "disable": False})

    def update(bar: Any, n: float | None = 1) -> None:
        base.update(bar, n)
        if on_bytes is not None and bar.unit == "B" and bar.total:
            on_bytes(int(bar.n), int(bar.total))

    return type("SilentBar", (base,), {"__init__": start, "update": update})
