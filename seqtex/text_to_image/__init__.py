"""Reference images from text: control images of a view, and image models that follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .control_images import ControlImages as ControlImages
    from .control_images import draw_control_images as draw_control_images
    from .protocol import ImageDefaults as ImageDefaults
    from .protocol import ImageSettings as ImageSettings
    from .protocol import ReferenceGenerator as ReferenceGenerator
    from .reference import TextReference as TextReference
    from .reference import full_prompt as full_prompt
    from .reference import make_text_reference as make_text_reference
    from .reference import save_text_reference as save_text_reference
    from .registry import REFERENCE_GENERATORS as REFERENCE_GENERATORS
    from .registry import load_generator as load_generator
    from .sources import ImageModelSpec as ImageModelSpec

_MODULE_OF_NAME = {
    "REFERENCE_GENERATORS": "registry",
    "ControlImages": "control_images",
    "ImageDefaults": "protocol",
    "ImageModelSpec": "sources",
    "ImageSettings": "protocol",
    "ReferenceGenerator": "protocol",
    "TextReference": "reference",
    "draw_control_images": "control_images",
    "full_prompt": "reference",
    "load_generator": "registry",
    "make_text_reference": "reference",
    "save_text_reference": "reference",
}
__all__ = sorted(_MODULE_OF_NAME)
__getattr__, __dir__ = lazy_exports(__name__, _MODULE_OF_NAME)
