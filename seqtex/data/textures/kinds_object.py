"""Texture kinds that follow the object: gradients, bands, tops, sides, fronts and backs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .brush import Brush, along_ramp, dot
from .noise import noise_field
from .points import Field, Paint, SurfacePoints, edge


def gradient(brush: Brush) -> Field:
    """A smooth change along a direction or away from a point."""
    axis, center = brush.direction(), brush.center()
    round_one = brush.chance(0.35)
    span = brush.uniform(0.7, 1.8)

    def field(points: SurfacePoints) -> Tensor:
        local = points.position - points.position.new_tensor(center)
        if round_one:
            away: Tensor = torch.linalg.vector_norm(local, dim=-1)
            return (away / span).clamp(0, 1)
        return (0.5 + dot(local, axis) / span).clamp(0, 1)

    return field


def bands(brush: Brush) -> Paint:
    """A few bands of uneven height and different colours, level or ragged."""
    axis = 2 if brush.chance(0.75) else brush.integer(0, 2)
    low, high = brush.facts.low[axis], brush.facts.high[axis]
    count = brush.integer(2, 6)
    cuts = np.sort(low + (high - low) * brush.rng.uniform(0.08, 0.92, size=count)).tolist()
    ragged = brush.uniform(0.02, 0.12) if brush.chance(0.4) else 0.0
    noise = noise_field(brush.rng, features=brush.uniform(1.5, 3.0))
    colors = brush.palette

    def paint(points: SurfacePoints) -> Tensor:
        height = points.position[:, axis]
        if ragged:
            height = height + ragged * noise(points.position)[:, 0]
        color = height.new_tensor(colors[0].tolist()).expand(len(points), 3)
        for k, cut in enumerate(cuts):
            tone = color.new_tensor(colors[(k + 1) % len(colors)].tolist())
            color = torch.lerp(color, tone, edge(height - cut, points).unsqueeze(-1))
        return color

    return paint


def topping(brush: Brush) -> Field:
    """What lies on surfaces that face a direction: snow, moss, dust; 1 where it lies."""
    axis = [0.0, 0.0, 1.0] if brush.chance(0.75) else brush.direction()
    level, soft = brush.uniform(-0.2, 0.7), brush.uniform(0.05, 0.5)
    rough = brush.uniform(0.0, 0.35)
    noise = noise_field(brush.rng, features=brush.uniform(1.0, 3.0))

    def field(points: SurfacePoints) -> Tensor:
        facing = dot(points.normal, axis)
        if rough > 0.05:
            facing = facing + rough * noise(points.position)[:, 0]
        return (0.5 + (facing - level) / soft).clamp(0, 1)

    return field


def two_sided(brush: Brush) -> Field:
    """Front and back, left and right or any two halves different, with a straight border."""
    axis, center = brush.direction(), brush.center()
    wave, frequency = brush.uniform(0, 0.15), brush.uniform(1, 3)
    wavy = brush.chance(0.3)

    def field(points: SurfacePoints) -> Tensor:
        local = points.position - points.position.new_tensor(center)
        height = dot(local, axis)
        if wavy:
            height = height + wave * torch.sin(2 * torch.pi * frequency * local.sum(-1))
        return edge(height, points)

    return field


def facing(brush: Brush) -> Paint:
    """Colour by the direction that the surface faces."""
    turn, _ = np.linalg.qr(brush.rng.normal(size=(3, 3)))
    matrix, colors = turn.tolist(), brush.palette
    style = brush.integer(0, 2)

    def paint(points: SurfacePoints) -> Tensor:
        local = points.normal @ points.normal.new_tensor(matrix)
        if style == 0:
            return along_ramp(0.5 + 0.5 * local[:, 0], colors)
        weights = local.abs() ** 3 + 1e-4
        weights = weights / weights.sum(-1, keepdim=True)
        return weights @ weights.new_tensor(colors[:3].tolist())

    return paint


def parts(brush: Brush) -> Paint:
    """One colour for each material group."""
    tones = brush.palette[np.arange(brush.facts.num_parts) % len(brush.palette)]
    if brush.facts.num_parts > len(brush.palette):
        tones = (tones * brush.rng.uniform(0.7, 1.15, size=(len(tones), 1))).clip(0, 1)
    order = brush.rng.permutation(len(tones)) if brush.chance(0.5) else np.arange(len(tones))
    table = tones[order].tolist()

    def paint(points: SurfacePoints) -> Tensor:
        return points.position.new_tensor(table)[points.part]

    return paint


def stitched(brush: Brush) -> Field:
    """A box with its inside in another colour: pockets, screens, belts around the object."""
    low, high = np.array(brush.facts.low), np.array(brush.facts.high)
    size = high - low
    middle = (low + size * brush.rng.uniform(0.2, 0.8, size=3)).tolist()
    half = size * brush.rng.uniform(0.12, 0.4, size=3)
    half[brush.rng.random(3) < 0.4] = 9.0
    reach = half.tolist()

    def field(points: SurfacePoints) -> Tensor:
        local = points.position - points.position.new_tensor(middle)
        inside = (local.new_tensor(reach) - local.abs()).amin(-1)
        return edge(inside, points)

    return field
