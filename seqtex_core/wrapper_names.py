"""Names of weights without what training and other programs put around the model."""

from __future__ import annotations

from collections.abc import Collection

_PREFIXES = ("module.", "model.diffusion_model.", "diffusion_model.")
"""Of DistributedDataParallel; of checkpoints in the style of ComfyUI."""
_PARTS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""Of ``torch.compile``, ``checkpoint_wrapper`` and FSDP, around the model or any part of it."""


def without_wrappers(names: Collection[str]) -> dict[str, str]:
    """``{name: the same without wrappers}``, in the order of ``names``.

    A prefix is taken for a wrapper where all names have it, and then the next; the parts that
    torch inserts are taken out wherever they are, as no model has such names of its own.
    """
    bare = {name: _without_parts(name) for name in names}
    while bare:
        shared = [p for p in _PREFIXES if all(name.startswith(p) for name in bare.values())]
        if not shared:
            break
        bare = {name: rest.removeprefix(shared[0]) for name, rest in bare.items()}
    return bare


def _without_parts(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _PARTS)
