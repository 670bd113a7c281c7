"""What the sampling loop refuses: levels, known content and model answers that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch

from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import FramePlan
from seqtex_core.frame_run import KnownLatents
from seqtex_core.sampling import sample
from seqtex_core.tasks import geo2mv, img2tex

VIEWS_SHAPE = (2, 3, 4, 4, 4)
TEXTURE_SHAPE = (2, 3, 1, 8, 8)


def known(clean: dict[str, torch.Tensor] | None = None, **options: object) -> KnownLatents:
    shapes = {"views": VIEWS_SHAPE, "texture": TEXTURE_SHAPE}
    return KnownLatents(shapes=shapes, clean=clean or {}, **options)  # type: ignore[arg-type]


def clean_latents() -> dict[str, torch.Tensor]:
    return {"views": torch.zeros(VIEWS_SHAPE), "texture": torch.zeros(TEXTURE_SHAPE)}


def run(
    plan: FramePlan,
    content: KnownLatents,
    *,
    sigmas: Sequence[float] = (1.0, 0.0),
    answer: dict[str, torch.Tensor] | None = None,
) -> None:
    def model(
        latents: Mapping[str, torch.Tensor], sigmas: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        return latents if answer is None else answer

    sample(model, plan, content, sigmas=sigmas, generator=torch.Generator())


def test_the_inputs_of_this_file_are_otherwise_accepted() -> None:
    run(img2tex(), known(clean_latents()))


@pytest.mark.parametrize(
    "sigmas", [[1.0], [1.0, 0.5], [1.0, 0.5, 0.5, 0.0], [0.2, 0.5, 0.0], [1.5, 0.0]]
)
def test_levels_that_do_not_fall_to_zero_are_refused(sigmas: list[float]) -> None:
    with pytest.raises(UsageError, match="sigmas"):
        run(geo2mv(), known(), sigmas=sigmas)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (known(), "conditioning"),
        (KnownLatents(clean={"views": torch.zeros(VIEWS_SHAPE)}), "texture"),
        (known({"views": torch.zeros(2, 3, 4, 8, 8)}), "one shape"),
        (known({"views": torch.zeros(VIEWS_SHAPE), "normal": torch.zeros(1)}), "normal"),
        (KnownLatents(shapes={"views": (2, 3, 5, 4, 4), "texture": TEXTURE_SHAPE}), "4, H, W"),
        (
            KnownLatents(
                shapes={"texture": (1, 3, 1, 8, 8)}, clean={"views": torch.zeros(VIEWS_SHAPE)}
            ),
            "batch size",
        ),
        (
            known(clean_latents(), lock_masks={"texture": torch.zeros(2, 1, 1, 4, 4) > 0}),
            "lock_masks",
        ),
        (known(clean_latents(), lock_masks={"texture": torch.zeros(2, 1, 1, 8, 8)}), "bool"),
        (
            known(
                {"views": torch.zeros(VIEWS_SHAPE)},
                lock_masks={"texture": torch.zeros(2, 1, 1, 8, 8) > 0},
            ),
            "locked",
        ),
    ],
)
def test_known_content_that_does_not_fit_is_refused(content: KnownLatents, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(img2tex(), content)


def test_a_lock_in_a_group_that_is_not_computed_is_refused() -> None:
    mask = torch.zeros(2, 1, 1, 8, 8) > 0
    with pytest.raises(UsageError, match="not computed"):
        run(geo2mv(), known(clean_latents(), lock_masks={"texture": mask}))


def test_model_answers_that_do_not_fit_are_refused() -> None:
    for answer in ({}, {"views": torch.zeros(1)}):
        with pytest.raises(UsageError, match="velocity of 'views'"):
            run(geo2mv(), known(), answer=answer)
