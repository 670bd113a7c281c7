"""What a run asks of a model: sizes and texts, and which no model takes; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqtex_core.errors import UsageError

if TYPE_CHECKING:
    from seqtex_backbones.codecs.protocol import Codec
    from seqtex_core.adapter import BackboneSpec

    from .config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class RunSizes:
    """Sizes of a run, and the texts that it encodes.

    Args:
        view_size: pixels of a view, square; ``None`` is the config's, like the next.
        uv_size: texels of a texture, square.
        texture_size: of the texture that is written; ``None`` is no wish.
        num_views: views.
        guided: with classifier-free guidance, which conditions on two prompts.
        graphed: with steps as CUDA graphs; one for each prompt.
        texts: prompts that a text encoder encodes while the model is loaded, before the rest of it;
            prompts that come later find all of it in memory.
    """

    view_size: int | None = None
    uv_size: int | None = None
    texture_size: int | None = None
    num_views: int = 4
    guided: bool = False
    graphed: bool = False
    texts: tuple[str, ...] = ()

    def of(self, config: ModelConfig) -> KnownSizes:
        """The same with the config's sizes where none are given."""
        return KnownSizes(
            view_size=self.view_size or config.view_size,
            uv_size=self.uv_size or config.uv_size,
            texture_size=self.texture_size,
            num_views=self.num_views,
            guided=self.guided,
            graphed=self.graphed,
            texts=self.texts,
        )

    def check(self, *, token_pixels: int, uv_size: int) -> None:
        """Refuse sizes that a model cannot take.

        Args:
            token_pixels: of the model, see :func:`token_pixels`.
            uv_size: the model's own.

        Raises:
            UsageError: a size that does not fall into tokens, or a texture that is written smaller
                than it is made.
        """
        check_multiple(
            {"--view-size": self.view_size, "--uv-size": self.uv_size}, token_pixels=token_pixels
        )
        check_enlarges("--texture-size", self.texture_size, self.uv_size or uv_size)


@dataclass(frozen=True, kw_only=True)
class KnownSizes(RunSizes):
    """:class:`RunSizes` in which nothing is left open."""

    view_size: int
    uv_size: int


def token_pixels(codec: Codec, spec: BackboneSpec) -> int:
    """Edge of a token in pixels: sizes of pictures must be multiples of it."""
    return codec.spatial_factor * max(spec.patch_size[1:])


def check_multiple(sizes: Mapping[str, int | None], *, token_pixels: int) -> None:
    """Refuse sizes in pixels that do not fall into tokens.

    Args:
        sizes: by the setting's name; ``None`` is not checked.
        token_pixels: edge of a token.

    Raises:
        UsageError: not a multiple; names the nearest.
    """
    for name, size in sizes.items():
        if size is not None and size % token_pixels:
            near = max(round(size / token_pixels), 1) * token_pixels
            raise UsageError(
                name,
                expected=f"a multiple of {token_pixels} with this model",
                got=str(size),
                remedy=f"The nearest is {near}.",
            )


def check_enlarges(name: str, texture_size: int | None, uv_size: int) -> None:
    """Refuse to write a texture smaller than the model makes it.

    Args:
        name: of the setting.
        texture_size: that is written; ``None`` is not checked.
        uv_size: that the model makes.

    Raises:
        UsageError: it is smaller.
    """
    if texture_size is not None and texture_size < uv_size:
        raise UsageError(
            name,
            expected=f"{uv_size} or more, as the model makes {uv_size} texels",
            got=str(texture_size),
            remedy=f"Leave it out, or make fewer texels: --uv-size {texture_size}.",
        )
