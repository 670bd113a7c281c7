"""Texture kinds that repeat: stripes, rings, spirals, checks, dots, plaid, bricks, panels."""

from __future__ import annotations

import torch
from torch import Tensor

from .brush import Brush, dot, fold
from .points import Field, Paint, SurfacePoints, edge


def stripes(brush: Brush) -> Field:
    """Parallel stripes with hard or soft edges, straight or wavy."""
    axis, frequency = brush.direction(), brush.frequency(0.8, 7.0)
    duty, phase = brush.uniform(0.25, 0.75), brush.uniform(0, 1)
    softness = brush.uniform(0, 0.4) / frequency if brush.chance(0.3) else 0.0
    position = brush.warped(0.35)

    def field(points: SurfacePoints) -> Tensor:
        along = dot(position(points), axis) * frequency + phase
        return edge(fold(along, duty) / frequency, points, softness)

    return field


def rings(brush: Brush) -> Field:
    """Concentric cylinders or balls."""
    frequency, duty = brush.frequency(1.0, 6.0), brush.uniform(0.3, 0.7)
    center, axis = brush.center(), brush.direction()
    flat = brush.chance(0.6)
    position = brush.warped(0.25)

    def field(points: SurfacePoints) -> Tensor:
        local = position(points) - points.position.new_tensor(center)
        if flat:
            local = local - dot(local, axis).unsqueeze(-1) * local.new_tensor(axis)
        radius = torch.linalg.vector_norm(local, dim=-1)
        return edge(fold(radius * frequency, duty) / frequency, points)

    return field


def _around(position: Tensor, center: list[float]) -> tuple[Tensor, Tensor]:
    """Angle in turns and radius about the vertical through ``center``, ``[N]`` each."""
    x, y = position[:, 0] - center[0], position[:, 1] - center[1]
    return torch.atan2(y, x) / (2 * torch.pi), torch.sqrt(x * x + y * y).clamp(min=1e-4)


def spiral(brush: Brush) -> Field:
    """A barber pole, or arms that wind outwards."""
    arms, duty = brush.integer(1, 7), brush.uniform(0.3, 0.7)
    pitch = brush.uniform(-3.0, 3.0)
    outwards = brush.chance(0.3)

    def field(points: SurfacePoints) -> Tensor:
        angle, radius = _around(points.position, [0.0, 0.0])
        rise = radius if outwards else points.position[:, 2]
        along = arms * angle + pitch * rise
        rate = torch.sqrt((arms / (2 * torch.pi * radius)) ** 2 + pitch**2)
        return edge(fold(along, duty) / rate, points)

    return field


def sunburst(brush: Brush) -> Field:
    """Sectors around a vertical or horizontal axis."""
    arms, duty = brush.integer(3, 13), brush.uniform(0.3, 0.7)
    order = [[0, 1, 2], [1, 2, 0], [2, 0, 1]][brush.integer(0, 3)]
    center = brush.center()
    phase = brush.uniform(0, 1)

    def field(points: SurfacePoints) -> Tensor:
        angle, radius = _around(points.position[:, order], [center[k] for k in order])
        return edge(fold(arms * angle + phase, duty) * 2 * torch.pi * radius / arms, points)

    return field


def checks(brush: Brush) -> Field:
    """Cubes, or squares in two of three directions, of alternating colour."""
    turn, frequency = brush.turn(), brush.frequency(0.8, 4.0)
    axes = (
        [0, 1, 2] if brush.chance(0.6) else sorted(brush.rng.choice(3, 2, replace=False).tolist())
    )
    phase = brush.rng.uniform(0, 1, size=3).tolist()

    def field(points: SurfacePoints) -> Tensor:
        local = points.position @ points.position.new_tensor(turn)
        local = local * frequency + local.new_tensor(phase)
        width = points.footprint * frequency
        sign = torch.ones_like(width)
        for axis in axes:
            sign = sign * (fold(local[:, axis], 0.5) * 2.0 / width).clamp(-1.0, 1.0)
        return 0.5 + 0.5 * sign

    return field


def dots(brush: Brush) -> Field:
    """Balls on a lattice: polka dots, jittered or not, or rings."""
    turn, frequency = brush.turn(), brush.frequency(0.9, 4.0)
    radius, hollow = brush.uniform(0.28, 0.46), brush.chance(0.2)
    jitter = brush.uniform(0, 0.18) if brush.chance(0.5) else 0.0

    def field(points: SurfacePoints) -> Tensor:
        local = points.position @ points.position.new_tensor(turn) * frequency
        cell = local.floor()
        shake = torch.sin(cell @ local.new_tensor(_MIX) * 12.9898) * jitter
        away = torch.linalg.vector_norm(local - cell - 0.5 - shake, dim=-1)
        inside = radius - away
        if hollow:
            inside = 0.1 - inside.abs()
        return edge(inside / frequency, points)

    return field


