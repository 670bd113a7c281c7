"""``block``: stacks of MUV blocks against the released bookkeeping and diffusers' own block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from seqtex_core.attention import Attend, AttentionInputs, choose_attention
from seqtex_core.frames import Stream
from seqtex_core.muv_block import BranchInputs, BranchTimes, Hidden
from seqtex_core.transformer import SeqTexTransformer, StepCache

from .formulas import LayerOptions, layer_work, unified_layer_flop
from .models import ModelSize, Scene, build_model, build_scene, wide_copy
from .released import ReleasedModel, released_block
from .result import Row, Work
from .runner import Candidate, Case, Session, run_cases

SMALL = ModelSize(
    heads=3, layers=2, ffn_dim=2240, view_tokens=16, uv_tokens=32, num_text=128, lora_rank=32
)
"""The reduced shape that CPU goals are stated for: width 384, 2 layers, 1024 + 1024 tokens."""
WIDE = ModelSize(heads=12, layers=1, view_tokens=16, uv_tokens=32, num_text=512)
FULL_SIZE = ModelSize()
QUICK_SIZE = ModelSize(
    heads=3, layers=2, ffn_dim=2240, view_tokens=8, uv_tokens=16, num_text=64, lora_rank=32
)
ROUNDS = 25
"""Timed calls of each at the reduced shape: a busy machine leaves some of them alone."""
CHUNKED_FACTOR = 4.0
"""Accepted error of chunked attention over that of the released bookkeeping."""


def run(session: Session) -> list[Row]:
    """Rows of all sizes and dtypes."""
    return run_cases(_cases(session), session)


def _cases(session: Session) -> Iterator[Case]:
    if session.quick:
        sizes = [FULL_SIZE] if session.on_cuda else [QUICK_SIZE]
    else:
        sizes = [FULL_SIZE] if session.on_cuda else [SMALL, WIDE]
    dtypes = [torch.bfloat16] if session.on_cuda else [torch.float32, torch.bfloat16]
    for size in sizes:
        for dtype in dtypes:
            yield _case(size, dtype, session)


def _case(size: ModelSize, dtype: torch.dtype, session: Session) -> Case:
    """All with geometry before RoPE and keys of raw mv rows, so that all compute the same."""
    device = session.device
    unmerged = build_model(
        size, device=device, dtype=dtype, seed=session.seed, merged=False, released=True
    )
    merged = build_model(size, device=device, dtype=dtype, seed=session.seed, released=True)
    scene = build_scene(size, unmerged, device=device, dtype=dtype, seed=session.seed)
    layer = size.layer
    candidates = [
        Candidate(name="seqtex", call=_stack(merged, scene, precompute=True)),
        Candidate(
            name="seqtex, nothing cached",
            call=_stack(unmerged, scene, precompute=False),
            notes=("adapters unmerged, geometry and text projected in every block",),
        ),
        Candidate(name="released bookkeeping", call=_released_stack(unmerged, scene)),
        _chunked(merged, scene, device),
        Candidate(
            name="seqtex, views only",
            call=_stack(merged, scene, precompute=True, with_uv=False),
            work=layer_work(
                layer, LayerOptions(with_uv=False), layers=size.layers, itemsize=dtype.itemsize
            ),
            expected=lambda: _expected(unmerged, scene, with_uv=False),
        ),
        _diffusers(size, dtype, session),
    ]
    return Case(
        benchmark="block",
        name=f"{size.layers} x d={layer.dim}, {layer.num_mv}+{layer.num_uv}",
        dtype=dtype,
        candidates=candidates,
        work=layer_work(layer, layers=size.layers, itemsize=dtype.itemsize),
        parameters=size.parameters(),
        expected=lambda: _expected(unmerged, scene),
        reference="the same weights in fp64, adapters unmerged",
        plain="released bookkeeping",
        rounds=ROUNDS if size == SMALL else 0,
    )


def _stack(
    model: SeqTexTransformer,
    scene: Scene,
    *,
    precompute: bool,
    with_uv: bool = True,
    attend: Attend | None = None,
) -> Callable[[], tuple[Tensor, ...]]:
    """All blocks in order, on tokens and times that exist already."""
    attention = attend or model.attend
    cache = scene.prepare(model, precompute=precompute)
    with torch.no_grad():
        tokens, times = _embedded(model, scene, with_uv=with_uv)
    inputs: Mapping[Stream, BranchInputs] = {
        s: b for s, b in cache.branches.items() if with_uv or s == "mv"
    }

    @torch.no_grad()
    def call() -> tuple[Tensor, ...]:
        hidden = Hidden(mv=tokens["mv"], uv=tokens.get("uv"))
        for index, block in enumerate(model.muv_blocks()):
            hidden = block(hidden, inputs, times, _block_cache(cache, index), attention)
        return (hidden.mv,) if hidden.uv is None else (hidden.mv, hidden.uv)

    return call


def _chunked(model: SeqTexTransformer, scene: Scene, device: torch.device) -> Candidate:
    """The library's blocks with attention that rounds logits to the dtype of its inputs."""
    name, attend = "seqtex, chunked attention", choose_attention("chunked")
    reason = attend.reason_unsupported(AttentionInputs(device=device))
    if reason is not None:
        return Candidate(name=name, reason=reason)
    return Candidate(
        name=name,
        call=_stack(model, scene, precompute=True, attend=attend),
        factor=CHUNKED_FACTOR,
        notes=("an approximation in 16 bits, only by its name; the exact form is 'seqtex'",),
    )


