"""Backbones described by data: a registered name, or an architecture and its sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from seqtex_core.errors import UsageError
from seqtex_core.registry import Registry

from .registry import BackboneEntry, entry_of

ARCHITECTURES: Registry[Callable[[str, Mapping[str, Any]], BackboneEntry]] = Registry(
    "architecture",
    {
        "cogvideox": "seqtex_backbones.cogvideox.configs:cogvideox_entry",
        "cosmos": "seqtex_backbones.cosmos.configs:cosmos_entry",
        "hunyuan-video": "seqtex_backbones.hunyuan_video.configs:hunyuan_video_entry",
        "ltx-video": "seqtex_backbones.ltx.configs:ltx_entry",
        "mochi": "seqtex_backbones.mochi.configs:mochi_entry",
        "wan": "seqtex_backbones.wan.configs:wan_entry",
    },
    entry_point_group="seqtex.architectures",
)
"""``(name, sizes) -> entry`` by architecture."""


def entry_from_config(config: Mapping[str, Any]) -> BackboneEntry:
    """The backbone that a model config describes.

    Args:
        config: ``{"name": registered name}``, or ``{"name": any, "architecture": "wan",
            "config": {its sizes}}``.

    Raises:
        UsageError: an unknown name or architecture, sizes that it does not have, or sizes without
            an architecture.
    """
    name = config.get("name")
    if not isinstance(name, str) or not set(config) <= {"name", "architecture", "config"}:
        raise UsageError(
            "backbone config",
            expected="a name, and for a size of one's own also architecture and config",
            got=str(dict(config)),
        )
    if "architecture" not in config:
        if "config" in config:
            raise UsageError(
                f"config of backbone {name!r}",
                expected="an architecture beside it: the sizes of a registered name are its own",
                got=f"{dict(config['config'])} alone",
                remedy="Give architecture and all sizes, under another name: "
                + ", ".join(ARCHITECTURES.names()),
            )
        return entry_of(name)
    return ARCHITECTURES.get(config["architecture"])(name, config.get("config", {}))
