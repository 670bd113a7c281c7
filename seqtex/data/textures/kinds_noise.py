"""Texture kinds made of noise: clouds, ridges, marble, wood, camouflage, cells, cracks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .brush import Brush, along_ramp, dot, fold
from .noise import leveled, noise_field
from .points import Field, Paint, SurfacePoints, edge


def clouds(brush: Brush) -> Field:
    """Fractal noise with soft transitions."""
    noise = noise_field(brush.rng, features=brush.uniform(0.5, 2.5))
    contrast = brush.uniform(0.7, 2.5)
    return lambda points: leveled(contrast * noise(points.position)[:, 0])


def ridges(brush: Brush) -> Field:
    """Bright or dark creases."""
    noise = noise_field(brush.rng, features=brush.uniform(0.5, 1.8))
    sharp = brush.uniform(1.0, 3.0)
    return lambda points: (1 - noise(points.position)[:, 0].abs() * 0.9).clamp(0, 1) ** sharp


def marble(brush: Brush) -> Field:
    """Veins: stripes bent strongly by noise, with narrow dark lines."""
    axis, frequency = brush.direction(), brush.uniform(0.5, 1.8)
    noise = noise_field(brush.rng, features=brush.uniform(0.6, 1.6), channels=2)
    bend, sharp = brush.uniform(0.25, 0.7), brush.uniform(0.4, 1.6)

    def field(points: SurfacePoints) -> Tensor:
        values = noise(points.position)
        along = dot(points.position, axis) * frequency + bend * values[:, 0]
        vein = torch.sin(torch.pi * along).abs() ** sharp
        return (vein + 0.12 * values[:, 1]).clamp(0, 1)

    return field


def wood(brush: Brush) -> Field:
    """Growth rings around an axis, with grain."""
    axis, frequency = brush.direction(), brush.frequency(2.0, 5.5)
    center = brush.center()
    noise = noise_field(brush.rng, features=brush.uniform(0.5, 1.2), channels=2)
    bend = brush.uniform(0.04, 0.15)

    def field(points: SurfacePoints) -> Tensor:
        local = points.position - points.position.new_tensor(center)
        along = dot(local, axis).unsqueeze(-1) * local.new_tensor(axis)
        values = noise(local - 0.75 * along)
        radius: Tensor = torch.linalg.vector_norm(local - along, dim=-1)
        ring = (radius + bend * values[:, 0]) * frequency
        return ((ring - ring.floor()) ** 1.5 * 0.85 + 0.15 * leveled(values[:, 1])).clamp(0, 1)

    return field


def camouflage(brush: Brush) -> Paint:
    """Flat patches of three to five colours with sharp borders."""
    noise = noise_field(
        brush.rng,
        features=brush.uniform(0.6, 2.2),
        roughness="smooth" if brush.chance(0.6) else "rough",
        channels=4,
    )
    count, threshold = brush.integer(2, 5), brush.uniform(0.2, 0.7)
    colors = brush.palette

    def paint(points: SurfacePoints) -> Tensor:
        values = noise(points.position)
        color = values.new_tensor(colors[0].tolist()).expand(len(points), 3)
        for k in range(1, count):
            share = edge((values[:, k - 1] - threshold) * 0.22, points, 0.01).unsqueeze(-1)
            color = torch.lerp(color, color.new_tensor(colors[k % len(colors)].tolist()), share)
        return color

    return paint


def blotches(brush: Brush) -> Field:
    """Islands with sharp or soft shores."""
    rough = brush.chance(0.5)
    noise = noise_field(
        brush.rng, features=brush.uniform(0.6, 2.0), roughness="rough" if rough else "smooth"
    )
    level, soft = brush.uniform(-0.4, 0.6), brush.uniform(0.0, 0.2)
    return lambda points: edge((noise(points.position)[:, 0] - level) * 0.2, points, soft)


def speckles(brush: Brush) -> Field:
    """Sparse small spots, as on eggs, terrazzo or stone."""
    noise = noise_field(brush.rng, features=brush.uniform(3.0, 6.0), roughness="smooth")
    level = brush.uniform(0.8, 1.5)
    return lambda points: edge((noise(points.position)[:, 0] - level) * 0.07, points, 0.01)


def terrazzo(brush: Brush) -> Paint:
    """Chips of several colours in a plain ground."""
    noise = noise_field(brush.rng, features=brush.uniform(2.0, 4.5), roughness="smooth", channels=4)
    level, colors = brush.uniform(0.7, 1.2), brush.palette

    def paint(points: SurfacePoints) -> Tensor:
        values = noise(points.position)
        color = values.new_tensor(colors[0].tolist()).expand(len(points), 3)
        for k in range(4):
            share = edge((values[:, k] - level) * 0.1, points).unsqueeze(-1)
            color = torch.lerp(
                color, color.new_tensor(colors[(k + 1) % len(colors)].tolist()), share
            )
        return color

    return paint


def _seeds(brush: Brush, low: int, high: int) -> list[list[float]]:
    corner, size = np.array(brush.facts.low), np.array(brush.facts.high) - brush.facts.low
    count = brush.integer(low, high)
    seeds: list[list[float]] = (corner + size * brush.rng.uniform(0, 1, size=(count, 3))).tolist()
    return seeds


def _nearest_two(position: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two nearest seeds ``[N, 2]``, distance to the first, distance to their border."""
    square = (seeds * seeds).sum(-1) - 2 * position @ seeds.T
    nearest, first = square.min(-1)  # twice the minimum is faster than topk
    next_best, second = square.scatter(1, first.unsqueeze(-1), torch.inf).min(-1)
    gap = torch.linalg.vector_norm(seeds[first] - seeds[second], dim=-1)
    border = (next_best - nearest) / (2 * gap.clamp(min=1e-4))
    radius = (nearest + (position * position).sum(-1)).clamp(min=0).sqrt()
    return torch.stack([first, second], dim=-1), radius, border


