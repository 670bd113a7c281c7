"""Video diffusion backbones and codecs behind one protocol; nothing is imported unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .codecs.cogvideox_vae import CogVideoXVAECodec as CogVideoXVAECodec
    from .codecs.pixel import PixelCodec as PixelCodec
    from .codecs.protocol import CODECS as CODECS
    from .codecs.protocol import Codec as Codec
    from .codecs.protocol import ValueRanges as ValueRanges
    from .codecs.protocol import codec_from_config as codec_from_config
    from .codecs.wan_vae import WanVAECodec as WanVAECodec
    from .cogvideox.backbone import CogVideoXBackbone as CogVideoXBackbone
    from .cogvideox.configs import CogVideoXConfig as CogVideoXConfig
    from .cogvideox.configs import CogVideoXEntry as CogVideoXEntry
    from .cogvideox.schedule import VPSchedule as VPSchedule
    from .entry_config import ARCHITECTURES as ARCHITECTURES
    from .entry_config import entry_from_config as entry_from_config
    from .registry import BACKBONES as BACKBONES
    from .registry import BackboneEntry as BackboneEntry
    from .registry import empty_backbone as empty_backbone
    from .registry import load_backbone as load_backbone
    from .seqtex_release import RELEASED_DECOUPLED as RELEASED_DECOUPLED
    from .seqtex_release import WeightPlacement as WeightPlacement
    from .seqtex_release import load_released as load_released
    from .seqtex_release import save_released as save_released
    from .text import T5TextEncoder as T5TextEncoder
    from .text import TextEncoder as TextEncoder
    from .text import load_text_encoder as load_text_encoder
    from .unipc import SAMPLERS as SAMPLERS
    from .unipc import UniPCSampler as UniPCSampler
    from .wan.backbone import WanBackbone as WanBackbone
    from .wan.configs import WanConfig as WanConfig
    from .wan.configs import WanEntry as WanEntry

_MODULES = {
    "ARCHITECTURES": "entry_config",
    "BACKBONES": "registry",
    "BackboneEntry": "registry",
    "CODECS": "codecs.protocol",
    "Codec": "codecs.protocol",
    "CogVideoXBackbone": "cogvideox.backbone",
    "CogVideoXConfig": "cogvideox.configs",
    "CogVideoXVAECodec": "codecs.cogvideox_vae",
    "CogVideoXEntry": "cogvideox.configs",
    "PixelCodec": "codecs.pixel",
    "RELEASED_DECOUPLED": "seqtex_release",
    "SAMPLERS": "unipc",
    "T5TextEncoder": "text",
    "TextEncoder": "text",
    "UniPCSampler": "unipc",
    "VPSchedule": "cogvideox.schedule",
    "ValueRanges": "codecs.protocol",
    "WanBackbone": "wan.backbone",
    "WanConfig": "wan.configs",
    "WanEntry": "wan.configs",
    "WanVAECodec": "codecs.wan_vae",
    "WeightPlacement": "seqtex_release",
    "codec_from_config": "codecs.protocol",
    "empty_backbone": "registry",
    "entry_from_config": "entry_config",
    "load_backbone": "registry",
    "load_released": "seqtex_release",
    "load_text_encoder": "text",
    "save_released": "seqtex_release",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
