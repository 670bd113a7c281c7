"""Whether something follows every operation, so that none may take a short cut."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether ``torch.func`` (vmap, jvp, grad) or forward-mode autograd follows what is computed.

    Their tensors can neither be written into plain ones, nor be read by the host, nor be given to
    kernels of our own.
    """
    return torch._C._are_functorch_transforms_active() or is_forward_mode()


def is_forward_mode() -> bool:
    """Whether derivatives are computed forwards (``torch.func.jvp``, dual tensors)."""
    return forward_ad._current_level >= 0
