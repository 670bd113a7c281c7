"""How a backbone is doubled into two branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from .adapter import SHAREABLE
from .copy_head import CopyConfig
from .errors import UsageError
from .frames import Stream
from .muv_block import UV_KEY_SOURCES, UVKeySource
from .query_key import GeometryOrder

UVBranch = Literal["copy", "shared", "joint"]
GeometryUse = Literal["attention", "input", "both", "none"]


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
        uv_branch: ``"copy"``: a copy of the backbone, apart from ``uv_share`` (paper);
            ``"shared"``: the mv branch's own modules, all of them, but mv still never reads uv;
            ``"joint"``: no second branch, all groups attend each other in one stream, as in the
            backbone itself. The last two are there for comparison.
        geometry_use: ``"attention"``: geometry joins queries and keys (paper); ``"input"``: it is
            added to the tokens before the first block instead, for comparison; ``"both"``: for
            models from scratch, whose rows then know where they are; ``"none"``: it is not read.
        geometry_gain: spread of the geometry casters' first weights, times the root of their width.
            0: the model starts without geometry, as it must to keep what a pretrained backbone
            can; 1: for models from scratch, whose attention follows the surface from the start.
        copy: a head that copies known latents where they belong, see
            :class:`seqtex_core.copy_head.CopyHead`; ``None`` for none.
        mv_train: ``"lora"``: frozen backbone with adapters; ``"full"``: everything trains.
        lora_rank: inner width of the adapters.
        lora_alpha: numerator of their scale.
        lora_seed: seed of their initialisation.

    Raises:
        UsageError: an unknown option, a rank below 1, or a copy head without a uv branch.
    """

    geometry_order: GeometryOrder = "post_rope"
    uv_key_source: UVKeySource = "norm_pre_attn"
    uv_share: frozenset[str] = frozenset({"cross_attn", "patch_embed", "time_text", "proj_out"})
    uv_branch: UVBranch = "copy"
    geometry_use: GeometryUse = "attention"
    geometry_gain: float = 0.0
    copy: CopyConfig | None = None
    mv_train: Literal["lora", "full"] = "lora"
    lora_rank: int = 128
    lora_alpha: float = 64.0
    lora_seed: int = 0

    @property
    def shares_time_text(self) -> bool:
        """Whether both branches embed noise levels and text with the same modules."""
        return self.uv_branch != "copy" or "time_text" in self.uv_share

    def streams(self, default: Mapping[str, Stream]) -> dict[str, Stream]:
        """The stream of every group in this model, given those in a model with two branches."""
        joint = self.uv_branch == "joint"
        return {name: "mv" if joint else stream for name, stream in default.items()}

    def __post_init__(self) -> None:
        choices = {
            "geometry_order": (self.geometry_order, ("post_rope", "pre_rope")),
            "uv_key_source": (self.uv_key_source, UV_KEY_SOURCES),
            "uv_branch": (self.uv_branch, get_args(UVBranch)),
            "geometry_use": (self.geometry_use, get_args(GeometryUse)),
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
        if self.geometry_gain < 0:
            raise UsageError("geometry_gain", expected="0 or more", got=str(self.geometry_gain))
        if self.copy is not None and self.uv_branch == "joint":
            raise UsageError(
                "copy", expected="a uv branch of its own, for a copy head", got="uv_branch 'joint'"
            )
        if self.lora_rank < 1:
            raise UsageError("lora_rank", expected="at least 1", got=str(self.lora_rank))
