"""Full-size models by name: what they are and where their weights come from; imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from seqtex_core.registry import Registry

if TYPE_CHECKING:
    from .config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A model whose weights the user brings.

    Args:
        name: what ``--model`` takes.
        summary: one line for listings.
        hub_id: where the authors publish the weights, as a diffusers pipeline; only ever said,
            never fetched unasked.
        size: of the backbone's weights on disk, in words.
        text: of the text encoder, in words.
        config: ``"module:attribute"`` of a :class:`ModelConfig` or of a function that makes one.
        loader: ``"module:attribute"`` of a function ``(config, weights, dtype) ->
            SeqTexTransformer`` on the CPU.
        vae_hub_id: where the VAE is published, if not beside the weights.
        token_pixels: edge of a token in pixels: sizes must be multiples of it.
        uv_size: texels of the texture that it makes unless told otherwise; as in the config.
        trained: whether the weights have learned to make textures, or are those of a video model.
    """

    name: str
    summary: str
    hub_id: str
    size: str
    text: str
    config: str
    loader: str = "seqtex.models.full_size:on_backbone"
    vae_hub_id: str | None = None
    token_pixels: int = 16
    uv_size: int = 1024
    trained: bool = False

    def model_config(self) -> ModelConfig:
        """The model's config."""
        found = _attribute(self.config)
        return cast("ModelConfig", found() if callable(found) else found)

    def load_transformer(self) -> Callable[..., Any]:
        """The function named by ``loader``."""
        return cast(Callable[..., Any], _attribute(self.loader))


CATALOG: Registry[CatalogEntry] = Registry("model", entry_point_group="seqtex.models")
"""Full-size models; other distributions add theirs through the entry-point group."""


def _add(
    name: str, summary: str, *, hub_id: str, size: str, text: str, token_pixels: int = 16
) -> None:
    attribute = name.upper().replace(".", "_").replace("-", "_")
    config = f"seqtex.models.catalog_configs:{attribute}"
    entry = CatalogEntry(
        name=name,
        summary=summary,
        hub_id=hub_id,
        size=size,
        text=text,
        config=config,
        token_pixels=token_pixels,
    )
    CATALOG.register(name, entry)


_add(
    "wan2.1-t2v-1.3b",
    "Wan2.1 text-to-video 1.3B, which SeqTex was made from",
    hub_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    size="2.8 GB in bfloat16",
    text="umT5-xxl",
)
_add(
    "wan2.1-t2v-14b",
    "Wan2.1 text-to-video 14B",
    hub_id="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    size="29 GB in bfloat16",
    text="umT5-xxl",
)
_add(
    "wan2.2-ti2v-5b",
    "Wan2.2 text-and-image-to-video 5B: latents 16x smaller than pixels",
    hub_id="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    size="10 GB in bfloat16",
    text="umT5-xxl",
    token_pixels=32,
)
_add(
    "cogvideox-2b",
    "CogVideoX text-to-video 2B",
    hub_id="zai-org/CogVideoX-2b",
    size="3.4 GB in bfloat16",
    text="T5-v1.1-xxl",
)
_add(
    "cogvideox-5b",
    "CogVideoX text-to-video 5B",
    hub_id="zai-org/CogVideoX-5b",
    size="11 GB in bfloat16",
    text="T5-v1.1-xxl",
)
_add(
    "ltx-video-2b",
    "LTX-Video 0.9.0 2B: latents 32x smaller than pixels",
    hub_id="Lightricks/LTX-Video",
    size="3.8 GB in bfloat16",
    text="T5-v1.1-xxl",
    token_pixels=32,
)
_add(
    "ltx-video-2b-0.9.5",
    "LTX-Video 0.9.5 2B: latents 32x smaller than pixels",
    hub_id="Lightricks/LTX-Video-0.9.5",
    size="3.8 GB in bfloat16",
    text="T5-v1.1-xxl",
    token_pixels=32,
)
_add(
    "ltx-video-13b",
    "LTX-Video 0.9.7 13B: latents 32x smaller than pixels",
    hub_id="Lightricks/LTX-Video-0.9.7-dev",
    size="26 GB in bfloat16",
    text="T5-v1.1-xxl",
    token_pixels=32,
)
_add(
    "cosmos-predict2-2b-text2image",
    "Cosmos Predict2 text-to-image 2B, on the latents of Wan2.1",
    hub_id="nvidia/Cosmos-Predict2-2B-Text2Image",
    size="3.9 GB in bfloat16",
    text="T5-11b",
)
_add(
    "cosmos-predict2-14b-text2image",
    "Cosmos Predict2 text-to-image 14B, on the latents of Wan2.1",
    hub_id="nvidia/Cosmos-Predict2-14B-Text2Image",
    size="29 GB in bfloat16",
    text="T5-11b",
)
CATALOG.register(
    "seqtex-released",
    CatalogEntry(
        name="seqtex-released",
        summary="SeqTex as its authors released it, on Wan2.1 1.3B, whose VAE goes with it",
        hub_id="VAST-AI/SeqTex-Transformer",
        size="5.5 GB in bfloat16",
        text="umT5-xxl",
        config="seqtex.models.released:released_model_config",
        loader="seqtex.models.released:on_released",
        vae_hub_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        trained=True,
    ),
)


def _attribute(target: str) -> object:
    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)
