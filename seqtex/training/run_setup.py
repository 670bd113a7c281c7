"""A run, set up from its config."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from seqtex_backbones.text import load_text_encoder
from seqtex_core.errors import UsageError
from seqtex_core.tasks import VIEWS
from seqtex_core.transformer import SeqTexTransformer

from ..models.config import ModelConfig
from ..models.load import DTYPES
from ..outputs import check_writable
from .batch import SOURCES, BatchSource, SourceContext
from .batches import BatchShape
from .build import first_transformer
from .caption_rows import CaptionRows, encoder_identity
from .config import TrainingConfig
from .ema import PowerAverage
from .encode import BatchEncoder
from .latent_cache import LatentCache, codec_identity
from .logs import Say
from .objective import FlowMatchingObjective
from .optimizer import make_optimizer
from .parallel import Parallel
from .run import Run
from .starting_point import StartingPoint, starting_point
from .state import TrainingState
from .task_mix import TaskMix
from .trainable import count_parts, fingerprint, frozen, report_parts, trained_parameters


def set_up_run(config: TrainingConfig, folder: Path, parallel: Parallel, *, say: Say) -> Run:
    """Build everything that a run needs and report what will train.

    Args:
        config: of the run.
        folder: of the run; made if it does not exist.
        parallel: how processes share the work.
        say: prints a line.

    Raises:
        UsageError, WeightsError: settings or weights that cannot be used, or no such folder can be.
    """
    check_writable(folder / "model")
    shape = BatchShape.of(config, rank=parallel.rank, world_size=parallel.world_size)
    point = starting_point(config)
    model = point.model
    _check_tokens(config, model)
    transformer = first_transformer(config, point).to(parallel.device)
    source = _source(config, model, parallel.device)
    views = source.preview(1).groups[VIEWS].images.shape[1]
    mixes = tuple(
        TaskMix(weights=s.tasks, num_views=views, views_given=s.views_given) for s in config.stages
    )
    for line in report_parts(count_parts(transformer)):
        say(line)
    codec = codec_identity(point.codec)
    untrained = f"{fingerprint(frozen(transformer))} {codec}"  # before it is sharded
    module = _module(config, model, transformer, mixes, parallel)
    parameters = trained_parameters(transformer)
    if parallel.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    return Run(
        folder=folder,
        config=config,
        model=model,
        parallel=parallel,
        source=source,
        encoder=_encoder(config, point, transformer, parallel.device, codec_name=codec),
        text_folder=point.text_folder,
        transformer=transformer,
        module=module,
        state=TrainingState(
            parameters=parameters,
            optimizer=make_optimizer(parameters, config.optimizer),
            average=PowerAverage(parameters, config.ema.sigma_rels),
        ),
        shape=shape,
        mixes=mixes,
        untrained=untrained,
    )


def _check_tokens(config: TrainingConfig, model: ModelConfig) -> None:
    if config.run.tokens and model.foreground != 0:
        raise UsageError(
            "[run] tokens",
            expected="none without [model.overrides] foreground = 0, foreground tokens alone",
            got=f"foreground {model.foreground}",
        )


def _source(config: TrainingConfig, model: ModelConfig, device: torch.device) -> BatchSource:
    context = SourceContext(
        seed=config.seed,
        view_size=model.view_size,
        uv_size=model.uv_size,
        supersample=model.supersample,
        device=device,
        folder=Path(config.folder),
    )
    return SOURCES.get(config.data.source)(config.data.options, context)


def _module(
    config: TrainingConfig,
    model: ModelConfig,
    transformer: SeqTexTransformer,
    mixes: Sequence[TaskMix],
    parallel: Parallel,
) -> nn.Module:
    """What the loop calls; sharding happens in place."""
    objective = FlowMatchingObjective(
        transformer,
        uv_weight=config.loss.uv_weight,
        foreground=model.foreground,
        relative_floor=config.loss.relative_floor,
    )
    # with a copy head, the uv branch's own head is not used, and the copy head by some tasks only
    copies = model.decoupled.copy is not None
    all_used = not copies and all(mix.always_trains_uv() for mix in mixes)
    return parallel.wrap(objective, all_used=all_used)


def _encoder(
    config: TrainingConfig,
    point: StartingPoint,
    transformer: SeqTexTransformer,
    device: torch.device,
    *,
    codec_name: str,
) -> BatchEncoder:
    codec, section = point.codec, config.data
    if isinstance(codec, nn.Module):
        codec.to(device)
    cache = None
    if section.cache_latents is not None:
        cache = LatentCache(config.path(section.cache_latents), codec_name)
    length = transformer.spec.text_length
    return BatchEncoder(
        codec,
        outside_weight=config.loss.outside_weight,
        cache=cache,
        text_encoder=_captions(config, point, length=length, device=device),
        caption_dropout=section.caption_dropout,
        tokens=config.run.tokens,
        seed=config.seed,
    )


def _captions(
    config: TrainingConfig, point: StartingPoint, *, length: int, device: torch.device
) -> CaptionRows | None:
    """Rows of captions, ``length`` of each; ``None`` for a model without a text encoder."""
    place, model, cached = point.text_folder, point.model, config.data.cache_latents
    if place is None:
        return None
    load = partial(
        load_text_encoder,
        place,
        device=device,
        dtype=DTYPES[model.dtype],
        max_length=length,
        padding=model.text_padding,
    )
    return CaptionRows(
        load,
        identity=f"{length} {model.text_padding}\n{encoder_identity(place)}",
        folder=None if cached is None else config.path(cached),
    )
