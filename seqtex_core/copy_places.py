"""Where a copy head finds its tokens: rows of the uv stream, texels of the latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .backbone_data import BackboneSpec
from .checks import check_shape
from .copy_head import CopyConfig, CopyHead, CopyRows, area_shares, boxed
from .errors import UsageError
from .flow_matching import CLEAN_SIGMA_FLOOR, clean_to_velocity
from .frames import TokenLayout
from .geometry_embedding import GeometryLatents
from .packed_layout import AnyLayout, PackedLayout


@dataclass(frozen=True, kw_only=True, eq=False)
class CopyPlaces:
    """Tokens of one sample.

    Args:
        row: of the hidden states' batch.
        target_rows: of the uv stream, ``[Lt]``.
        source_rows: likewise, ``[Ls]``.
        target_texels: of the target's latents, flattened over frames, rows and columns, ``[Lt]``.
        source_texels: of the source's latents, ``[Ls]``.
        target_points: ``[Lt, 6]``, see :func:`seqtex_core.copy_head.boxed`.
        source_points: ``[Ls, 6]``.
        source_shares: see :func:`seqtex_core.copy_head.area_shares`, ``[Ls]``.
    """

    row: int
    target_rows: Tensor
    source_rows: Tensor
    target_texels: Tensor
    source_texels: Tensor
    target_points: Tensor
    source_points: Tensor
    source_shares: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies:
    """What a copy head reads of one object in every step.

    Args:
        places: of every sample.
        known: clean latents of the source, ``[B, C, F, H, W]``.
    """

    places: tuple[CopyPlaces, ...]
    known: Tensor


def prepare_copies(
    layout: AnyLayout,
    geometry: Mapping[str, GeometryLatents],
    clean: Mapping[str, Tensor],
    config: CopyConfig | None,
    *,
    spec: BackboneSpec,
    like: Tensor,
) -> Copies | None:
    """What a copy head needs; ``None`` without one, or where the layout has no uv stream.

    Args:
        layout: tokens of one texel each.
        geometry: see :func:`copy_places`.
        clean: clean latents by group, the source's among them.
        config: of the head, if there is one.
        spec: of the backbone.
        like: a tensor of the batch's size on the model's device.

    Raises:
        UsageError: as :func:`copy_places`; clean latents that are missing or of another shape.
    """
    if config is None or "uv" not in layout.streams:
        return None
    batch, device, name = like.shape[0], like.device, config.source
    places = copy_places(layout, geometry, config, batch_size=batch, device=device)
    if name not in clean:
        raise UsageError(
            "clean",
            expected=f"the clean latents of {name}, for a model with a copy head",
            got=f"those of {sorted(clean)}",
        )
    shape = (batch, spec.latent_channels, *spec.latent_size(layout.group(name).grid))
    check_shape(f"clean[{name!r}]", clean[name], shape, "B C F H W")
    return Copies(places=places, known=clean[name].to(device))


def copy_places(
    layout: AnyLayout,
    geometry: Mapping[str, GeometryLatents],
    config: CopyConfig,
    *,
    batch_size: int,
    device: torch.device,
) -> tuple[CopyPlaces, ...]:
    """Places of every sample of a layout with a uv stream.

    Args:
        layout: tokens of one texel each.
        geometry: with ``points``; tokens of the source whose normal is zero are not known. On the
            meta device all count as known.
        config: of the head.
        batch_size: samples of a layout that they share.
        device: where the rows are.

    Raises:
        UsageError: a group that is missing, geometry without points, or groups on different grids.
    """
    names = (config.source, config.target)
    grids = [layout.group(name).grid for name in names]
    if grids[0] != grids[1]:
        raise UsageError(
            f"groups {config.source} and {config.target}",
            expected="one grid, for a model that copies from one to the other",
            got=f"{grids[0]} and {grids[1]}",
        )
    points = {name: _points(geometry, name, batch_size).to(device) for name in names}
    return tuple(
        _of_sample(sample, {n: p[i] for n, p in points.items()}, config, row=row, start=start)
        for i, (sample, row, start) in enumerate(_samples(layout, batch_size))
    )


def _samples(layout: AnyLayout, batch_size: int) -> Iterator[tuple[TokenLayout, int, int]]:
    """Each sample with its row of the hidden states' batch and the number of its first uv row."""
    if not isinstance(layout, PackedLayout):
        yield from ((layout, row, 0) for row in range(batch_size))
        return
    start = 0
    for sample in layout.samples:
        yield sample, 0, start
        start += sample.streams["uv"].num_tokens


