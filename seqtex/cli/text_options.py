"""Options of the text path, shared by ``seqtex texture`` and ``seqtex reference``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from seqtex.references import check_view_name
from seqtex.text_to_image.kinds import (
    IMAGE_DTYPES,
    NORMAL_CONVENTIONS,
    OFFLOADS,
    ImageDtype,
    NormalConvention,
    Offload,
)
from seqtex.text_to_image.registry import choose_generator
from seqtex.text_to_image.sources import ImageModelSpec
from seqtex_core.errors import UsageError

from .options import check_choice, check_size

if TYPE_CHECKING:
    from seqtex.text_to_image.protocol import ImageSettings

_option = partial(typer.Option, rich_help_panel="From text")

SIZE_MULTIPLE = 16  # SDXL needs 8, FLUX 16
SMALLER = "Use --offload model, then --offload sequential, or a smaller image."

TextOption = Annotated[
    str | None,
    _option("--text", metavar="TEXT", help="What the object looks like, in words."),
]
NegativeTextOption = Annotated[
    str | None,
    _option("--negative-text", metavar="TEXT", help="What not to show (SDXL only)."),
]
ImageModelOption = Annotated[
    str | None,
    _option(
        "--image-model",
        metavar="DIR|ID",
        help="SDXL or FLUX in the layout of diffusers: a folder, or a hub id (then the network "
        "is used).",
    ),
]
ControlModelOption = Annotated[
    list[str] | None,
    _option(
        "--control-model",
        metavar="[KIND=]DIR|ID",
        help="ControlNet for that model: a union, or one for depth and one for normal "
        "(depth=..., normal=...). Repeatable.",
    ),
]
OffloadOption = Annotated[
    str | None,
    _option(
        "--offload",
        metavar="NAME",
        help="Image model on the GPU: none (all of it), model (the part at work) or sequential "
        "(layer by layer, slow).",
        show_default="none",
    ),
]
LocalFilesOption = Annotated[
    bool,
    _option("--local-files-only", help="Hub ids: use what is on this machine, no network."),
]


def view_option(flag: str) -> Any:
    """The view that a picture made from text shows."""
    return _option(
        flag, metavar="VIEW", help="View that is made from --text.", show_default="front"
    )


def size_option(flag: str) -> Any:
    """Size of a picture made from text."""
    return _option(
        flag, metavar="PIXELS", help="Edge of the picture made from --text.", show_default="1024"
    )


def steps_option(flag: str) -> Any:
    """Steps of the image model."""
    return _option(
        flag, metavar="N", help="Sampling steps of the image model.", show_default="28 to 30"
    )


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """An image to be made from text, as asked for; ``None`` is "not given"."""

    text: str
    view: str | None = None
    negative_text: str | None = None
    image_model: str | None = None
    control_models: tuple[str, ...] = ()
    size: int | None = None
    steps: int | None = None
    guidance: float | None = None
    control_scale: float | None = None
    seed: int | None = None
    raw_text: bool = False
    normals: str = "bae"
    device: str = "auto"
    dtype: str = "auto"
    offload: str | None = None
    variant: str | None = None
    local_files_only: bool = False
    generator: str = "auto"
    flags: tuple[str, str, str] = ("--view", "--size", "--steps")

    def check(self) -> ImageModelSpec:
        """The models, after every check that needs no weights.

        Raises:
            UsageError: an unknown word, a number out of range, or models that do not go together.
            WeightsError: a model that is not there, or of no known kind.
        """
        view_flag, size_flag, steps_flag = self.flags
        if not self.text.strip():
            raise UsageError("--text", expected="words", got="nothing")
        check_view_name(self.shown_view, subject=view_flag)
        if self.size is not None:
            check_image_size(size_flag, self.size)
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise UsageError(steps_flag, expected="1 to 1000", got=str(self.steps))
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError("--seed", expected="a number from 0 to 2^63 - 1", got=str(self.seed))
        for flag, value in (("--guidance", self.guidance), ("--control-scale", self.control_scale)):
            if value is not None and not 0.0 <= value <= 100.0:
                raise UsageError(flag, expected="0 to 100", got=str(value))
        check_choice("--offload", self.offload or "none", OFFLOADS)
        check_choice("--dtype", self.dtype, IMAGE_DTYPES)
        check_choice("--normals", self.normals, NORMAL_CONVENTIONS)
        if self.image_model is None:
            raise UsageError(
                "--image-model",
                expected="a folder or a hub id beside --text",
                got="none",
                remedy="Such as stabilityai/stable-diffusion-xl-base-1.0 with --control-model "
                "xinsir/controlnet-union-sdxl-1.0; or black-forest-labs/FLUX.1-Depth-dev alone.",
            )
        spec = ImageModelSpec.of(
            self.image_model,
            self.control_models,
            local_files_only=self.local_files_only,
            device=self.device,
            dtype=cast(ImageDtype, self.dtype),
            offload=cast(Offload, self.offload or "none"),
            variant=self.variant,
            generator=self.generator,
        )
        if not self.local_files_only:
            for source in (spec.model, *(control.source for control in spec.controls)):
                if source.folder is None:
                    _say_hub(source.name)
        choose_generator(spec)
        return spec

    @property
    def shown_view(self) -> str:
        """The view that the image shows: the front, unless the user named another."""
        return self.view or "front"

    @property
    def normal_convention(self) -> NormalConvention:
        """``normals``, once checked."""
        return cast(NormalConvention, self.normals)

    def settings(self) -> ImageSettings:
        """What the image model is told."""
        from seqtex.text_to_image.protocol import ImageSettings
        from seqtex.text_to_image.reference import full_prompt

        return ImageSettings(
            prompt=self.text if self.raw_text else full_prompt(self.text, self.shown_view),
            negative_prompt=self.negative_text,
            seed=self.seed or 0,
            steps=self.steps,
            guidance=self.guidance,
            control_scale=self.control_scale,
        )


@cache
def _say_hub(name: str) -> None:
    """Tell once that the network is used, and what for."""
    typer.echo(f"  from the hub: {name} (what is not on this machine is downloaded)", err=True)


def check_image_size(flag: str, size: int) -> None:
    """Refuse sizes that image models cannot make.

    Raises:
        UsageError: out of range, or not a multiple of 16.
    """
    check_size(flag, size, low=64, high=4096)
    if size % SIZE_MULTIPLE:
        raise UsageError(
            flag,
            expected=f"a multiple of {SIZE_MULTIPLE}",
            got=str(size),
            remedy=f"The nearest is {round(size / SIZE_MULTIPLE) * SIZE_MULTIPLE}.",
        )


def text_of_texture(text: str | None, **options: Any) -> TextRequest | None:
    """What ``seqtex texture`` was asked to make from text, if anything.

    Args:
        text: of ``--text``.
        options: fields of :class:`TextRequest`.

    Raises:
        UsageError: options of the image model without a text.
    """
    flags = ("--text-view", "--image-size", "--image-steps")
    if text is not None:
        return TextRequest(text=text, flags=flags, **options)
    names = {
        "view": flags[0],
        "size": flags[1],
        "steps": flags[2],
        "control_models": "--control-model",
        **{
            name: "--" + name.replace("_", "-")
            for name in ("negative_text", "image_model", "offload", "local_files_only")
        },
    }
    given = [flag for name, flag in names.items() if options.get(name)]
    if given:
        raise UsageError(", ".join(given), expected="--text beside it", got="no --text")
    return None
