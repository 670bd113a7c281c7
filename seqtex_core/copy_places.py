"""Where a copy head finds its tokens: rows of the uv stream, texels of the latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .copy_head import CopyConfig, CopyHead, CopyRows, boxed
from .errors import UsageError
from .flow_matching import clean_to_velocity
from .frames import TokenLayout
from .geometry_embedding import GeometryLatents
from .packed_layout import AnyLayout, PackedLayout

_SIGMA_FLOOR = 0.05  # noise levels below count as this one where a clean change becomes a velocity


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
    """

    row: int
    target_rows: Tensor
    source_rows: Tensor
    target_texels: Tensor
    source_texels: Tensor
    target_points: Tensor
    source_points: Tensor


def copy_places(
    layout: AnyLayout,
    geometry: Mapping[str, GeometryLatents],
    config: CopyConfig,
    *,
    batch_size: int,
    device: torch.device,
) -> tuple[CopyPlaces, ...]:
    """Places of every sample; none where a layout lacks one of the groups.

    Args:
        layout: tokens of one texel each.
        geometry: with ``points``; tokens of the source whose normal is zero are not known.
        config: of the head.
        batch_size: samples of a layout that they share.
        device: where the rows are.

    Raises:
        UsageError: geometry without points, or groups on different grids.
    """
    names = {group.name for group in layout.groups}
    if not {config.source, config.target} <= names:
        return ()
    grids = [layout.group(name).grid for name in (config.source, config.target)]
    if grids[0] != grids[1]:
        raise UsageError(
            f"groups {config.source} and {config.target}",
            expected="one grid, for a model that copies from one to the other",
            got=f"{grids[0]} and {grids[1]}",
        )
    points = {name: _points(geometry, name) for name in (config.source, config.target)}
    packed = isinstance(layout, PackedLayout)
    samples = layout.samples if isinstance(layout, PackedLayout) else [layout] * batch_size
    made, start = [], 0
    for number, sample in enumerate(samples):
        found = {name: _tokens(sample, name) for name in (config.source, config.target)}
        places = [p[min(number, len(p) - 1)].flatten(1).T.to(device) for p in points.values()]
        (source_rows, source), (target_rows, target) = (
            (rows.to(device) + start, texels.to(device)) for rows, texels in found.values()
        )
        known = places[0][source, 3:].abs().sum(1) > 0
        source_rows, source = source_rows[known], source[known]
        both = torch.cat([places[0][source], places[1][target]])
        both = boxed(both, torch.ones(len(both), dtype=torch.bool, device=device))
        made.append(
            CopyPlaces(
                row=0 if packed else number,
                target_rows=target_rows,
                source_rows=source_rows,
                target_texels=target,
                source_texels=source,
                target_points=both[len(source) :],
                source_points=both[: len(source)],
            )
        )
        start += sample.streams["uv"].num_tokens if packed else 0
    return tuple(made)


def copied_velocity(
    head: CopyHead,
    config: CopyConfig,
    places: tuple[CopyPlaces, ...],
    hidden: Tensor,
    latents: Mapping[str, Tensor],
    sigma: Tensor,
) -> Tensor:
    """Velocity of the target group towards what is copied, ``[B, C, F, H, W]``.

    Zero where a token was left out.

    Args:
        head: finds the copies.
        config: of the head.
        places: of every sample.
        hidden: rows of the uv stream, ``[B, L, D]``, or ``[1, L, D]`` where samples are packed.
        latents: by group; the source's are clean, the target's measured from them.
        sigma: noise level of the target's frames, ``[B, F]``.
    """
    noisy, known = latents[config.target], _texels(latents[config.source])
    changes, present = torch.zeros_like(known, dtype=torch.float32), torch.zeros_like(known)
    made, kept = [], []
    for number, place in enumerate(places):
        rows, own = hidden[place.row], known[number]
        change = head(
            CopyRows(rows[place.target_rows], place.target_points, own[place.target_texels]),
            CopyRows(rows[place.source_rows], place.source_points, own[place.source_texels]),
        )
        made.append(changes[number].index_copy(0, place.target_texels, change))
        kept.append(present[number].index_fill(0, place.target_texels, 1))
    clean, shown = (
        torch.stack(rows).transpose(1, 2).unflatten(2, noisy.shape[2:]) for rows in (made, kept)
    )
    velocity = clean_to_velocity(noisy, clean.to(noisy.dtype), sigma, min_sigma=_SIGMA_FLOOR)
    return velocity * shown.to(noisy.dtype)


def _texels(latents: Tensor) -> Tensor:
    """``[B, F*H*W, C]`` from ``[B, C, F, H, W]``."""
    return latents.flatten(2).transpose(1, 2)


def _points(geometry: Mapping[str, GeometryLatents], name: str) -> Tensor:
    points = geometry[name].points if name in geometry else None
    if points is None:
        raise UsageError(
            f"geometry of {name}",
            expected="with the surface's points, for a model with a copy head",
            got="none",
            remedy="GeometryLatents(position=..., normal=..., points=...).",
        )
    return points.float()


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
