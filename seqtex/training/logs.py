"""What a run says: lines on the console, JSON lines, TensorBoard."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from seqtex_core.errors import MissingDependencyError
from seqtex_core.whole_files import replacing

METRICS = "metrics.jsonl"
Say = Callable[[str], None]


class MetricsLog:
    """Appends one JSON object per line; a resumed run continues as if it had never stopped.

    Args:
        folder: of the run.
        from_step: lines of later steps, left by a run that was killed, are removed.
    """

    def __init__(self, folder: Path, *, from_step: int) -> None:
        self.path = folder / METRICS
        self._drop_after(from_step)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; it is in the file when this returns."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _drop_after(self, step: int) -> None:
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the line that was being written when the run was killed
            if record.get("step", 0) <= step:
                kept.append(line + "\n")
        with replacing(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


class TensorBoardLog:
    """Scalars for TensorBoard.

    Args:
        folder: of the run.
        from_step: values of later steps, left by a run that was killed, are no longer shown.

    Raises:
        MissingDependencyError: the package is not installed.
    """

    def __init__(self, folder: Path, *, from_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "tensorboard",
                expected="an installed package",
                got=str(error),
                remedy="pip install tensorboard, or set tensorboard = 'off' in [output].",
            ) from error
        place = str(folder / "tensorboard")
        self._writer: Any = SummaryWriter(place, purge_step=from_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write everything out."""
        self._writer.close()


def open_tensorboard(
    choice: Literal["auto", "on", "off"], folder: Path, say: Say, *, from_step: int = 0
) -> TensorBoardLog | None:
    """The TensorBoard log that the config asks for; says what ``"auto"`` came to.

    Args:
        choice: of the config.
        folder: of the run.
        say: prints a line.
        from_step: see ``TensorBoardLog``.

    Raises:
        MissingDependencyError: ``"on"`` and not installed.
    """
    if choice == "off":
        return None
    try:
        log = TensorBoardLog(folder, from_step=from_step)
    except MissingDependencyError:
        if choice == "on":
            raise
        say("tensorboard: not installed, no event files (auto)")
        return None
    return log


def peak_memory(device: torch.device) -> float | None:
    """Most memory used so far, in GB: of the card, or of the process (``None`` on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (1e9 if sys.platform == "darwin" else 1e6)
