"""Where image models come from: local folders, or hub ids that the user named; light to import."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seqtex_core.errors import UsageError, WeightsError

from .kinds import CONTROL_KINDS, ControlKind, ImageDtype, Offload

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """One model by the name that the user gave.

    Args:
        name: a local folder, or a hub id ``owner/name``.
        what: for messages, such as ``"--image-model"``.
        local_files_only: of a hub id, take only what has been downloaded before.
    """

    name: str
    what: str
    local_files_only: bool = False

    def __post_init__(self) -> None:
        if self.folder is None and not _HUB_ID.fullmatch(self.name):
            raise WeightsError(
                f"{self.what} {self.name!r}",
                expected="a folder in the layout of diffusers, or a hub id such as owner/name",
                got="no such folder",
            )

    @property
    def folder(self) -> Path | None:
        """The local folder, or ``None`` for a hub id; a folder wins over a hub id."""
        path = Path(self.name).expanduser()
        return path if path.is_dir() else None

    @property
    def location(self) -> str:
        """What diffusers loads from."""
        return self.name if self.folder is None else str(self.folder)

    @property
    def label(self) -> str:
        """The hub id, or the folder's own name without its path."""
        return self.name if self.folder is None else self.folder.resolve().name

    def read_json(self, file: str) -> dict[str, Any]:
        """A JSON file of the model; of a hub id it is downloaded if need be.

        Raises:
            WeightsError: it is not there, or not JSON.
        """
        path = self._download(file) if self.folder is None else self.folder / file
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{self.what} {self.name!r}",
                expected=f"a model in the layout of diffusers, with {file}",
                got="no such file" if isinstance(error, FileNotFoundError) else str(error),
            ) from error
        return dict(record)

    def _download(self, file: str) -> Path:
        from seqtex_backbones.hub import first_line, quiet_hub

        try:
            with quiet_hub():
                from huggingface_hub import hf_hub_download

                return Path(
                    hf_hub_download(self.name, file, local_files_only=self.local_files_only)
                )
        except (OSError, ValueError) as error:  # every error of the hub's client is one of these
            raise WeightsError(
                f"{self.what} {self.name!r}",
                expected=f"{file} from the hub, or a local folder of that name",
                got=first_line(error),
                remedy="Check the id, the connection and, for gated models, `hf auth login`; "
                "or download the model and name its folder.",
            ) from error


@dataclass(frozen=True, kw_only=True)
class ControlModel:
    """A ControlNet and which control images it reads.

    Args:
        source: where it is.
        kind: of control image, or ``None`` if the user did not say.
    """

    source: ModelSource
    kind: ControlKind | None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return self.source.read_json("config.json")

    @property
    def class_name(self) -> str:
        """The diffusers class that saved it."""
        return str(self.config.get("_class_name", "none"))

    @property
    def is_union(self) -> bool:
        """Whether one network reads several kinds, told apart by a mode."""
        config = self.config
        return bool(config.get("num_control_type") or config.get("num_mode")) or (
            "union" in self.class_name.lower()
        )

    @property
    def single_kind(self) -> ControlKind:
        """The one kind of a ControlNet that is no union: as the user said, else from its name.

        Raises:
            UsageError: neither says.
        """
        if self.kind is not None:
            return self.kind
        named = [kind for kind in CONTROL_KINDS if kind in self.source.label.lower()]
        if len(named) == 1:
            return named[0]
        raise UsageError(
            f"--control-model {self.source.name}",
            expected="depth=ID or normal=ID, as the name does not say which it reads",
            got=self.source.name,
        )


def _kind_and_name(text: str) -> tuple[ControlKind | None, str]:
    """``depth=NAME`` taken apart; a folder whose own name has the sign is a name."""
    word, separator, name = text.partition("=")
    if not separator or Path(text).expanduser().is_dir():
        return None, text
    kind = next((kind for kind in CONTROL_KINDS if kind == word), None)
    if kind is None:
        raise UsageError(
            f"--control-model {text}",
            expected=f"{' or '.join(f'{known}=' for known in CONTROL_KINDS)} before the name",
            got=f"{word}=",
            remedy="Only control images of the mesh can be made: its depth and its normals.",
        )
    if not name:
        raise UsageError(f"--control-model {text}", expected="a folder or a hub id", got="none")
    return kind, name


@dataclass(frozen=True, kw_only=True)
class ImageModelSpec:
    """An image model, its ControlNets and how they are run.

    Args:
        model: the text-to-image pipeline.
        controls: ControlNets; none for models that read a control image themselves.
        generator: registered generator, or ``"auto"``: what the models' own configs say.
        device: a torch device, or ``"auto"``.
        dtype: of the weights; ``"auto"`` is bfloat16 on CUDA and float32 elsewhere.
        offload: keep in device memory everything, the ``model`` part at work, or single layers
            (``sequential``); needs an accelerator.
        variant: weight files of that name, such as ``fp16``.
    """

    model: ModelSource
    controls: tuple[ControlModel, ...] = ()
    generator: str = "auto"
    device: str = "auto"
    dtype: ImageDtype = "auto"
    offload: Offload = "none"
    variant: str | None = None

    @classmethod
    def of(
        cls,
        model: str,
        control_models: Sequence[str] = (),
        *,
        local_files_only: bool = False,
        **options: Any,
    ) -> ImageModelSpec:
        """A spec from names as on the command line.

        Args:
            model: folder or hub id.
            control_models: folders or hub ids, ``depth=`` or ``normal=`` before them or not.
            local_files_only: download nothing.
            options: the other fields.

        Raises:
            WeightsError: a name that is neither a folder nor a hub id.
            UsageError: a kind of control image that there is not.
        """
        local = {"local_files_only": local_files_only}
        controls = []
        for text in control_models:
            kind, name = _kind_and_name(text)
            source = ModelSource(name=name, what="--control-model", **local)
            controls.append(ControlModel(source=source, kind=kind))
        source = ModelSource(name=model, what="--image-model", **local)
        return cls(model=source, controls=tuple(controls), **options)

    @cached_property
    def index(self) -> dict[str, Any]:
        """The pipeline's model_index.json."""
        return self.model.read_json("model_index.json")

    @property
    def class_name(self) -> str:
        """The diffusers pipeline class that saved the model."""
        return str(self.index.get("_class_name", "none"))
