"""What a codec is: the protocol, value ranges, input checks and the table of codecs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.noise import Generators
from seqtex_core.registry import Registry

Content = Literal["rgb", "geometry"]
"""What images show: colours in [0, 1], or maps (positions, normals) in [-1, 1]."""

_OUTER: Mapping[Content, tuple[float, float]] = {"rgb": (0.0, 1.0), "geometry": (-1.0, 1.0)}


class Codec(Protocol):
    """Images to latents and back; every frame by itself.

    Outside, colours are in [0, 1] and geometry maps in [-1, 1]; :attr:`ranges` says what the
    codec's own numbers are.
    """

    name: str
    ranges: ValueRanges

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent texel, in both directions."""
        ...

    def encode(
        self, images: Tensor, *, content: Content = "rgb", generator: Generators | None = None
    ) -> Tensor:
        """Latents ``[B, C, F, h, w]`` of ``[F, 3, H, W]`` (then B = 1) or ``[B, 3, F, H, W]``.

        Args:
            images: colours in [0, 1] or maps in [-1, 1], float.
            content: which of the two.
            generator: for codecs that sample their latents; one, or one per sample.
        """
        ...

    def decode(self, latents: Tensor, *, content: Content = "rgb", clamp: bool = True) -> Tensor:
        """Images ``[B, 3, F, H, W]`` of latents ``[B, C, F, h, w]``.

        Args:
            latents: what :meth:`encode` returns.
            content: colours come back in [0, 1], maps in [-1, 1].
            clamp: cut values to that range.
        """
        ...

    def to_config(self) -> dict[str, Any]:
        """JSON-able settings; ``"codec"`` is the registered name. Weights are not included."""
        ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The codec that :meth:`to_config` described."""
        ...


@dataclass(frozen=True, kw_only=True)
class ValueRanges:
    """Low and high end of the numbers that a codec itself sees.

    Args:
        rgb: for colours.
        geometry: for position and normal maps.

    Raises:
        UsageError: an end that is not above its start.
    """

    rgb: tuple[float, float] = (-1.0, 1.0)
    geometry: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        for low, high in (self.rgb, self.geometry):
            if not low < high:
                raise UsageError("value range", expected="low < high", got=f"({low}, {high})")

    def inward(self, images: Tensor, content: Content) -> Tensor:
        """Outside numbers (see :data:`Content`) to the codec's own."""
        return _rescale(images, _outer(content), self._inner(content))

    def outward(self, values: Tensor, content: Content, *, clamp: bool) -> Tensor:
        """The codec's numbers to outside numbers, cut to their range if ``clamp``."""
        low, high = _outer(content)
        images = _rescale(values, self._inner(content), (low, high))
        return images.clamp(low, high) if clamp else images

    def to_config(self) -> dict[str, list[float]]:
        """The ranges as JSON-able data."""
        return {"rgb": list(self.rgb), "geometry": list(self.geometry)}

    @classmethod
    def from_config(cls, config: Mapping[str, Sequence[float]]) -> ValueRanges:
        """The ranges that :meth:`to_config` wrote."""
        rgb, geometry = config["rgb"], config["geometry"]
        return cls(rgb=(rgb[0], rgb[1]), geometry=(geometry[0], geometry[1]))

    def _inner(self, content: Content) -> tuple[float, float]:
        return self.rgb if content == "rgb" else self.geometry


SYMMETRIC_RANGES = ValueRanges()
"""[-1, 1] for everything: what the video VAEs were trained on."""

RELEASED_RANGES = ValueRanges(rgb=(0.0, 1.0), geometry=(0.0, 1.0))
"""[0, 1] for everything: what the released SeqTex weights expect."""

CODECS: Registry[type[Codec]] = Registry(
    "codec",
    {
        "cogvideox_vae": "seqtex_backbones.codecs.cogvideox_vae:CogVideoXVAECodec",
        "ltx_vae": "seqtex_backbones.codecs.ltx_vae:LTXVAECodec",
        "pixel": "seqtex_backbones.codecs.pixel:PixelCodec",
        "wan_vae": "seqtex_backbones.codecs.wan_vae:WanVAECodec",
    },
    entry_point_group="seqtex.codecs",
)
"""Codec classes by name."""


def codec_from_config(config: Mapping[str, Any]) -> Codec:
    """The codec that ``to_config`` of any registered codec described.

    Raises:
        UsageError: no such codec, or a setting that is missing.
    """
    kind = CODECS.get(str(config.get("codec")))
    try:
        return kind.from_config(config)
    except KeyError as error:
        raise UsageError(
            "codec config", expected=f"the setting {error}", got=str(sorted(config))
        ) from error


def images_to_video(images: Tensor, spatial_factor: int) -> Tensor:
    """``[B, 3, F, H, W]`` from ``[F, 3, H, W]`` or ``[B, 3, F, H, W]``, checked.

    Raises:
        UsageError: no tensor, another shape, an integer dtype, or a size that the factor does not
            divide.
    """
    if not isinstance(images, Tensor):
        raise UsageError("images", expected="a torch tensor", got=type(images).__name__)
    shape = tuple(images.shape)
    video = images.transpose(0, 1).unsqueeze(0) if images.ndim == 4 else images
    if video.ndim != 5 or video.shape[1] != 3:
        raise UsageError("images", expected="[F, 3, H, W] or [B, 3, F, H, W]", got=str(shape))
    if not images.is_floating_point():
        raise UsageError("images", expected="a float dtype", got=str(images.dtype))
    height, width = shape[-2:]
    if height % spatial_factor or width % spatial_factor or min(height, width) < 1:
        raise UsageError(
            "image size",
            expected=f"height and width that are multiples of {spatial_factor}",
            got=f"{height} x {width}",
            remedy="Resize or pad the images.",
        )
    return video


def video_to_images(video: Tensor) -> Tensor:
    """``[F, 3, H, W]`` from ``[1, 3, F, H, W]``.

    Raises:
        UsageError: more than one sample.
    """
    if video.ndim != 5 or video.shape[0] != 1:
        raise UsageError("video", expected="[1, 3, F, H, W]", got=str(tuple(video.shape)))
    return video[0].transpose(0, 1)


def check_latents(latents: Tensor, latent_channels: int) -> None:
    """Refuse what cannot be latents of the codec.

    Raises:
        UsageError: not ``[B, latent_channels, F, h, w]``.
    """
    if latents.ndim != 5 or latents.shape[1] != latent_channels:
        raise UsageError(
            "latents",
            expected=f"[B, {latent_channels}, F, h, w]",
            got=str(tuple(latents.shape)),
        )


def _outer(content: Content) -> tuple[float, float]:
    if content not in _OUTER:
        raise UsageError("content", expected="'rgb' or 'geometry'", got=repr(content))
    return _OUTER[content]


def _rescale(values: Tensor, source: tuple[float, float], target: tuple[float, float]) -> Tensor:
    if source == target:
        return values
    scale = (target[1] - target[0]) / (source[1] - source[0])
    return (values - source[0]) * scale + target[0]
