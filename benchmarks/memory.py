"""``memory``: peak memory of every stage under every measure, against what the plan expects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from seqtex.models.catalog_configs import WAN2_1_T2V_1_3B
from seqtex.models.config import ModelConfig
from seqtex.models.fill import empty_transformer, fill_with_seed, tensor_bytes
from seqtex.models.memory import (
    BUDGETS,
    SLACK,
    Measures,
    MemoryPlan,
    Place,
    peaks,
    plan_memory,
)
from seqtex.models.memory_moves import Residence, release
from seqtex.models.memory_needs import codec_bytes, memory_needs, set_codec_mode
from seqtex.models.memory_use import settle
from seqtex.models.run_sizes import KnownSizes
from seqtex_backbones.codecs.protocol import Codec, codec_from_config
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import OutOfMemoryError
from seqtex_core.frame_plan import DEFAULT_STREAMS
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.tasks import TEXTURE, VIEWS
from seqtex_core.transformer import SeqTexTransformer, StepCache

from .observe import peak_of
from .result import Row, Scalar
from .runner import Session, describe

NOTHING = "nothing given up"
PROFILES: Mapping[str, Measures] = {
    NOTHING: Measures(),
    "geometry recast": Measures(recast_geometry=True),
    "VAE in exact tiles": Measures(codec_mode="exact_tiles"),
    "VAE in bfloat16": Measures(codec_mode="bfloat16"),
    "parts visit": Measures(offload=True),
    "blocks stream": Measures(offload=True, stream_blocks=True, recast_geometry=True),
}
"""By name what is given up to hold less, see ``seqtex.models.memory``."""

SMALL = ModelConfig(
    name="small",
    summary="a narrow Wan model with a narrow VAE",
    backbone={
        "name": "small",
        "architecture": "wan",
        "config": {
            "num_attention_heads": 2,
            "attention_head_dim": 64,
            "num_layers": 4,
            "ffn_dim": 768,
            "text_dim": 128,
            "text_length": 32,
        },
    },
    codec={**WAN2_1_T2V_1_3B.codec, "vae": {"base_dim": 16}},
    decoupled=DecoupledConfig(lora_rank=8, lora_alpha=4.0),
    view_size=128,
    uv_size=256,
)
FULL_SIZE = WAN2_1_T2V_1_3B
STAGES = ("Encode", "Denoise", "Decode")
RELEASED = KnownSizes(view_size=512, uv_size=1024)
SIZES = KnownSizes(view_size=128, uv_size=256)
TILED = KnownSizes(view_size=128, uv_size=640)
"""Tiles have 64 latent texels: a texture must be larger to be cut, and beside it stands one of the
same size that is not."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A model on the device, with what a stage needs.

    Args:
        transformer: the model.
        codec: its codec, in the profile's mode.
        measures: the profile.
        sizes: of the run.
        device: where it works.
        before: bytes allocated on the device before the model was there.
        residence: where its parts are.
    """

    transformer: SeqTexTransformer
    codec: Codec
    measures: Measures
    sizes: KnownSizes
    device: torch.device
    before: int
    residence: Residence

    @property
    def held(self) -> int:
        """Bytes of the model that are on the device between stages."""
        if self.device.type == "cuda":
            return _allocated(self.device) - self.before
        return tensor_bytes(self.transformer) + codec_bytes(self.codec)


def run(session: Session) -> list[Row]:
    """Measured rows by stage and profile; then the plans of the full-size model, counted."""
    rows = []
    for row in chain(_measured(session), _planned(session)):
        session.say(f"{describe(row)}{_summary(row)}")
        rows.append(row)
    cases = list(dict.fromkeys(row.case for row in rows))
    return sorted(rows, key=lambda row: cases.index(row.case))  # what can be compared is together


def stage_calls(parts: Parts) -> dict[str, Callable[[], object]]:
    """What the stages of a run do, by the names that memory plans have for them."""
    size = max(parts.sizes.uv_size, parts.sizes.view_size)
    codec, device = parts.codec, parts.device
    picture = torch.rand(1, 3, size, size)
    edge = size // codec.spatial_factor
    latents = torch.randn(1, codec.latent_channels, 1, edge, edge)

    @torch.no_grad()
    def encode() -> Tensor:
        return codec.encode(picture.to(device), generator=torch.Generator())

    @torch.no_grad()
    def decode() -> Tensor:
        return codec.decode(latents.to(device))

    return {"Encode": encode, "Denoise": partial(_denoise, parts), "Decode": decode}


def _denoise(parts: Parts) -> object:
    """Everything that is kept over the steps, and one step."""
    latents, sigmas, cache = _prepared(parts)
    with torch.no_grad():
        return parts.transformer(latents, sigmas, cache)


@torch.no_grad()
def _prepared(parts: Parts) -> tuple[dict[str, Tensor], dict[str, Tensor], StepCache]:
    model, sizes, device = parts.transformer, parts.sizes, parts.device
    factor = parts.codec.spatial_factor
    edges = {VIEWS: (sizes.num_views, sizes.view_size), TEXTURE: (1, sizes.uv_size)}
    frames = {n: (f, size // factor, size // factor) for n, (f, size) in edges.items()}
    channels = model.spec.latent_channels
    latents = {n: torch.zeros(1, channels, *size, device=device) for n, size in frames.items()}
    sigmas = {n: torch.full((1, size[0]), 0.5, device=device) for n, size in frames.items()}
    layout = model.layout(frames, {n: DEFAULT_STREAMS[n] for n in frames})
    maps = {n: GeometryLatents(position=x, normal=x) for n, x in latents.items()}
    cache = model.prepare(layout, geometry=maps, precompute=not parts.measures.recast_geometry)
    return latents, sigmas, cache


def cache_bytes(cache: object) -> int:
    """Bytes of all tensors in nested records, tuples and mappings, shared ones once.

    Args:
        cache: for example a ``StepCache``.
    """
    found: dict[int, int] = {}

    def visit(value: object) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            found[storage._cdata] = storage.nbytes()
        elif isinstance(value, Mapping):
            visit(tuple(value.values()))
        elif isinstance(value, tuple | list):
            for item in value:
                visit(item)
        elif is_dataclass(value):
            visit([getattr(value, field.name) for field in fields(value)])

    visit(cache)
    return sum(found.values())


@dataclass(frozen=True, kw_only=True)
class _Profile:
    """A measure at one size.

    Args:
        name: of the measure.
        measures: what it gives up.
        sizes: of the run.
        beside: of the other measure at this size: stages where the two hold as much are left out.
    """

    name: str
    measures: Measures
    sizes: KnownSizes
    beside: Measures | None


def _profiles(session: Session) -> Iterator[_Profile]:
    """All measures; on the CPU what is cut into tiles is larger, with and without cutting it."""
    nothing = Measures()
    for name, measures in PROFILES.items():
        tiled = measures.codec_mode == "exact_tiles" and not session.on_cuda
        sizes = RELEASED if session.on_cuda else TILED if tiled else SIZES
        if tiled:
            yield _Profile(name=NOTHING, measures=nothing, sizes=sizes, beside=measures)
        beside = None if measures == nothing else nothing
        yield _Profile(name=name, measures=measures, sizes=sizes, beside=beside)


def _measured(session: Session) -> Iterator[Row]:
    """All stages of the first profile, then for every other one the stages that it changes."""
    config, dtype = (FULL_SIZE, torch.bfloat16) if session.on_cuda else (SMALL, torch.float32)
    place: Place = "accelerator" if session.on_cuda else "cpu"
    empty = empty_transformer(config, dtype=dtype)
    for profile in _profiles(session):
        sizes, measures = profile.sizes, profile.measures
        row = Row(
            benchmark="memory",
            case="",
            implementation=profile.name,
            dtype=str(dtype).removeprefix("torch."),
            parameters=_parameters(config, sizes),
        )
        if measures.offload and not session.on_cuda:
            reason = "on the CPU everything is in one memory: moving parts would free nothing"
            refused = replace(row, status="unsupported", reason=reason)
            yield from (replace(refused, case=_case(stage, sizes)) for stage in STAGES)
            continue
        needs = memory_needs(empty, config, sizes)
        expected = peaks(needs, measures, place)
        other = {} if profile.beside is None else peaks(needs, profile.beside, place)
        plan = MemoryPlan(needs=needs, measures=measures, place=place)
        parts = _parts(config, dtype, plan, sizes, session)
        for stage in STAGES:
            if expected[stage] == other.get(stage):
                continue
            one = replace(row, case=_case(stage, sizes))
            try:
                one = _compared(one, parts, stage, expected[stage])
            except Exception as error:  # a stage that does not fit must not end the others
                one = one.failing(error)
            yield one
        del parts
        release(session.device)


def _case(stage: str, sizes: KnownSizes) -> str:
    return f"{stage}, UV {sizes.uv_size}"


def _parts(
    config: ModelConfig,
    dtype: torch.dtype,
    plan: MemoryPlan,
    sizes: KnownSizes,
    session: Session,
) -> Parts:
    before = _allocated(session.device)
    transformer = empty_transformer(config, dtype=dtype)
    fill_with_seed(transformer, session.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(session.seed)
        codec = codec_from_config(config.codec)
    residence = settle(transformer.eval().requires_grad_(False), codec, plan, session.device)
    set_codec_mode(codec, plan.measures.codec_mode)
    return Parts(
        transformer=transformer,
        codec=codec,
        residence=residence,
        measures=plan.measures,
        sizes=sizes,
        device=session.device,
        before=before,
    )


def _compared(row: Row, parts: Parts, stage: str, expected: int) -> Row:
    """The row with the measured peak; "wrong" if the plan would not have been enough."""
    part, call = "transformer" if stage == "Denoise" else "codec", stage_calls(parts)[stage]

    def staged() -> object:
        with parts.residence.using(part):
            return call()

    staged()  # what is allocated once and for all
    held = parts.held
    seen = peak_of(staged, parts.device)
    measured = held + seen.peak_bytes
    enough = measured <= SLACK * expected
    found = replace(
        row,
        status="ok" if enough else "wrong",
        reason=None if enough else f"{measured:.0f} bytes held, {expected} expected",
        memory=replace(seen, peak_bytes=measured, meaning=f"weights, and {seen.meaning}"),
        metrics={
            "expected_bytes": expected,
            "measured_over_expected": measured / expected,
            "weights_bytes": held,
            "working_bytes": seen.peak_bytes,
            "expected_working_bytes": expected - held,
        },
    )
    if stage != "Denoise":
        return found
    with parts.residence.using(part):
        return found.with_metrics(kept_bytes=cache_bytes(_prepared(parts)[2]))


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _planned(session: Session) -> Iterator[Row]:
    """What a run of the full-size model is expected to hold on a GPU, by budget."""
    config, dtype = FULL_SIZE, torch.bfloat16
    empty = empty_transformer(config, dtype=dtype)
    for uv_size in (1024,) if session.quick else (1024, 2048):
        sizes = replace(RELEASED, uv_size=uv_size)
        needs = memory_needs(empty, config, sizes)
        for budget in (None, *reversed(BUDGETS)):
            row = Row(
                benchmark="memory",
                case=f"plan, {config.name}, UV {uv_size}",
                implementation="no budget" if budget is None else f"{budget} GiB",
                dtype="bfloat16",
                parameters=_parameters(config, sizes),
                notes=("counted on the meta device; not measured",),
            )
            try:
                plan = plan_memory(needs, place="accelerator", budget=budget)
            except OutOfMemoryError as error:
                yield replace(row, status="unsupported", reason=str(error).splitlines()[0])
                continue
            yield replace(
                row,
                metrics={
                    "expected_bytes": max(plan.peaks.values()),
                    **{f"expected_bytes of {stage}": held for stage, held in plan.peaks.items()},
                },
                notes=(*row.notes, *plan.costs()),
            )


def _parameters(config: ModelConfig, sizes: KnownSizes) -> dict[str, Scalar]:
    return {
        "model": config.name,
        "view_size": sizes.view_size,
        "uv_size": sizes.uv_size,
        "views": sizes.num_views,
    }


def _summary(row: Row) -> str:
    if row.status in ("unsupported", "failed"):
        return ""
    m = row.metrics
    expected = float(m["expected_bytes"] or 0) / 2**20
    if row.memory is None:
        return f"{expected:10.0f} MiB expected"
    measured = row.memory.peak_bytes / 2**20
    return f"{measured:10.1f} MiB, {expected:.1f} expected"
