"""Models by name or folder: config, weights, and what is said about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqtex_backbones.codecs.protocol import Codec, codec_from_config
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.text import TextEncoder, load_text_encoder
from seqtex_core import checkpoint
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.transformer import SeqTexTransformer

from ..manifest import ModelRecord, file_sha256
from .catalog import CATALOG, CatalogEntry
from .config import CODEC_WEIGHTS_NAME, WEIGHTS_NAME, ModelConfig
from .fill import empty_transformer
from .folder import BUILT_IN, check_model, model_folder
from .full_size import find_parts, load_codec_part, load_text_part, load_transformer, record_of
from .memory import MemoryPlan, check_budget
from .memory_moves import Residence
from .memory_needs import RunSizes
from .memory_use import plan_for, settle
from .sources import ModelSources
from .text import VisitingTextEncoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, eq=False)
class SeqTexModel:
    """A model ready to run.

    Args:
        config: what it is.
        transformer: the doubled backbone, in evaluation mode.
        codec: images to latents and back.
        record: name and hash, for manifests; ``notes`` begins with "untrained" where the weights
            have not learned to make textures, and then says what they are.
        text_encoder: of models that take a prompt.
        residence: where the parts work, and which are there only while they do.
        memory: how a run holds its memory, where that was planned.
    """

    config: ModelConfig
    transformer: SeqTexTransformer
    codec: Codec
    record: ModelRecord
    text_encoder: TextEncoder | None = None
    residence: Residence = field(default_factory=lambda: Residence("cpu"))
    memory: MemoryPlan | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the weights have learned to make textures."""
        return "untrained" not in self.record.notes

    @property
    def state(self) -> str:
        """A few words on the weights, for the user."""
        if self.is_trained:
            return "trained"
        return "untrained: " + (self.record.notes[1:] or ("seeded random weights",))[0]

    @property
    def dtype(self) -> torch.dtype:
        """That the transformer computes in."""
        return next(self.transformer.geometry.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the model works."""
        return self.residence.device

    @property
    def caches_geometry(self) -> bool | None:
        """What ``SeqTexTransformer.prepare`` is told: ``None`` is its own choice."""
        recast = self.memory is not None and self.memory.measures.recast_geometry
        return False if recast else None

    def encode_prompts(self, prompts: Sequence[str | None]) -> list[Tensor | None]:
        """Text rows ``[1, S, text_dim]`` per prompt for the transformer; ``None``: all-zero rows.

        Raises:
            UsageError: a prompt that the model cannot read.
        """
        for prompt in prompts:
            self.check_prompt(prompt)
        encoder = self.text_encoder
        if encoder is None:
            return [None for _ in prompts]
        default = getattr(encoder, "default_prompt", "")
        words = [default if prompt is None else prompt for prompt in prompts]
        known = [word for word in words if word is not None]
        rows = iter(encoder.encode(known).split(1)) if known else iter(())
        return [None if word is None else next(rows) for word in words]

    def text_state(self, prompt: str | None) -> str:
        """What the model reads as its text, for the user."""
        default = getattr(self.text_encoder, "default_prompt", "")
        if self.text_encoder is None or (prompt is None and default is None):
            unseen = self.config.text_padding == "kept"
            return "none, all-zero rows" + (", unlike in the backbone's training" * unseen)
        return repr(default if prompt is None else prompt)

    def check_sizes(self, **sizes: int | None) -> None:
        """Refuse sizes in pixels that the codec and the transformer cannot cut into tokens.

        Args:
            sizes: by the setting's name, such as ``view_size=512``; ``None`` is not checked.

        Raises:
            UsageError: not a multiple of the token's edge in pixels.
        """
        multiple = self.codec.spatial_factor * max(self.transformer.spec.patch_size[1:])
        for name, size in sizes.items():
            if size is not None and size % multiple:
                near = max(round(size / multiple), 1) * multiple
                raise UsageError(
                    name,
                    expected=f"a multiple of {multiple} with this model",
                    got=str(size),
                    remedy=f"The nearest is {near}.",
                )

    def check_prompt(self, prompt: str | None) -> None:
        """Refuse text that the model cannot read; costs nothing.

        Raises:
            UsageError: a prompt for a model without a text encoder.
        """
        if prompt and self.text_encoder is None:
            if self.record.name in CATALOG:
                raise UsageError(
                    "prompt",
                    expected="a text encoder: --text-weights DIR, or --text-embeddings FILE",
                    got=repr(prompt),
                    remedy="Leave out --prompt: the text rows are then zero.",
                )
            raise UsageError(
                "prompt",
                expected="none: this model was made without text",
                got=repr(prompt),
                remedy="Leave out --prompt; the reference image decides.",
            )

    def moved(self, device: torch.device, dtype: torch.dtype | None = None) -> SeqTexModel:
        """The model on another device or in another dtype; its modules are the same ones.

        Raises:
            UsageError: its blocks stream, which was arranged for one device.
        """
        if self.memory is not None and self.memory.measures.stream_blocks:
            raise UsageError(
                "device",
                expected="the one that the model was loaded for: its blocks stream there",
                got=str(device),
                remedy="Load the model again with device=...",
            )
        if self.residence.visitors:
            self.transformer.to(dtype=dtype)
            return replace(self, residence=Residence(device, self.residence.visitors))
        self.transformer.to(device=device, dtype=dtype)
        for part in (self.codec, getattr(self.text_encoder, "model", None)):
            if isinstance(part, nn.Module):
                part.to(device)
        return replace(self, residence=Residence(device))


def load_model(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    sources: ModelSources | None = None,
    memory: int | None = None,
    sizes: RunSizes | None = None,
) -> SeqTexModel:
    """A model by name or from a local folder.

    A built-in model without trained weights gets seeded random ones and is marked "untrained"; a
    folder without weights is an error. Full-size models need ``sources``.

    Args:
        name_or_path: built-in name, name of a full-size model, or folder.
        device: where the model works.
        dtype: of the transformer's weights; the config's if ``None``.
        sources: where the parts of a full-size model come from.
        memory: GiB to keep within, see :mod:`seqtex.models.memory`; ``None`` takes what is free.
        sizes: of the run to keep within it; the config's by default.

    Raises:
        WeightsError: nothing there, or weights that do not fit the config.
        UsageError: sources that do not suit the model, or no such memory budget.
        OutOfMemoryError: a run of these sizes cannot be kept within ``memory``.
    """
    sources = sources or ModelSources()
    check_budget(memory)
    check_model(name_or_path, sources)
    device, sizes = torch.device(device), sizes or RunSizes()
    if str(name_or_path) in CATALOG:
        entry = CATALOG.get(str(name_or_path))
        return _load_full_size(entry, sources, device, dtype, memory, sizes)
    return _load_folder(str(name_or_path), sources, device, dtype, memory, sizes)


def _load_folder(
    name: str,
    sources: ModelSources,
    device: torch.device,
    dtype: torch.dtype | None,
    memory: int | None,
    sizes: RunSizes,
) -> SeqTexModel:
    """A model with weights of its own."""
    folder = model_folder(name)
    config = ModelConfig.read(folder)
    kind = dtype or DTYPES[config.dtype]
    own_text = None if config.text_encoder is None else folder / config.text_encoder
    text = Path(sources.text) if sources.text else own_text
    unread = sources.text_embeddings is not None
    plan = plan_for(
        config, kind, sizes, device=device, budget=memory, text=None if unread else text
    )
    encoder = _load_text(config, sources, text, plan, device, sizes.texts or ("",), default="")
    weights = folder / WEIGHTS_NAME
    if weights.is_file():
        transformer = empty_transformer(config).to(dtype=kind)
        checkpoint.load_model(transformer, weights)
        record = ModelRecord(name=config.name, sha256=file_sha256(weights))
    elif name in BUILT_IN:
        transformer = build_transformer(config).to(dtype=kind)
        digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode()).hexdigest()
        record = ModelRecord(name=config.name, sha256=digest, notes=("untrained",))
    else:
        raise WeightsError(
            f"model {folder}", expected=f"weights in {WEIGHTS_NAME}", got="no such file"
        )
    codec = load_codec(folder, config)
    return SeqTexModel(
        config=config,
        transformer=transformer.eval(),
        codec=codec,
        record=record,
        text_encoder=encoder,
        residence=settle(transformer, codec, plan, device),
        memory=plan,
    )


def _load_full_size(
    entry: CatalogEntry,
    sources: ModelSources,
    device: torch.device,
    dtype: torch.dtype | None,
    memory: int | None,
    sizes: RunSizes,
) -> SeqTexModel:
    """A model of the catalog, from its parts."""
    config = entry.model_config()
    kind = dtype or DTYPES[config.dtype]
    parts = find_parts(entry, sources, with_text=bool(sizes.texts))
    text = parts.text if sizes.texts and sources.text_embeddings is None else None
    plan = plan_for(config, kind, sizes, device=device, budget=memory, text=text)
    encoder = _load_text(config, sources, parts.text, plan, device, sizes.texts, default=None)
    transformer = load_transformer(entry, config, parts, seed=sources.random_seed, dtype=kind)
    codec = load_codec_part(entry, config, parts, spec=transformer.spec, dtype=torch.float32)
    return SeqTexModel(
        config=config,
        transformer=transformer.eval(),
        codec=codec,
        record=record_of(entry, config, parts, sources),
        text_encoder=encoder,
        residence=settle(transformer, codec, plan, device),
        memory=plan,
    )


def _load_text(
    config: ModelConfig,
    sources: ModelSources,
    folder: Path | None,
    plan: MemoryPlan | None,
    device: torch.device,
    texts: Sequence[str],
    *,
    default: str | None,
) -> TextEncoder | None:
    """What encodes prompts; ``texts`` are encoded now, before anything else is in memory.

    Small models keep their encoder; where memory is planned, it is there only while it works.
    """
    if folder is None and sources.text_embeddings is None:
        return None
    spec = empty_transformer(config).spec
    if plan is None and default is not None and folder is not None and not sources.text_embeddings:
        length = spec.text_length
        return load_text_encoder(
            folder, device=device, max_length=length, padding=config.text_padding
        )
    place = torch.device("cpu") if plan and plan.measures.text_on_cpu else device
    encoder = load_text_part(
        config, sources, folder, spec=spec, device=place, default_prompt=default
    )
    if isinstance(encoder, VisitingTextEncoder) and texts:
        encoder.encode(texts)
    return encoder


def load_codec(folder: Path, config: ModelConfig, *, device: torch.device | str = "cpu") -> Codec:
    """The codec of a model folder, with its weights if it has any.

    Args:
        folder: holds ``codec.safetensors`` if the codec is a network.
        config: of the model.
        device: where such a network goes.

    Raises:
        WeightsError: the weights are missing, or of another codec.
    """
    codec = codec_from_config(config.codec)
    if isinstance(codec, nn.Module):
        weights = folder / CODEC_WEIGHTS_NAME
        if not weights.is_file():
            raise WeightsError(
                f"codec of model {folder}",
                expected=f"the weights of {config.codec['codec']} in {CODEC_WEIGHTS_NAME}",
                got="no such file",
                remedy="Write them with seqtex_core.checkpoint.save_model(codec, path).",
            )
        checkpoint.load_model(codec, weights)
        codec.to(device)
    return codec


def build_transformer(config: ModelConfig, **options: Any) -> SeqTexTransformer:
    """The model's transformer with random weights drawn from the config's seed.

    The global random state is left as it was.

    Args:
        config: what to build.
        options: passed on to ``SeqTexTransformer``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SeqTexTransformer(
            entry_from_config(config.backbone).build(), config.decoupled, **options
        )
