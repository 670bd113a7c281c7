"""Where models are, by built-in name or folder; light, so that a wrong name is told at once."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from seqtex_core.errors import WeightsError

CONFIG_NAME = "seqtex.json"
BUILT_IN = ("seqtex-tiny",)


def model_folder(name_or_path: str | Path) -> Path:
    """Folder of a built-in model, or the folder itself.

    Raises:
        WeightsError: neither a built-in name nor a folder with a model config.
    """
    if str(name_or_path) in BUILT_IN:
        return Path(str(files("seqtex") / "models" / str(name_or_path)))
    folder = Path(name_or_path)
    if not (folder / CONFIG_NAME).is_file():
        raise WeightsError(
            f"model {str(name_or_path)!r}",
            expected=f"one of {', '.join(BUILT_IN)}, or a folder with {CONFIG_NAME}",
            got="no such folder" if not folder.is_dir() else f"a folder without {CONFIG_NAME}",
            remedy="`seqtex info` lists the models.",
        )
    return folder
