"""Classes of diffusers, imported when a model is made of them."""

from __future__ import annotations

from typing import Any

import torch


def diffusers_class(name: str) -> Any:
    """The class of diffusers called ``name``.

    Importing it imports parts of torch that compute with tensors of their own meanwhile (torch 2.6
    reads their numbers, too): they are in memory even where a model is made without.
    """
    with torch.device("cpu"):
        import diffusers

        return getattr(diffusers, name)