_MIX = [[0.71, 1.93, 2.37], [1.57, 0.39, 0.83], [2.11, 1.27, 0.53]]


def zigzag(brush: Brush) -> Field:
    """Chevrons or sine waves as stripes."""
    order = brush.rng.permutation(3).tolist()
    frequency, wave = brush.frequency(1.0, 4.5), brush.frequency(0.7, 3.0)
    swing, pointed = brush.uniform(0.12, 0.45), brush.chance(0.5)
    duty = brush.uniform(0.35, 0.65)

    def field(points: SurfacePoints) -> Tensor:
        along, across = points.position[:, order[0]], points.position[:, order[1]] * wave
        if pointed:
            shift = 4 * (across - (across + 0.5).floor()).abs() - 1
        else:
            shift = torch.sin(2 * torch.pi * across)
        slope = 1 + 4 * swing * wave
        return edge(
            fold((along + swing * shift) * frequency, duty) / (frequency * slope**0.5), points
        )

    return field


def plaid(brush: Brush) -> Paint:
    """Crossing stripes of several widths and colours, as woven cloth."""
    order = brush.rng.permutation(3).tolist()[:2]
    layers = []
    for axis in order:
        for k in range(brush.integer(1, 4)):
            layers.append(
                (axis, brush.frequency(0.8, 4.0), brush.uniform(0.1, 0.5), brush.uniform(0, 1), k)
            )
    base = brush.plain(0)
    colors = brush.palette

    def paint(points: SurfacePoints) -> Tensor:
        color = base(points)
        for axis, frequency, duty, phase, k in layers:
            along = points.position[:, axis] * frequency + phase
            share = edge(fold(along, duty) / frequency, points).unsqueeze(-1)
            tone = color.new_tensor(colors[(k + 1) % len(colors)].tolist())
            color = torch.lerp(color, tone, 0.55 * share)
        return color

    return paint


def bricks(brush: Brush) -> Field:
    """Courses of staggered stones with joints; 0 in the joints."""
    frequency, joint = brush.frequency(1.2, 4.0), brush.uniform(0.06, 0.14)
    length = brush.uniform(1.5, 2.6)

    def field(points: SurfacePoints) -> Tensor:
        x, y, z = (points.position * frequency).unbind(-1)
        course = z.floor()
        shift = 0.5 * (course - 2 * (course / 2).floor())
        steep = points.normal[:, 2].abs() > 0.7
        flat_x = (points.normal[:, 0].abs() > points.normal[:, 1].abs()) & ~steep
        run = torch.where(flat_x, y, x) / length + shift
        rise = torch.where(steep, y, z)
        stone = torch.minimum(fold(rise, 1 - joint), length * fold(run, 1 - joint / length))
        return edge(stone / frequency, points)

    return field


def scales(brush: Brush) -> Field:
    """Overlapping round tiles in staggered rows around the object; each fades downwards."""
    around = brush.integer(6, 16)
    rows = brush.frequency(1.5, 4.5)
    center = brush.center()

    def field(points: SurfacePoints) -> Tensor:
        angle, _ = _around(points.position, center)
        v = points.position[:, 2] * rows
        best = torch.zeros_like(v)
        for step in (1.0, 0.0):
            row = v.floor() + step
            odd = row - 2 * (row / 2).floor()
            u = angle * around + 0.5 * odd
            du = (u - u.floor() - 0.5) * 1.25
            dv = v - row
            inside = 0.72 - torch.sqrt(du * du + dv * dv)
            cover = edge(inside / rows, points)
            shade = (0.25 + 0.9 * (inside / 0.72)).clamp(0, 1)
            best = torch.lerp(best, shade, cover)
        return best

    return field


def panels(brush: Brush) -> Paint:
    """A grid of boxes, each in its own colour, with or without dark joints."""
    turn, frequency = brush.turn(), brush.frequency(0.7, 2.6)
    stretch = brush.rng.uniform(0.6, 1.6, size=3).tolist()
    joint = brush.uniform(0.02, 0.07) if brush.chance(0.5) else 0.0
    colors, seed = brush.palette, brush.uniform(0, 100)

    def paint(points: SurfacePoints) -> Tensor:
        local = points.position @ points.position.new_tensor(turn)
        local = local * frequency * local.new_tensor(stretch) + 0.37
        cell = local.floor()
        code = torch.sin(cell @ local.new_tensor([12.99, 78.23, 37.72]) + seed) * 437.5453
        table = local.new_tensor(colors.tolist())
        index = ((code - code.floor()) * len(colors)).long().clamp(max=len(colors) - 1)
        color = table[index]
        if joint > 0:
            gap = (0.5 - (local - cell - 0.5).abs()).amin(-1)
            color = color * (0.25 + 0.75 * edge((gap - joint) / frequency, points)).unsqueeze(-1)
        return color

    return paint