def cells(brush: Brush) -> Paint:
    """Voronoi cells, each in its own colour, with or without borders."""
    seeds = _seeds(brush, 8, 48)
    position = brush.warped(0.4, 0.15)
    line = brush.uniform(0.02, 0.06) if brush.chance(0.5) else 0.0
    tones = brush.palette[brush.rng.integers(len(brush.palette), size=len(seeds))]
    tones = (tones * brush.rng.uniform(0.8, 1.1, size=(len(seeds), 1))).clip(0, 1)
    dark = (brush.palette[-1] * 0.4).tolist()

    def paint(points: SurfacePoints) -> Tensor:
        where = position(points)
        table = where.new_tensor(tones.tolist())
        index, _, border = _nearest_two(where, where.new_tensor(seeds))
        share = edge(border, points).unsqueeze(-1)
        color = torch.lerp(table[index[:, 1]], table[index[:, 0]], share.clamp(min=0.5))
        if line > 0:
            rim = edge(border - line, points).unsqueeze(-1)
            color = torch.lerp(color.new_tensor(dark).expand_as(color), color, rim)
        return color

    return paint


def cracks(brush: Brush) -> Field:
    """The borders of Voronoi cells as lines: 0 in the crack."""
    seeds = _seeds(brush, 10, 50)
    position = brush.warped(0.6, 0.2)
    line = brush.uniform(0.02, 0.07)

    def field(points: SurfacePoints) -> Tensor:
        where = position(points)
        _, _, border = _nearest_two(where, where.new_tensor(seeds))
        return edge(border - line, points)

    return field


def bubbles(brush: Brush) -> Field:
    """Distance to scattered centres: soft balls, giraffe, petals."""
    seeds = _seeds(brush, 6, 36)
    reach, rings = brush.uniform(0.3, 0.8), brush.chance(0.35)
    frequency = brush.frequency(2.0, 5.0)

    def field(points: SurfacePoints) -> Tensor:
        _, radius, _ = _nearest_two(points.position, points.position.new_tensor(seeds))
        if rings:
            return edge(fold(radius * frequency, 0.5) / frequency, points)
        return (radius / reach).clamp(0, 1)

    return field


def dream(brush: Brush) -> Paint:
    """A small random network of position and normal: smooth shapes of any kind."""
    rng, width = brush.rng, 20
    first = rng.normal(size=(6, width)) * np.array([1.6] * 3 + [0.7] * 3)[:, None]
    shift = rng.uniform(0, 2 * np.pi, size=width)
    second = rng.normal(size=(width, 12)) * brush.uniform(0.4, 0.9)
    last = rng.normal(size=(12, 3)) * 0.9
    use_ramp, colors = brush.chance(0.6), brush.palette
    first[3:] *= brush.chance(0.5)

    def paint(points: SurfacePoints) -> Tensor:
        inputs = torch.cat([points.position, points.normal], dim=-1)
        hidden = torch.sin(inputs @ inputs.new_tensor(first) + inputs.new_tensor(shift))
        hidden = torch.sin(hidden @ inputs.new_tensor(second))
        out = torch.sigmoid(hidden @ inputs.new_tensor(last))
        return along_ramp(out[:, 0], colors) if use_ramp else out

    return paint
