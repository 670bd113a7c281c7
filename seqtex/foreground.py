"""Foreground tokens: only those whose patch touches the surface are computed.

Most of a view is background, and a good part of a texture lies between the charts. A model that is
trained without those tokens never asks for them; one that was trained with them reads them too, so
leaving them out changes what it makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d

from seqtex_backbones.codecs.protocol import Codec
from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import FramePlan
from seqtex_core.frames import TokenLayout
from seqtex_core.packed_layout import AnyLayout, PackedLayout
from seqtex_core.roles import Role
from seqtex_core.tasks import TEXTURE
from seqtex_geometry.maps import SurfaceMaps

Patch = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreground:
    """Which tokens of each sample are computed.

    Args:
        tokens: by group, True where a token is present, ``[B, F, H, W]`` in tokens.
        patch: latent frames, rows and columns per token.
    """

    tokens: Mapping[str, Tensor]
    patch: Patch

    @classmethod
    def of(cls, coverage: Mapping[str, Tensor], *, patch: Patch, margin: int) -> Foreground:
        """The tokens that touch the surface, and those around them.

        Args:
            coverage: by group, covered share of each latent texel, ``[B, 1, F, h, w]``.
            patch: latent frames, rows and columns per token.
            margin: tokens around those that touch the surface, in all eight directions.

        Raises:
            UsageError: a negative margin.
        """
        if margin < 0:
            raise UsageError("foreground", expected="a margin of 0 or more", got=str(margin))
        tokens = {}
        for name, share in coverage.items():
            touched = max_pool3d((share > 0).float(), patch)[:, 0]
            grown = max_pool2d(touched, 2 * margin + 1, stride=1, padding=margin)
            tokens[name] = grown > 0
        return cls(tokens=tokens, patch=patch)

    def layout(self, dense: TokenLayout) -> AnyLayout:
        """``dense`` with these tokens only; packed if there are several samples.

        Raises:
            UsageError: a sample without a token in a stream.
        """
        flags = {g.name: self.tokens[g.name].flatten(1).cpu() for g in dense.groups}
        keep = {name: [row.nonzero()[:, 0] for row in rows] for name, rows in flags.items()}
        try:
            packed = PackedLayout.of(dense, keep)
        except UsageError as error:
            raise UsageError(
                "foreground",
                expected="some of the surface in the views, and in the texture",
                got=f"{error.subject}: {error.got}",
                remedy="Compute all tokens (--dense).",
            ) from error
        return packed if packed.num_samples > 1 else packed.samples[0]

    def latent_mask(self, name: str) -> Tensor:
        """True on the latents of present tokens, ``[B, 1, F, h, w]``."""
        mask = self.tokens[name][:, None]
        for axis, size in enumerate(self.patch):
            mask = mask.repeat_interleave(size, dim=axis + 2)
        return mask

    def cleared(
        self, latents: Mapping[str, Tensor], plan: FramePlan, codec: Codec
    ) -> dict[str, Tensor]:
        """Latents with those of black where made frames have no token: a clean background.

        Args:
            latents: sampled, by group, ``[B, C, F, h, w]``; given frames stay as they are.
            plan: which frames were made.
            codec: encodes black.
        """
        cleared = dict(latents)
        for name, made in latents.items():
            frames = list(plan.frames_with(name, Role.DENOISE))
            if name not in self.tokens or not frames:
                continue
            height, width = (codec.spatial_factor * size for size in made.shape[-2:])
            black = codec.encode(made.new_zeros(1, 3, height, width, dtype=torch.float32))
            dropped = ~self.latent_mask(name)
            given = [f for f in range(made.shape[2]) if f not in frames]
            dropped[:, :, given] = False
            cleared[name] = torch.where(dropped, black.to(made), made)
        return cleared

    def share(self, name: str) -> float:
        """Share of a group's tokens that are computed."""
        return float(self.tokens[name].float().mean())


def latent_coverage(maps: SurfaceMaps, codec: Codec) -> Tensor:
    """Where latent texels touch the surface, ``[1, 1, F, h, w]``, 0 or 1."""
    return pooled_coverage(maps.mask > 0, codec)


def pooled_coverage(covered: Tensor, codec: Codec) -> Tensor:
    """Latent texels, ``[1, 1, F, h, w]``, 0 or 1, that touch pixels ``[F, H, W]`` or ``[H, W]``."""
    pictures = covered if covered.ndim == 3 else covered[None]
    touched = max_pool2d(pictures.float()[:, None], codec.spatial_factor)
    return touched[:, 0][None, None]


def told(shares: Mapping[str, float] | None, trained: int | None, *, copies: bool = False) -> str:
    """Which tokens were computed, for the user.

    Args:
        shares: by group, share of the tokens that were computed; ``None`` for all of them.
        trained: the model's own margin, ``None`` for a model of all tokens.
        copies: the model copies what references show, so that of the texture it computes only what
            none shows.
    """
    if shares is None:
        return "all" if trained is None else "all, but the model was trained without background"
    parts = ", ".join(f"{share:.0%} of the {name}" for name, share in shares.items())
    unseen = (
        f", of the {TEXTURE} where no reference shows it" if copies and TEXTURE in shares else ""
    )
    note = ", but the model was trained with background" if trained is None else ""
    return f"those that touch the surface{unseen} ({parts}){note}"
