"""The denoising of the shipped model as a call: what the pipeline would run, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from seqtex.data.bank import GeometryBank
from seqtex.data.production import Production, produce
from seqtex.data.record import RecordSizes
from seqtex.data.splits import split_families, split_kinds
from seqtex.data.synth import SynthSettings
from seqtex.evaluation import ModelMethod, bank_cases
from seqtex.evaluation.cases import EvaluationCase
from seqtex.evaluation.scores import scores
from seqtex.models.load import SeqTexModel
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import PreparedJob
from seqtex.run_options import RunOptions
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.frame_plan import FramePlan
from seqtex_core.frame_run import KnownLatents
from seqtex_core.sampling import sample
from seqtex_core.tasks import TEXTURE
from seqtex_core.transformer import SeqTexTransformer, StepCache

from .pipeline import prepared_objects


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoising:
    """What a run of the pipeline gives to its sampler.

    Args:
        plan: what is given and what is made.
        known: latents that are given.
        options: of the sampler.
        cache: what the model reads of the object.
        texture: that the run made in one step, ``[3, H, W]``.
        shift: of the noise levels.
        seed: of the noise.
    """

    plan: FramePlan
    known: KnownLatents
    options: Mapping[str, Any]
    cache: StepCache
    texture: Tensor
    shift: float
    seed: int

    @classmethod
    def of(
        cls, pipeline: SeqTexPipeline, job: PreparedJob, *, seed: int, options: RunOptions
    ) -> Denoising:
        """That of one run of a pipeline with these options, but in one step."""
        config = pipeline.model.config
        seen: list[tuple[FramePlan, KnownLatents, dict[str, Any]]] = []

        def watched(predict: Any, plan: FramePlan, known: KnownLatents, **given: Any) -> Any:
            seen.append((plan, known, given))
            return sample(predict, plan, known, **given)

        once = replace(options, steps=1, texture_size=options.uv_size or config.uv_size)
        with patch("seqtex.generate.sample", watched), prepared_objects(pipeline) as caches:
            made = pipeline(job, seed=seed, options=once)
        (plan, known, given), cache = seen[0], caches[0]
        return cls(
            plan=plan,
            known=known,
            options=given,
            cache=cache,
            texture=made.textures[0],
            shift=config.sampling.shift,
            seed=seed,
        )

    @torch.no_grad()
    def __call__(self, model: SeqTexTransformer, steps: int) -> Tensor:
        """Latents of the texture, ``[1, C, F, h, w]``."""
        changed = {
            "sigmas": inference_sigmas(steps, shift=self.shift),
            "generator": torch.Generator().manual_seed(self.seed),
            "callback": None,
        }
        made = sample(
            lambda x, sigmas: model(x, sigmas, self.cache),
            self.plan,
            self.known,
            **{**self.options, **changed},
        )
        return made[TEXTURE]


def held_out_objects(model: SeqTexModel, folder: Path, *, count: int) -> list[EvaluationCase]:
    """Procedural objects whose shapes and textures the model has not seen, at its sizes."""
    config = model.config
    sizes = RecordSizes(
        view_size=config.view_size, uv_size=config.uv_size, supersample=config.supersample
    )
    families = tuple(split_families("held-out"))
    settings = SynthSettings(seed=1, families=families, sizes=sizes)
    produce(Production(folder=folder, count=count, settings=settings))
    kinds = split_kinds("held-out")
    cases = bank_cases(GeometryBank(folder), count=count, seed=0, kinds=kinds, given_view=0)
    return [case for case in cases if case.exclusion is None and case.hides_enough]


def quality(
    model: SeqTexModel, cases: list[EvaluationCase], *, foreground: int | None, seed: int
) -> dict[str, float]:
    """Mean PSNR against the truth, of all texels and of those that the reference does not show.

    Args:
        model: as users load it; its fusion has the last word, as for users.
        cases: objects.
        foreground: margin of the tokens that are computed, ``None`` for all tokens.
        seed: of the noise.
    """
    changed = replace(model, config=replace(model.config, foreground=foreground))
    made = ModelMethod("model", changed, seed=seed)(cases)
    found = [scores(case, one) for case, one in zip(cases, made, strict=True)]
    return {
        f"{name}_db": sum(one[name] or 0.0 for one in found) / len(found)
        for name in ("psnr_all", "psnr_unseen")
    }
