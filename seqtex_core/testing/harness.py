"""Common part of the conformance checks: a tiny doubled backbone, seeded inputs, comparisons."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..adapter import Backbone
from ..attention import Attend
from ..copy_head import CopyConfig
from ..decoupled_config import DecoupledConfig
from ..frames import Stream, TokenLayout
from ..geometry_embedding import GeometryLatents
from ..packed_layout import PackedLayout
from ..transformer import SeqTexTransformer, StepCache

Size = tuple[int, int, int]

STREAM_OF: dict[str, Stream] = {
    "views": "mv",
    "more_views": "mv",
    "projection": "uv",
    "texture": "uv",
    "material": "uv",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Seeded random inputs of one layout.

    Args:
        layout: the token layout.
        latents: by group.
        sigmas: by group, all different.
        geometry: by group.
        text: text-encoder rows.
        image: image-encoder rows, for backbones that read them.
        text_mask: which text rows may be read, or ``None`` for all.
        pooled_text: summary of the text, for backbones that read one.
        packed: the tokens of every sample, where they differ; otherwise ``layout`` counts.
        clean: clean latents of what a copy head copies from; empty without one.
    """

    layout: TokenLayout
    latents: dict[str, Tensor]
    sigmas: dict[str, Tensor]
    geometry: dict[str, GeometryLatents] = field(default_factory=dict)
    text: Tensor
    image: Tensor | None = None
    text_mask: Tensor | None = None
    pooled_text: Tensor | None = None
    packed: PackedLayout | None = None
    clean: dict[str, Tensor] = field(default_factory=dict)

    def names(self, stream: Stream) -> list[str]:
        """Groups of one stream, in order."""
        return [group.name for group in self.layout.groups if group.stream == stream]

    def of_stream(self, stream: Stream) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Latents and sigmas of one stream's groups."""
        names = self.names(stream)
        return {n: self.latents[n] for n in names}, {n: self.sigmas[n] for n in names}


