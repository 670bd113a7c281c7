"""A trained model as a method to measure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from seqtex_core.errors import UsageError
from seqtex_core.tasks import TEXTURE, VIEWS

from ..models.folder import model_folder
from ..models.load import SeqTexModel, load_model
from ..training.bank_source import painted_batch
from ..training.batch_sampling import sample_batch
from ..training.export import TRAINING_RECORD
from .cases import EvaluationCase
from .methods import MadeTexture


class ModelMethod:
    """A model, sampled as its config says.

    Args:
        name: in the results.
        model: as users load it.
        steps: sampling steps; the model's own number if not given.
        seed: of the noise.
        trained: facts on its training, for the record.
    """

    def __init__(
        self,
        name: str,
        model: SeqTexModel,
        *,
        steps: int | None = None,
        seed: int = 0,
        trained: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.steps = steps or model.config.sampling.steps
        self.seed = seed
        self.trained = trained or {}

    @classmethod
    def load(
        cls,
        folder: str,
        *,
        name: str,
        device: torch.device | str = "cpu",
        steps: Sequence[int] = (),
        seed: int = 0,
    ) -> list[ModelMethod]:
        """One method per number of steps, or one with the model's own number.

        Raises:
            WeightsError: no model there.
        """
        model = load_model(folder, device=device)
        trained: dict[str, Any] = {}
        record = model_folder(folder) / TRAINING_RECORD
        if record.is_file():
            found = json.loads(record.read_text(encoding="utf-8"))
            trained = {key: found[key] for key in ("step", "samples") if key in found}
        if not steps:
            return [cls(name, model, seed=seed, trained=trained)]
        return [
            cls(f"{name}, {count} steps", model, steps=count, seed=seed, trained=trained)
            for count in steps
        ]

    @property
    def facts(self) -> dict[str, Any]:
        """What was sampled and how."""
        config = self.model.config
        return {
            "description": "(d) a model; it is given the reference at the size of its views"
            + (", and the frame of (b)" if config.task.endswith("_projected") else ""),
            "model": config.name,
            "sha256": self.model.record.sha256,
            "notes": list(self.model.record.notes),
            "task": config.task,
            "texture_base": config.texture_base,
            "foreground": config.foreground,
            "sampler": config.sampling.sampler,
            "steps": self.steps,
            "shift": config.sampling.shift,
            "seed": self.seed,
            "trained": dict(self.trained),
        }

    def __call__(self, cases: Sequence[EvaluationCase]) -> list[MadeTexture]:
        """Textures and views; the noise of a case depends on its number and the seed alone.

        Raises:
            UsageError: cases of other sizes than the model's, or a model without a reference.
        """
        self._check_sizes(cases[0])
        made = sample_batch(
            self.model,
            painted_batch([(case.maps, case.images) for case in cases]),
            [case.number for case in cases],
            steps=self.steps,
            seed=self.seed,
            given_views=(cases[0].given_view,),
        )
        textures, views = made[TEXTURE][:, 0].clamp(0, 1), made[VIEWS].clamp(0, 1)
        return [MadeTexture(texture=t, views=v) for t, v in zip(textures, views, strict=True)]

    def _check_sizes(self, case: EvaluationCase) -> None:
        config = self.model.config
        found = (case.images.views.shape[-1], case.images.uv.shape[-1])
        if found != (config.view_size, config.uv_size):
            raise UsageError(
                f"model {self.name!r}",
                expected="the sizes of the objects: views of {}, textures of {}".format(*found),
                got=f"{config.view_size} and {config.uv_size}",
                remedy="Make the set with `seqtex data synth` or `prepare` in the model's sizes.",
            )
