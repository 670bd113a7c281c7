"""Colour palettes: harmonies in a perceptual space, moods from pastel to dark, and random ones.

Source:
    Ottosson, A perceptual color space for image processing, 2020 (OKLab).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Colors = npt.NDArray[np.float32]

_MOODS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "vivid": ((0.45, 0.85), (0.14, 0.26)),
    "natural": ((0.3, 0.8), (0.03, 0.11)),
    "pastel": ((0.78, 0.95), (0.03, 0.1)),
    "dark": ((0.22, 0.6), (0.02, 0.16)),
    "mixed": ((0.2, 0.95), (0.02, 0.24)),
    "gray": ((0.1, 0.97), (0.0, 0.008)),
}
_MOOD_WEIGHTS = (0.3, 0.22, 0.12, 0.1, 0.2, 0.06)
_HARMONIES = (
    (0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.08, -0.08, 0.15, -0.15),
    (0.0, 0.5, 0.04, 0.46, 0.0),
    (0.0, 1 / 3, 2 / 3, 0.03, 0.36),
    (0.0, 0.42, 0.58, 0.0, 0.5),
    (0.0, 0.25, 0.5, 0.75, 0.1),
)


def draw_palette(rng: np.random.Generator, count: int = 5) -> Colors:
    """``count`` sRGB colours ``[count, 3]`` in [0, 1]; neighbours differ visibly in lightness."""
    if rng.random() < 0.15:
        return rng.uniform(0, 1, size=(count, 3)).astype(np.float32)
    names = tuple(_MOODS)
    (dark, light), (dull, strong) = _MOODS[names[rng.choice(len(names), p=_MOOD_WEIGHTS)]]
    offsets = np.resize(np.array(_HARMONIES[int(rng.integers(len(_HARMONIES)))]), count)
    hue = 2 * np.pi * (rng.random() + offsets + rng.normal(0, 0.015, size=count))
    steps = (np.arange(count) + rng.uniform(0.2, 0.8, size=count)) / count
    lightness = dark + (light - dark) * _spread_order(rng, steps)
    chroma = rng.uniform(dull, strong, size=count)
    if rng.random() < 0.45:
        k = int(rng.integers(count))
        lightness[k] = 0.97 if rng.random() < 0.6 else 0.14
        chroma[k] = rng.uniform(0.0, 0.02)
    return oklch_to_srgb(lightness, chroma, hue)


def _spread_order(rng: np.random.Generator, steps: npt.NDArray[np.float64]) -> Colors:
    """The steps in an order whose neighbours are far apart: the best of a few shuffles."""
    orders = [rng.permutation(steps) for _ in range(6)]
    gaps = [np.abs(np.diff(order)).min() for order in orders]
    return np.asarray(orders[int(np.argmax(gaps))], dtype=np.float32)


def oklch_to_srgb(lightness: npt.ArrayLike, chroma: npt.ArrayLike, hue: npt.ArrayLike) -> Colors:
    """SRGB ``[..., 3]`` of OKLCH colours; chroma is reduced where the colour would not exist."""
    light, strength, angle = (np.asarray(v, dtype=np.float64) for v in (lightness, chroma, hue))
    shares = np.linspace(1.0, 0.0, 9).reshape(-1, *([1] * light.ndim))
    reduced = shares * strength
    rgb = _oklab_to_linear(
        np.broadcast_to(light, reduced.shape), reduced * np.cos(angle), reduced * np.sin(angle)
    )
    exists = ((rgb > -0.01) & (rgb < 1.01)).all(axis=-1)
    first = np.argmax(exists, axis=0)
    best = np.take_along_axis(rgb, first[None, ..., None], axis=0)[0]
    linear = best.clip(0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(encoded, dtype=np.float32)


def _oklab_to_linear(
    light: npt.NDArray[np.float64], a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (light - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    )