def _block_cache(cache: StepCache, index: int) -> Any:
    return cache.blocks[index] if cache.blocks else None


def _embedded(
    model: SeqTexTransformer, scene: Scene, *, with_uv: bool
) -> tuple[dict[str, Tensor], BranchTimes]:
    """Tokens by stream, and embedded noise levels, as the transformer's forward makes them."""
    names: dict[str, str] = {"mv": "views"} | ({"uv": "texture"} if with_uv else {})
    shells: Any = model.shells
    tokens = {s: shells[s].embed(scene.latents[n], scene.sigmas[n]) for s, n in names.items()}
    mv = shells["mv"].encode_time(scene.sigmas["views"])
    if not with_uv:
        return tokens, BranchTimes(mv=mv)
    uv = shells["uv"].encode_time(scene.sigmas["texture"])
    return tokens, BranchTimes(mv=mv, uv=uv, mv_as_keys=mv)


def _released_stack(model: SeqTexTransformer, scene: Scene) -> Callable[[], tuple[Tensor, Tensor]]:
    released = ReleasedModel(model, choose_attention())
    with torch.no_grad():
        first_mv, first_uv, geometry, text = released.block_inputs(scene)

    @torch.no_grad()
    def call() -> tuple[Tensor, Tensor]:
        mv, uv = first_mv, first_uv
        for block in model.muv_blocks():
            x_mv, x_uv = released_block(block, mv, uv, geometry, text, released.attend)
            mv, uv = mv._replace(x=x_mv), uv._replace(x=x_uv)
        return mv.x, uv.x

    return call


def _expected(
    model: SeqTexTransformer, scene: Scene, *, with_uv: bool = True
) -> tuple[Tensor, ...]:
    """The stack in fp64 on the tokens that the model itself sees."""
    wide = wide_copy(model, attention=choose_attention("sdpa"))
    return _stack(wide, scene.double(), precompute=False, with_uv=with_uv)()


def _diffusers(size: ModelSize, dtype: torch.dtype, session: Session) -> Candidate:
    """The block of diffusers over all tokens as one sequence: one branch, full attention."""
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    layer = size.layer
    tokens = layer.num_mv + layer.num_uv
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(session.seed)
        blocks = [
            WanTransformerBlock(
                layer.dim, layer.ffn_dim, size.heads, "rms_norm_across_heads", True, 1e-6
            )
            .to(device=session.device, dtype=dtype)
            .eval()
            for _ in range(size.layers)
        ]
    generator = session.generator()

    def drawn(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return session.randn(*shape, dtype=kind, generator=generator)

    x, text = drawn(1, tokens, layer.dim), drawn(1, layer.num_text, layer.dim)
    time = drawn(1, 6, layer.dim)
    angles = drawn(1, tokens, 1, layer.dim // size.heads, kind=torch.float32)
    rotary = (angles.cos(), angles.sin())

    def through(stack: list[Any], x: Tensor, text: Tensor, time: Tensor) -> Tensor:
        with torch.no_grad():
            for block in stack:
                x = block(x, text, time, rotary)
        return x

    def expected() -> Tensor:
        import copy

        wide = [copy.deepcopy(block).double() for block in blocks]
        return through(wide, x.double(), text.double(), time.double())

    return Candidate(
        name="diffusers, one branch",
        call=lambda: through(blocks, x, text, time),
        work=Work(
            flop=float(size.layers * unified_layer_flop(layer)),
            flop_formula=f"unified_layer_flop, {size.layers} layers",
        ),
        expected=expected,
        factor=4.0,
        notes=(
            "another function: full attention over all tokens, one set of weights, one noise "
            "level; its own fp64 copy is the reference",
        ),
    )
