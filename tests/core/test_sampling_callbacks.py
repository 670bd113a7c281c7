"""What a callback of the sampling loop sees, and what it may do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sampling_models import PerfectModel, clean_latents, exactly_informed, known, seed

from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.sampling import StepReport, StepSignal, sample
from seqtex_core.tasks import geo2mv, img2tex


@pytest.mark.parametrize("whole", [False, True])
def test_callback_sees_every_step_and_a_preview(whole: bool) -> None:
    clean = clean_latents()
    reports: list[StepReport] = []
    levels = inference_sigmas(4)

    def callback(report: StepReport) -> None:
        reports.append(report)
        for group, x in report.predicted_clean().items():
            # x - s u with u = (x - x0) / s; level 0.07 keeps the rounding below 1e-6
            torch.testing.assert_close(x, clean[group], rtol=0, atol=1e-6)

    predict = exactly_informed(PerfectModel(clean), levels) if whole else PerfectModel(clean)
    sample(
        predict,
        replace(img2tex(), whole_timesteps=whole),
        known(clean),
        sigmas=levels,
        generator=seed(),
        callback=callback,
    )
    assert [report.index for report in reports] == [0, 1, 2, 3]
    assert {report.total for report in reports} == {4}
    assert [report.sigma for report in reports] == levels[1:].tolist()


def test_a_callback_may_stop_and_gets_the_prediction_so_far() -> None:
    clean = clean_latents()
    model = PerfectModel(clean)

    def callback(report: StepReport) -> StepSignal | None:
        return StepSignal.STOP if report.index == 1 else None

    out = sample(
        model,
        img2tex(),
        known(clean),
        sigmas=inference_sigmas(10),
        generator=seed(),
        callback=callback,
    )
    assert len(model.seen) == 2
    assert torch.equal(out["views"][:, :, 0], clean["views"][:, :, 0])
    torch.testing.assert_close(out["texture"], clean["texture"], rtol=0, atol=1e-6)


def test_an_error_in_the_callback_ends_sampling() -> None:
    model = PerfectModel(clean_latents())

    def callback(report: StepReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(
            model,
            geo2mv(),
            known(),
            sigmas=inference_sigmas(10),
            generator=seed(),
            callback=callback,
        )
    assert len(model.seen) == 1
