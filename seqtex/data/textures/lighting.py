"""Simple lighting for lit renders: sky and ground, one or two lamps, a soft highlight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """Lamps fixed in the world and one at the camera.

    Args:
        sky: linear colour of light from above.
        ground: linear colour of light from below.
        lamps: direction towards each lamp, and its linear colour.
        headlight: strength of a white lamp at the camera.
        gloss: strength of the highlight.
        shininess: exponent of the highlight.
    """

    sky: Vector
    ground: Vector
    lamps: tuple[tuple[Vector, Vector], ...]
    headlight: float
    gloss: float
    shininess: float


def draw_lighting(rng: np.random.Generator) -> Lighting:
    """A random lighting under which the object stays well visible."""
    ambient = float(rng.uniform(0.2, 0.55))
    sky, ground = (ambient * (1 + rng.normal(0, 0.08, 3)) * gain for gain in (1.2, 0.7))
    lamps = []
    for _ in range(int(rng.integers(1, 3))):
        toward = rng.normal(size=3) + np.array([0.0, -0.4, 0.8])
        toward /= np.linalg.norm(toward)
        color = float(rng.uniform(0.3, 0.8)) * (1 + rng.normal(0, 0.08, 3))
        lamps.append((_vector(toward), _vector(color)))
    return Lighting(
        sky=_vector(sky),
        ground=_vector(ground),
        lamps=tuple(lamps),
        headlight=float(rng.uniform(0.0, 0.3)),
        gloss=float(rng.uniform(0.0, 0.5)) if rng.random() < 0.6 else 0.0,
        shininess=float(np.exp(rng.uniform(np.log(8), np.log(60)))),
    )


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z


def shaded(albedo: Tensor, normal: Tensor, toward_eye: Tensor, lighting: Lighting) -> Tensor:
    """Lit sRGB ``[N, 3]`` of surface points.

    Args:
        albedo: sRGB, ``[N, 3]``.
        normal: in the world, ``[N, 3]``; turned towards the eye where it looks away.
        toward_eye: unit vectors to the camera, ``[N, 3]``.
        lighting: the lamps.
    """
    unit = normalize(normal, dim=-1)
    cosine = (unit * toward_eye).sum(-1, keepdim=True)
    unit = torch.where(cosine < 0, -unit, unit)
    height = 0.5 + 0.5 * unit[:, 2:]
    light = torch.lerp(unit.new_tensor(lighting.ground), unit.new_tensor(lighting.sky), height)
    light = light + lighting.headlight * cosine.abs()
    shine = torch.zeros_like(height)
    for toward, color in lighting.lamps:
        lamp = unit.new_tensor(toward)
        light = light + (unit @ lamp).clamp(min=0).unsqueeze(-1) * unit.new_tensor(color)
        half = normalize(toward_eye + lamp, dim=-1)
        shine = shine + (unit * half).sum(-1, keepdim=True).clamp(min=0) ** lighting.shininess
    linear = srgb_to_linear(albedo) * light + lighting.gloss * shine
    return linear_to_srgb(linear.clamp(0.0, 1.0))


def srgb_to_linear(values: Tensor) -> Tensor:
    """Linear light of sRGB-encoded values in [0, 1]."""
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: Tensor) -> Tensor:
    """SRGB encoding of linear values in [0, 1]."""
    low = values.clamp(max=0.0031308) * 12.92
    return torch.where(
        values <= 0.0031308, low, 1.055 * values.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    )
