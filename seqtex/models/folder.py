"""Where models are, by built-in name or folder; light, so that a wrong name is told at once."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from seqtex_core.errors import WeightsError

from .catalog import CATALOG
from .sources import ModelSources

CONFIG_NAME = "seqtex.json"
BUILT_IN = ("seqtex-tiny",)


def check_model(
    name_or_path: str | Path, sources: ModelSources | None = None, *, prompt: str | None = None
) -> None:
    """Refuse a name without a model, or sources that do not suit it; loads nothing.

    Args:
        name_or_path: built-in name, name of a full-size model, or folder.
        sources: where the parts of a full-size model come from.
        prompt: see :meth:`ModelSources.check`.

    Raises:
        WeightsError: no such model, or no weights for it.
        UsageError: sources that do not suit the model.
    """
    if str(name_or_path) not in CATALOG:
        model_folder(name_or_path)
    (sources or ModelSources()).check(str(name_or_path), prompt=prompt)


def model_folder(name_or_path: str | Path) -> Path:
    """Folder of a built-in model, or the folder itself.

    Raises:
        WeightsError: neither a built-in name nor a folder with a model config.
    """
    if str(name_or_path) in BUILT_IN:
        return Path(str(files("seqtex") / "models" / str(name_or_path)))
    folder = Path(name_or_path)
    if not (folder / CONFIG_NAME).is_file():
        known = ", ".join((*BUILT_IN, *CATALOG.names()))
        raise WeightsError(
            f"model {str(name_or_path)!r}",
            expected=f"one of {known}, or a folder with {CONFIG_NAME}",
            got="no such folder" if not folder.is_dir() else f"a folder without {CONFIG_NAME}",
            remedy="`seqtex info` lists the models.",
        )
    return folder