def _of_sample(
    sample: TokenLayout, points: Mapping[str, Tensor], config: CopyConfig, *, row: int, start: int
) -> CopyPlaces:
    """Places of a sample whose first uv row is number ``start``; points of all its texels."""
    device = points[config.source].device
    (source_rows, source), (target_rows, target) = (
        (rows.to(device) + start, texels.to(device))
        for rows, texels in (_tokens(sample, name) for name in (config.source, config.target))
    )
    asked, known = points[config.target][target], points[config.source][source]
    shares = known.new_ones(len(known))
    if device.type != "meta":
        there = known[:, 3:].abs().sum(1) > 0
        source_rows, source, known = source_rows[there], source[there], known[there]
        both = torch.cat([known, asked])
        there = both[:, 3:].abs().sum(1) > 0
        both = boxed(both, there)
        there[len(known) :] &= ~torch.isin(target, source)  # a texel of both counts once
        shares = area_shares(both[: len(known), :3], both[there, :3])
        known, asked = both.split([len(known), len(asked)])
    return CopyPlaces(
        row=row,
        target_rows=target_rows,
        source_rows=source_rows,
        target_texels=target,
        source_texels=source,
        target_points=asked,
        source_points=known,
        source_shares=shares,
    )


def copied_latents(head: CopyHead, copies: Copies, hidden: Tensor) -> Tensor:
    """Clean latents of the target group, ``[B, C, F, H, W]`` in fp32.

    They are measured from the source's; zero where a token was left out.

    Args:
        head: finds the copies.
        copies: what it reads of the object.
        hidden: rows of the uv stream, ``[B, L, D]``, or ``[1, L, D]`` where samples are packed.
    """
    values = _texels(copies.known)
    changes = torch.zeros_like(values, dtype=torch.float32)
    made = []
    for number, place in enumerate(copies.places):
        rows, own = hidden[place.row], values[number]
        change = head(
            CopyRows(rows[place.target_rows], place.target_points, own[place.target_texels]),
            CopyRows(rows[place.source_rows], place.source_points, own[place.source_texels]),
            share=place.source_shares,
        )
        made.append(changes[number].index_copy(0, place.target_texels, change))
    return _latents(torch.stack(made), like=copies.known)


def copied_velocity(copies: Copies, clean: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Velocity of the target group towards what is copied, ``[B, C, F, H, W]``.

    Zero where a token was left out.

    Args:
        copies: what the head reads of the object.
        clean: what it found, see :func:`copied_latents`.
        noisy: latents of the target, likewise.
        sigma: noise level of the target's frames, ``[B, F]``.
    """
    velocity = clean_to_velocity(noisy, clean.to(noisy.dtype), sigma, min_sigma=CLEAN_SIGMA_FLOOR)
    absent = torch.zeros_like(_texels(copies.known))
    shown = torch.stack(
        [
            absent[number].index_fill(0, place.target_texels, 1)
            for number, place in enumerate(copies.places)
        ]
    )
    shown_only: Tensor = velocity * _latents(shown, like=copies.known).to(noisy.dtype)
    return shown_only


def _texels(latents: Tensor) -> Tensor:
    """``[B, F*H*W, C]`` from ``[B, C, F, H, W]``."""
    return latents.flatten(2).transpose(1, 2)


def _latents(texels: Tensor, *, like: Tensor) -> Tensor:
    """The inverse, frames, rows and columns as in ``like``."""
    latents: Tensor = texels.transpose(1, 2).unflatten(2, like.shape[2:])
    return latents


def _points(geometry: Mapping[str, GeometryLatents], name: str, batch_size: int) -> Tensor:
    """Of all texels of a group, ``[B, F*H*W, 6]``."""
    points = geometry[name].points if name in geometry else None
    if points is None:
        raise UsageError(
            f"geometry of {name}",
            expected="with the surface's points, for a model with a copy head",
            got="none",
            remedy="GeometryLatents(position=..., normal=..., points=...).",
        )
    return _texels(points.float()).expand(batch_size, -1, -1)


def _tokens(sample: TokenLayout, name: str) -> tuple[Tensor, Tensor]:
    """Rows of a group in the uv stream of one sample, and its texels."""
    rows = sample.streams["uv"]
    start = 0
    for group, length in zip(rows.groups, rows.group_lengths, strict=True):
        if group.name == name:
            kept = sample.keep.get(name)
            texels = torch.arange(group.grid.num_tokens) if kept is None else kept.cpu()
            return torch.arange(start, start + length), texels
        start += length
    raise UsageError("copy", expected=f"{name} in the uv stream", got="another stream")
