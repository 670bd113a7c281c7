"""Fused operations between the matrix products, each beside its plain form.

Implementations: ``triton`` (one kernel per operation, tuned to the GPU), ``triton_fixed`` (the same
kernels, equal bits on every GPU of a kind and every process), ``eager`` (PyTorch's own kernels,
fewer passes over memory), ``plain`` (the definitions). Each says why it cannot run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .choose import AUTO_ORDER as AUTO_ORDER
    from .choose import KERNELS as KERNELS
    from .choose import FusedKernels as FusedKernels
    from .choose import KernelInputs as KernelInputs
    from .choose import list_kernels as list_kernels
    from .choose import using_kernels as using_kernels

_MODULES = {
    "AUTO_ORDER": "choose",
    "FusedKernels": "choose",
    "KERNELS": "choose",
    "KernelInputs": "choose",
    "list_kernels": "choose",
    "using_kernels": "choose",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
