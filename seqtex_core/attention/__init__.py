"""Interchangeable attention implementations; each says why it cannot run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .attend import Attend as Attend
    from .attend import AttendBase as AttendBase
    from .attend import AttentionInputs as AttentionInputs
    from .choose import ATTENTION as ATTENTION
    from .choose import AUTO_ORDER as AUTO_ORDER
    from .choose import AutoAttend as AutoAttend
    from .choose import choose_attention as choose_attention
    from .choose import list_attention as list_attention
    from .reference import attention_reference as attention_reference
    from .sdpa import SdpaAttend as SdpaAttend

_MODULES = {
    "ATTENTION": "choose",
    "AUTO_ORDER": "choose",
    "Attend": "attend",
    "AttendBase": "attend",
    "AttentionInputs": "attend",
    "AutoAttend": "choose",
    "SdpaAttend": "sdpa",
    "attention_reference": "reference",
    "choose_attention": "choose",
    "list_attention": "choose",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