class Harness(ABC):
    """What the checks share.

    Attributes:
        tolerance: largest difference in fp32, relative to the largest expected value (or to 1 if
            that is smaller).
        image_length: image rows per sample, for backbones with ``spec.image_dim``.
        unused_parameters: parts of names of parameters that the model has but never uses.
        copy: a copy head that all models get, see ``CopyConformance``; ``None`` for none.
    """

    tolerance: float = 2e-6
    image_length: int = 5
    unused_parameters: tuple[str, ...] = ()
    copy: CopyConfig | None = None

    @abstractmethod
    def make_backbone(self) -> Backbone:
        """A tiny backbone in fp32 with random weights; the same weights on every call."""

    def make_transformer(
        self,
        config: DecoupledConfig | None = None,
        *,
        attention: str | Attend = "auto",
        random: bool = True,
    ) -> SeqTexTransformer:
        """The backbone, doubled.

        Args:
            config: how; adapters of rank 4 by default.
            attention: implementation.
            random: give every weight a random value, so that nothing is zero or one by
                initialisation; without it geometry and adapters are as at init, but the backbone's
                own weights are random all the same.
        """
        backbone = self.make_backbone()
        for index, module in enumerate([backbone.shell, *backbone.blocks]):
            randomize(module, seed=index)
        config = replace(config or DecoupledConfig(lora_rank=4, lora_alpha=2.0), copy=self.copy)
        transformer = SeqTexTransformer(backbone, config, attention=attention)
        if random:
            randomize(transformer, seed=99)
        return transformer.eval()

    def make_inputs(
        self,
        transformer: SeqTexTransformer,
        tokens: Mapping[str, Size] | None = None,
        *,
        batch: int = 1,
        keep: Mapping[str, Tensor] | None = None,
        text_length: int = 7,
    ) -> Inputs:
        """Random inputs for groups with the given token grids.

        Args:
            transformer: what they are for.
            tokens: frames, rows and columns of tokens by group name, see ``STREAM_OF``; what a copy
                head copies from is added where its target is among them.
            batch: samples.
            keep: see ``TokenLayout``.
            text_length: rows of text; the original may want its own number, others need few.
        """
        grids = self._with_source(tokens or {"views": (2, 2, 3), "texture": (1, 4, 5)})
        spec, generator = transformer.spec, torch.Generator().manual_seed(7)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        sizes: dict[str, Size] = {}
        for name, (frames, rows, columns) in grids.items():
            pt, ph, pw = spec.patch_size
            sizes[name] = (frames * pt, rows * ph, columns * pw)
        streams = {name: STREAM_OF[name] for name in sizes}
        shapes = {name: (batch, spec.latent_channels, *size) for name, size in sizes.items()}
        return Inputs(
            layout=transformer.layout(sizes, streams, keep=keep),
            latents={name: draw(*shape) for name, shape in shapes.items()},
            sigmas={
                name: torch.rand(batch, size[0], generator=generator)
                for name, size in sizes.items()
            },
            geometry={
                name: GeometryLatents(
                    position=draw(*shape),
                    normal=draw(*shape),
                    points=self._points(name, batch, sizes[name]),
                )
                for name, shape in shapes.items()
            },
            text=draw(batch, text_length, spec.text_dim),
            image=draw(batch, self.image_length, spec.image_dim) if spec.image_dim else None,
            pooled_text=draw(batch, spec.pooled_dim) if spec.pooled_dim else None,
            clean={n: draw(*shapes[n]) for n in shapes if self.copy and n == self.copy.source},
        )

    def _with_source(self, grids: Mapping[str, Size]) -> dict[str, Size]:
        """The grids, and that of what is copied from before that of its target."""
        with_source: dict[str, Size] = {}
        for name, grid in grids.items():
            if self.copy is not None and name == self.copy.target:
                with_source.setdefault(self.copy.source, grid)
            with_source[name] = grid
        return with_source

    def _points(self, name: str, batch: int, size: Size) -> Tensor | None:
        """Random points of a surface, the same in all groups of a size; half of them are known."""
        if self.copy is None:
            return None
        generator = torch.Generator().manual_seed(8)
        points = torch.randn(batch, 6, *size, generator=generator)
        normal = functional.normalize(points[:, 3:], dim=1)
        points = torch.cat([points[:, :3].tanh() + 2, normal], dim=1)
        if name == self.copy.source:
            points.flatten(2)[..., ::2] = 0
        return points

    def prepare(self, transformer: SeqTexTransformer, inputs: Inputs, **options: Any) -> StepCache:
        """``transformer.prepare`` with everything that ``inputs`` has."""
        given: dict[str, Any] = {
            "geometry": inputs.geometry,
            "text": inputs.text,
            "text_mask": inputs.text_mask,
            "pooled_text": inputs.pooled_text,
            "image": inputs.image,
            "clean": inputs.clean,
        }
        return transformer.prepare(inputs.packed or inputs.layout, **(given | options))

    @torch.no_grad()
    def velocity(
        self, transformer: SeqTexTransformer, inputs: Inputs, **options: Any
    ) -> dict[str, Tensor]:
        """Velocities of all groups, without gradients."""
        cache = self.prepare(transformer, inputs, **options)
        velocity: dict[str, Tensor] = transformer(inputs.latents, inputs.sigmas, cache)
        return velocity

    def assert_close(self, what: str, got: Tensor, want: Tensor, *, times: float = 1.0) -> None:
        """Refuse a difference above ``times * tolerance`` of the largest expected value."""
        limit = times * self.tolerance * max(1.0, float(want.abs().max()))
        assert got.shape == want.shape, f"{what}: {list(got.shape)} is not {list(want.shape)}"
        difference = float((got.float() - want.float()).abs().max())
        assert difference <= limit, f"{what}: differs by {difference:.3g}, allowed {limit:.3g}"


def assert_same(what: str, got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    """Refuse any difference, down to the last bit."""
    assert set(got) == set(want), f"{what}: {sorted(got)} is not {sorted(want)}"
    for name in want:
        if not torch.equal(got[name], want[name]):
            difference = float((got[name] - want[name]).abs().max())
            raise AssertionError(f"{what}: {name!r} differs by {difference:.3g}, not bit-equal")


def assert_differs(what: str, got: Tensor, want: Tensor, *, least: float) -> None:
    """Refuse tensors that are equal where they must not be: the check would see nothing."""
    difference = float((got - want).abs().max())
    assert difference >= least, f"{what}: differs by {difference:.3g} only, at least {least:.3g}"


@torch.no_grad()
def randomize(module: nn.Module, *, seed: int) -> None:
    """Move every parameter away from its initial value, zeros and ones included.

    Args:
        module: changed in place.
        seed: of the random values.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            parameter.add_(0.1 * noise)
        elif bool((parameter == 0).all()):
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))
        else:
            parameter.add_(0.1 * float(parameter.std()) * noise)
