"""How a backbone is doubled into two branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .adapter import SHAREABLE
from .errors import UsageError
from .muv_block import UV_KEY_SOURCES, UVKeySource
from .qk_prep import GeometryOrder


@dataclass(frozen=True, kw_only=True)
class DecoupledConfig:
    """How a backbone is doubled.

    Args:
        geometry_order: geometry joins queries and keys after RoPE (``"post_rope"``, paper) or
            before it (``"pre_rope"``, released weights).
        uv_key_source: what the uv branch's keys of mv tokens are made of. ``"norm_pre_attn"``: the
            block's input through the uv copy's norm (exactly the pretrained joint attention at
            init); ``"norm_post_attn"``: the state after mv attention, normalised;
            ``"raw_post_attn"``: the same, not normalised (released weights).
        uv_share: parts that the uv branch shares with the mv branch instead of copying.
        mv_train: ``"lora"``: frozen backbone with adapters; ``"full"``: everything trains.
        lora_rank: inner width of the adapters.
        lora_alpha: numerator of their scale.
        lora_seed: seed of their initialisation.

    Raises:
        UsageError: an unknown option, or a rank below 1.
    """

    geometry_order: GeometryOrder = "post_rope"
    uv_key_source: UVKeySource = "norm_pre_attn"
    uv_share: frozenset[str] = frozenset({"cross_attn", "patch_embed", "time_text", "proj_out"})
    mv_train: Literal["lora", "full"] = "lora"
    lora_rank: int = 128
    lora_alpha: float = 64.0
    lora_seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "geometry_order": (self.geometry_order, ("post_rope", "pre_rope")),
            "uv_key_source": (self.uv_key_source, UV_KEY_SOURCES),
            "mv_train": (self.mv_train, ("lora", "full")),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                raise UsageError(name, expected=f"one of {known}", got=repr(value))
        if not isinstance(self.uv_share, frozenset):
            raise UsageError("uv_share", expected="a frozenset", got=repr(self.uv_share))
        unknown = sorted(self.uv_share - set(SHAREABLE))
        if unknown:
            raise UsageError("uv_share", expected=f"names among {SHAREABLE}", got=str(unknown))
        if self.lora_rank < 1:
            raise UsageError("lora_rank", expected="at least 1", got=str(self.lora_rank))
