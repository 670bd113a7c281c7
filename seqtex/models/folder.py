"""Where models are, by built-in name or folder; light, so that a wrong name is told at once."""

from __future__ import annotations

import difflib
import json
from importlib.resources import files
from pathlib import Path

from seqtex_core.errors import WeightsError

from .catalog import CATALOG
from .run_sizes import RunSizes
from .sources import ModelSources

CONFIG_NAME = "seqtex.json"
BUILT_IN = ("seqtex-tiny",)
DEFAULT_MODEL = BUILT_IN[0]


def check_model(
    name_or_path: str | Path, sources: ModelSources | None = None, sizes: RunSizes | None = None
) -> None:
    """Refuse a name without a model, and sources, sizes and texts that do not suit it; fast.

    Sizes of a model in a folder are not known without torch; they are checked while it is loaded.

    Args:
        name_or_path: built-in name, name of a full-size model, or folder.
        sources: where the parts of a full-size model come from.
        sizes: of the run, and its texts.

    Raises:
        WeightsError: no such model, or no weights for it.
        UsageError: sources, sizes or texts that do not suit the model.
    """
    name, sources, sizes = str(name_or_path), sources or ModelSources(), sizes or RunSizes()
    if name in CATALOG:
        entry = CATALOG.get(name)
        sizes.check(token_pixels=entry.token_pixels, uv_size=entry.uv_size)
        sources.check(name, texts=sizes.texts)
    else:
        sources.check(name, texts=sizes.texts, own_text=_own_text(model_folder(name)))


def _own_text(folder: Path) -> Path | None:
    """Folder of a trained model's text encoder, if it has one."""
    try:
        record = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # said when the config is read
    name = record.get("text_encoder") if isinstance(record, dict) else None
    return folder / name if isinstance(name, str) else None


def model_folder(name_or_path: str | Path) -> Path:
    """Folder of a built-in model, or the folder itself.

    Raises:
        WeightsError: neither a built-in name nor a folder with a model config.
    """
    if str(name_or_path) in BUILT_IN:
        return Path(str(files("seqtex") / "models" / str(name_or_path)))
    folder = Path(name_or_path)
    if not (folder / CONFIG_NAME).is_file():
        names = (*BUILT_IN, *CATALOG.names())
        close = difflib.get_close_matches(str(name_or_path), names, n=1)
        known = ", ".join(names)
        raise WeightsError(
            f"model {str(name_or_path)!r}",
            expected=f"one of {known}, or a folder with {CONFIG_NAME}",
            got="no such folder" if not folder.is_dir() else f"a folder without {CONFIG_NAME}",
            remedy=f"Did you mean {close[0]!r}?" if close else "`seqtex info` lists the models.",
        )
    return folder
