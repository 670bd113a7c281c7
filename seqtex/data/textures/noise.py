"""Smooth random fields in space, read from one periodic volume by trilinear interpolation.

One lookup gives four independent fields with all their octaves, which is what makes drawing fresh
textures at every training step affordable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

Roughness = Literal["smooth", "rough"]
_SIZE = 64
_FALLOFF = {"smooth": (2.6, 10.0), "rough": (1.75, 24.0)}

NoiseField = Callable[[Tensor], Tensor]


@cache
def noise_volume(roughness: Roughness, device: torch.device) -> Tensor:
    """Four periodic fields ``[1, 4, 65, 65, 65]``, zero mean, unit deviation; always the same.

    Amplitudes fall with the frequency to the given power, up to a highest frequency. The first
    layer is repeated at the end, so that reading between the points needs no wrapping.
    """
    power, highest = _FALLOFF[roughness]
    rng = np.random.Generator(np.random.Philox(key=[20250704, len(roughness)]))
    cycles = np.fft.fftfreq(_SIZE, 1.0 / _SIZE)
    k = np.sqrt(sum(axis**2 for axis in np.meshgrid(cycles, cycles, cycles, indexing="ij")))
    gain = np.where((k > 0) & (k <= highest), np.maximum(k, 1.0) ** (-power - 0.5), 0.0)
    fields = []
    for _ in range(4):
        white = np.fft.fftn(rng.normal(size=(_SIZE, _SIZE, _SIZE)))
        field = np.fft.ifftn(white * gain).real
        fields.append((field - field.mean()) / field.std())
    volume = np.pad(np.stack(fields), ((0, 0), (0, 1), (0, 1), (0, 1)), mode="wrap")
    return torch.from_numpy(volume.astype(np.float32))[None].to(device)


def read_noise(coordinates: Tensor, roughness: Roughness = "rough", *, channels: int = 4) -> Tensor:
    """The first fields ``[N, channels]`` at ``coordinates [N, 3]`` in periods of the volume.

    One period shows about ten features of the smooth fields across, and twenty-four of the rough.
    """
    volume = noise_volume(roughness, coordinates.device)[:, :channels]
    inside = 2.0 * (coordinates - coordinates.floor()) - 1.0
    values = grid_sample(volume, inside[None, None, None], align_corners=True)
    return values.reshape(channels, -1).T


def noise_field(
    rng: np.random.Generator,
    *,
    features: float,
    roughness: Roughness = "rough",
    channels: int = 1,
) -> NoiseField:
    """A field of points ``[N, 3]`` to ``[N, channels]``, turned and shifted at random.

    Args:
        rng: source of the turn and shift.
        features: coarse features per unit length.
        roughness: ``smooth`` has little detail below its features.
        channels: independent fields, up to 4; fewer are faster.
    """
    quaternion = rng.normal(size=4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = (turn * (features / 4.0)).tolist()
    shift = rng.uniform(0, 1, size=3).tolist()

    def field(position: Tensor) -> Tensor:
        coordinates = position @ position.new_tensor(matrix) + position.new_tensor(shift)
        return read_noise(coordinates, roughness, channels=channels)

    return field


def leveled(values: Tensor) -> Tensor:
    """Normal deviates as nearly uniform values in (0, 1)."""
    return torch.sigmoid(1.7 * values)
