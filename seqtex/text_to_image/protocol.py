"""What an image model must do to make references from text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from .kinds import ControlKind

if TYPE_CHECKING:
    from torch import Tensor

    from .control_images import ControlImages

OnStep = Callable[[int, int], None]
"""Called as ``on_step(done, total)``."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How one image is made; ``None`` takes the generator's default.

    Args:
        prompt: text for the model.
        negative_prompt: what not to show; only for models with classifier-free guidance.
        seed: of the noise, which is drawn on the CPU: the same on every device.
        steps: sampling steps.
        guidance: guidance scale.
        control_scale: strength of each control, where the model has one.
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    control_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class ImageDefaults:
    """A generator's defaults.

    Args:
        size: edge of the image in pixels.
        steps: sampling steps.
        guidance: guidance scale.
        control_scale: strength of each control, or ``None`` if it cannot be set.
    """

    size: int
    steps: int
    guidance: float
    control_scale: float | None

    def resolve(self, settings: ImageSettings) -> ImageSettings:
        """``settings`` with nothing left open."""
        return replace(
            settings,
            steps=self.steps if settings.steps is None else settings.steps,
            guidance=self.guidance if settings.guidance is None else settings.guidance,
            control_scale=self.control_scale
            if settings.control_scale is None
            else settings.control_scale,
        )


class ReferenceGenerator(Protocol):
    """An image model that draws what a prompt says in the shape that control images show.

    Attributes:
        name: registered name.
        controls: kinds of control images that it reads.
        size_multiple: its images' edge is a multiple of this, in pixels.
        defaults: what it uses where settings are open.
    """

    name: str
    controls: tuple[ControlKind, ...]
    size_multiple: int
    defaults: ImageDefaults

    def __call__(
        self,
        settings: ImageSettings,
        controls: ControlImages,
        *,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """An sRGB image ``[3, S, S]`` float32 in [0, 1], as large as the control images.

        Args:
            settings: with or without defaults filled in.
            controls: of one view.
            on_step: told about the sampling steps.

        Raises:
            UsageError: a setting that the model does not have, or a size that it cannot make.
            UnsupportedError: the model's numbers ran over in its dtype.
        """
        ...

    def record(self) -> Mapping[str, Any]:
        """Models and how they are run, for manifests; plain JSON types, no local paths."""
        ...
