"""The work behind ``--text``: model in, picture out, memory given back."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from .exits import naming_smaller_setting
from .progress import StageReporter
from .text_options import SMALLER, TextRequest

if TYPE_CHECKING:
    from seqtex.prepare import PreparedJob
    from seqtex.text_to_image.reference import TextReference
    from seqtex.text_to_image.sources import ImageModelSpec


def make_from_text(
    request: TextRequest, spec: ImageModelSpec, job: PreparedJob, report: StageReporter
) -> TextReference:
    """Load the image model, make the picture and let the model go; prints what was decided.

    Raises:
        SeqTexError: of any kind.
    """
    import torch

    from seqtex.stages import StageClock
    from seqtex.text_to_image.reference import make_text_reference
    from seqtex.text_to_image.registry import load_generator

    with naming_smaller_setting(SMALLER):
        with StageClock(report).stage(f"Load image model {spec.model.label}"):
            generator = load_generator(spec)
        settings = request.settings()
        report.say(f"  image model: {generator.name}, reads {' and '.join(generator.controls)}")
        report.say(f"  prompt: {settings.prompt}")
        made = make_text_reference(
            job,
            generator,
            settings,
            view=request.shown_view,
            size=request.size,
            normal_convention=request.normal_convention,
            on_progress=report,
        )
    del generator
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    report.say(f"  reference {made.view}: {made}")
    return made
