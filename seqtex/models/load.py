"""Models by name or folder: config, weights, and what is said about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqtex_backbones.codecs.protocol import Codec, codec_from_config
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.text import TextEncoder, load_text_encoder
from seqtex_core import checkpoint
from seqtex_core.errors import UnsupportedError, WeightsError
from seqtex_core.transformer import SeqTexTransformer

from ..fusion import FUSION_NAME, load_fusion
from ..manifest import ModelRecord, file_sha256
from ..stages import OnProgress
from .approximations import check_fp8, use_fp8
from .catalog import CATALOG, CatalogEntry
from .config import CODEC_WEIGHTS_NAME, WEIGHTS_NAME, ModelConfig
from .fill import empty_transformer
from .folder import BUILT_IN, check_model, model_folder
from .full_size import (
    FullSizeParts,
    find_parts,
    load_codec_part,
    load_text_part,
    load_transformer,
    record_of,
)
from .memory import MemoryPlan, check_budget
from .memory_needs import codec_on_meta
from .memory_use import plan_for, settle
from .model import SeqTexModel as SeqTexModel
from .run_sizes import RunSizes, token_pixels
from .sources import ModelSources, missing_encoder
from .text import VisitingTextEncoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    sources: ModelSources | None = None,
    memory: int | None = None,
    sizes: RunSizes | None = None,
    on_progress: OnProgress | None = None,
    fp8: bool = False,
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
        on_progress: told about downloads. Optional.
        fp8: an approximation: the transformer's products in 8-bit floating point.

    Raises:
        WeightsError: nothing there, or weights that do not fit the config.
        UsageError: sources or sizes that do not suit the model, or no such memory budget.
        UnsupportedError: ``fp8`` on a device that cannot, or with blocks that move.
        OutOfMemoryError: a run of these sizes cannot be kept within ``memory``.
    """
    sources = sources or ModelSources()
    check_budget(memory)
    wanted = _Wanted(
        device=torch.device(device), dtype=dtype, memory=memory, sizes=sizes or RunSizes(), fp8=fp8
    )
    check_model(name_or_path, sources, wanted.sizes)
    if fp8:
        check_fp8(wanted.device)
    if str(name_or_path) in CATALOG:
        entry = CATALOG.get(str(name_or_path))
        parts = find_parts(
            entry, sources, with_text=bool(wanted.sizes.texts), on_progress=on_progress
        )
        return _load_full_size(entry, parts, sources, wanted)
    return _load_folder(str(name_or_path), sources, wanted)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """How a model is to be loaded; see :func:`load_model`."""

    device: torch.device
    dtype: torch.dtype | None
    memory: int | None
    sizes: RunSizes
    fp8: bool

    def kind(self, config: ModelConfig) -> torch.dtype:
        """Of the transformer's weights."""
        return self.dtype or DTYPES[config.dtype]

    def plan(self, config: ModelConfig, *, text: Path | None) -> MemoryPlan | None:
        """How a run holds its memory.

        Raises:
            UnsupportedError: 8-bit products, and blocks that move.
        """
        plan = plan_for(
            config,
            self.kind(config),
            self.sizes,
            device=self.device,
            budget=self.memory,
            text=text,
        )
        if self.fp8 and plan is not None and plan.measures.offload:
            raise UnsupportedError(
                "--fp8",
                expected="a model that stays on the device",
                got=f"memory for one whose parts come and go ({plan})",
                remedy="Leave --fp8 out, or use a larger --memory or smaller sizes.",
            )
        return plan


def _load_folder(name: str, sources: ModelSources, wanted: _Wanted) -> SeqTexModel:
    """A model with weights of its own."""
    folder = model_folder(name)
    config = ModelConfig.read(folder)
    edge = token_pixels(codec_on_meta(config.codec, "float32"), empty_transformer(config).spec)
    wanted.sizes.check(token_pixels=edge, uv_size=config.uv_size)
    kind = wanted.kind(config)
    own_text = None if config.text_encoder is None else folder / config.text_encoder
    text = Path(sources.text) if sources.text else own_text
    unread = sources.text_embeddings is not None
    plan = wanted.plan(config, text=None if unread else text)
    texts = wanted.sizes.texts or ("",)
    encoder = _load_text(config, sources, text, plan, wanted.device, texts, default="")
    fusion = None if config.fusion is None else load_fusion(folder, config.fusion)
    weights = folder / WEIGHTS_NAME
    if weights.is_file():
        transformer = empty_transformer(config, dtype=kind)
        checkpoint.load_model(transformer, weights)
        record = ModelRecord(name=config.name, sha256=_hash(folder, config))
    elif name in BUILT_IN:
        transformer = build_transformer(config).to(dtype=kind)
        digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode()).hexdigest()
        record = ModelRecord(name=config.name, sha256=digest, notes=("untrained",))
    else:
        raise WeightsError(
            f"model {folder}", expected=f"weights in {WEIGHTS_NAME}", got="no such file"
        )
    model = SeqTexModel(
        config=config,
        transformer=transformer.eval(),
        codec=load_codec(folder, config),
        record=record,
        text_encoder=encoder,
        memory=plan,
        fusion=fusion,
    )
    return _settled(model, wanted)


def _hash(folder: Path, config: ModelConfig) -> str:
    """Of the weights; with a fusion, of both files' hashes."""
    own = file_sha256(folder / WEIGHTS_NAME)
    if config.fusion is None:
        return own
    return hashlib.sha256((own + file_sha256(folder / FUSION_NAME)).encode()).hexdigest()


def _load_full_size(
    entry: CatalogEntry, parts: FullSizeParts, sources: ModelSources, wanted: _Wanted
) -> SeqTexModel:
    """A model of the catalog, from its parts."""
    config = entry.model_config()
    kind, texts = wanted.kind(config), wanted.sizes.texts
    text = parts.text if texts and sources.text_embeddings is None else None
    plan = wanted.plan(config, text=text)
    encoder = _load_text(config, sources, parts.text, plan, wanted.device, texts, default=None)
    if encoder is None and texts:
        raise missing_encoder(entry.name, texts[0], got=f"none in {sources.weights}")
    transformer = load_transformer(entry, config, parts, seed=sources.random_seed, dtype=kind)
    codec = load_codec_part(entry, config, parts, spec=transformer.spec, dtype=torch.float32)
    model = SeqTexModel(
        config=config,
        transformer=transformer.eval(),
        codec=codec,
        record=record_of(entry, config, parts, sources),
        text_encoder=encoder,
        memory=plan,
    )
    return _settled(model, wanted)


def _settled(model: SeqTexModel, wanted: _Wanted) -> SeqTexModel:
    """The model where it works, as it computes."""
    residence = settle(model.transformer, model.codec, model.memory, wanted.device)
    fp8 = use_fp8(model.transformer) if wanted.fp8 else 0
    return replace(model, residence=residence, fp8_layers=fp8)


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
