"""Texture kinds that put marks on the surface: badges, pixel glyphs, faces, buttons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .brush import Brush
from .points import Field, Paint, SurfacePoints, edge

Outline = Callable[[Tensor, Tensor], Tensor]


def _outline(brush: Brush) -> Outline:
    """A mark of radius about 1: signed distance in the plane, positive inside."""
    style, count = brush.integer(0, 7), brush.integer(3, 8)
    if style == 0:
        return lambda u, v: 1 - torch.sqrt(u * u + v * v)
    if style == 1:
        return lambda u, v: 0.22 - (0.78 - torch.sqrt(u * u + v * v)).abs()
    if style == 2:
        return lambda u, v: torch.maximum(
            torch.minimum(0.3 - u.abs(), 1 - v.abs()), torch.minimum(0.3 - v.abs(), 1 - u.abs())
        )
    if style == 3:
        return lambda u, v: 0.9 - torch.maximum(u.abs(), v.abs())
    if style == 4:
        return lambda u, v: 0.65 * (1 - u.abs() - v.abs())

    def petals(u: Tensor, v: Tensor) -> Tensor:
        radius, angle = torch.sqrt(u * u + v * v), torch.atan2(u, v)
        return 0.75 * (0.72 + 0.28 * torch.cos(count * angle) - radius)

    def target(u: Tensor, v: Tensor) -> Tensor:
        radius = torch.sqrt(u * u + v * v)
        return torch.maximum(0.35 - radius, 0.17 - (0.83 - radius).abs())

    return petals if style == 5 else target


def _planted(brush: Brush) -> Field:
    """Marks of one outline at points of the surface, as a mask."""
    count = brush.integer(1, 9)
    picks = brush.rng.integers(len(brush.facts.anchors), size=count).tolist()
    sizes = (brush.uniform(0.12, 0.4) * brush.rng.uniform(0.7, 1.3, size=count)).tolist()
    turns = brush.rng.uniform(0, 2 * np.pi, size=count) * brush.chance(0.5)
    outline = _outline(brush)
    anchors, normals = brush.facts.anchors, brush.facts.anchor_normals

    def field(points: SurfacePoints) -> Tensor:
        mask = torch.zeros_like(points.footprint)
        for pick, size, angle in zip(picks, sizes, turns.tolist(), strict=True):
            center, normal = anchors[pick].to(mask.device), normals[pick].to(mask.device)
            local = points.position - center
            reach = (local * local).sum(-1) < (1.6 * size) ** 2
            near = torch.nonzero(reach & (points.normal @ normal > 0.1))[:, 0]
            if near.numel() == 0:
                continue
            u, v = _tangents(normal, angle)
            plane = local[near] @ torch.stack([u, v], dim=1) / size
            here = points.select(near)
            inside = outline(plane[:, 0], plane[:, 1]) * size
            mask[near] = torch.maximum(mask[near], edge(inside, here))
        return mask

    return field


def _tangents(normal: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Two unit vectors along the surface, the second as upright as it can be."""
    up = normal.new_tensor([0.0, 0.0, 1.0] if abs(float(normal[2])) < 0.9 else [0.0, 1.0, 0.0])
    u = torch.linalg.cross(up, normal)
    u = u / torch.linalg.vector_norm(u)
    v = torch.linalg.cross(normal, u)
    c, s = float(np.cos(angle)), float(np.sin(angle))
    return c * u + s * v, c * v - s * u


def badges(brush: Brush) -> Field:
    """Discs, rings, crosses, diamonds, flowers and targets at points of the surface."""
    return _planted(brush)


def glyphs(brush: Brush) -> Field:
    """A coarse random pixel picture, projected flat from one side or through both."""
    rows, columns = brush.integer(4, 9), brush.integer(4, 9)
    bitmap = brush.rng.random((rows, columns)) < 0.5
    if brush.chance(0.7):
        bitmap = bitmap | bitmap[:, ::-1]
        bitmap &= brush.rng.random((rows, columns)) < 0.85
        bitmap = np.where(np.arange(columns) < columns / 2, bitmap, bitmap[:, ::-1])
    axis, through = brush.integer(0, 2), brush.chance(0.3)
    side = -1.0 if axis == 1 or brush.chance(0.5) else 1.0
    center, extent = brush.center(), np.array(brush.facts.high) - np.array(brush.facts.low)
    width = float(brush.uniform(0.35, 0.8) * extent[1 - axis])
    height = width * rows / columns * brush.uniform(0.8, 1.2)
    picture = np.pad(bitmap[::-1], 1).astype(np.float32)

    def field(points: SurfacePoints) -> Tensor:
        u = (points.position[:, 1 - axis] - center[1 - axis]) / width + 0.5
        v = (points.position[:, 2] - center[2]) / height + 0.5
        facing = points.normal[:, axis] * side
        shown = facing.abs() if through else facing
        table = torch.from_numpy(picture).to(u)
        value = _bilinear(table, v * rows + 0.5, u * columns + 0.5)
        cell = min(width / columns, height / rows)
        sharp = (0.7 * cell / points.footprint).clamp(min=1.0)
        return (0.5 + (value - 0.5) * sharp).clamp(0, 1) * (4 * shown - 0.3).clamp(0, 1)

    return field


def _bilinear(table: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Values of a small picture between its pixels; its border continues outside."""
    height, width = table.shape
    row, column = row.clamp(0, height - 1.001), column.clamp(0, width - 1.001)
    i, j = row.long(), column.long()
    a, b = row - i, column - j
    flat, start = table.reshape(-1), i * width + j
    top = torch.lerp(flat[start], flat[start + 1], b)
    return torch.lerp(top, torch.lerp(flat[start + width], flat[start + width + 1], b), a)


def visage(brush: Brush) -> Paint:
    """Two eyes and a mouth projected from the front onto a plain ground."""
    low, high = np.array(brush.facts.low), np.array(brush.facts.high)
    size = high - low
    level = float(low[2] + size[2] * brush.uniform(0.45, 0.8))
    gap, eye = float(size[0] * brush.uniform(0.1, 0.2)), float(size[0] * brush.uniform(0.06, 0.11))
    middle = float((low[0] + high[0]) / 2)
    mouth, smile = float(size[0] * brush.uniform(0.12, 0.25)), brush.uniform(-0.8, 0.8)
    thick = eye * brush.uniform(0.4, 0.8)
    base = brush.plain(0)
    white, black = [0.96, 0.96, 0.96], [0.06, 0.06, 0.08]
    lips = brush.palette[1].tolist() if brush.chance(0.6) else black

    def paint(points: SurfacePoints) -> Tensor:
        color = base(points)
        front = (3 * -points.normal[:, 1]).clamp(0, 1)
        x, z = points.position[:, 0] - middle, points.position[:, 2] - level
        radius = torch.sqrt((x.abs() - gap) ** 2 + z**2)
        drop = z + 2.2 * gap - smile * x * x / max(mouth, 1e-3)
        curve = torch.minimum(thick - drop.abs(), mouth - x.abs())
        for inside, tone in ((eye - radius, white), (0.55 * eye - radius, black), (curve, lips)):
            share = (edge(inside, points) * front).unsqueeze(-1)
            color = torch.lerp(color, color.new_tensor(tone), share)
        return color

    return paint
