"""What the export tests share: a picture, and what a file says of it."""

from __future__ import annotations

import numpy as np

EXTRAS = {"seed": 7, "nested": {"list": [1, 2.5, None]}}


def picture(seed=0, channels=3, size=(20, 24)):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
