"""Rasterizers: a backend names the nearest face of every pixel, and nothing else."""

from .protocol import (
    RASTERIZERS,
    Rasterizer,
    available_rasterizers,
    choose_rasterizer,
)

__all__ = ["RASTERIZERS", "Rasterizer", "available_rasterizers", "choose_rasterizer"]
