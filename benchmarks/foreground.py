"""``foreground``: a model call on the tokens that touch the surface, over the object's coverage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from seqtex_core.attention import AttentionInputs, choose_attention
from seqtex_core.frames import TokenLayout
from seqtex_core.packed_layout import AnyLayout, PackedLayout
from seqtex_core.transformer import SeqTexTransformer, StepCache

from .block import FULL_SIZE, QUICK_SIZE, SMALL
from .counting import CountedAttend, count
from .formulas import layer_flop, layer_work
from .layer import HALF
from .models import (
    FREQ_DIM,
    LATENT_CHANNELS,
    PATCH_TEXELS,
    ModelSize,
    Scene,
    build_model,
    build_scene,
    wide_copy,
)
from .result import Row, Scalar, Work
from .runner import Candidate, Case, Session, describe, run_cases, tensors

TYPICAL = {"views": 0.21, "texture": 0.63}
"""Share of the tokens that touch the surface, over eleven real objects in the released rig."""
CURVE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GOAL = 2.3
DENSE, SHIPPED = "all tokens", "tokens on the surface"
OF_TYPICAL = "21% of the views, 63% of the texture"
Shares = Mapping[str, float]


def run(session: Session) -> list[Row]:
    """The curve over coverage, a batch, one layer at full size, and the shipped model."""
    found = run_cases(chain(_cases(session), _full_layer(session)), session)
    if not session.on_cuda:  # a machine with a GPU needs no packages for meshes
        from .foreground_shipped import shipped_rows

        found += shipped_rows(session)
    rows = [_compared(rows) for rows in _grouped(found)]
    counted = _counted(session)
    for row in (row for case in rows for row in case if "speedup" in row.metrics):
        session.say(
            f"{describe(row)}  {row.metrics['speedup']:.2f}x, bound {row.metrics['bound']:.2f}x"
        )
    return [row for case in rows for row in case] + counted


def kept_tokens(layout: TokenLayout, shares: Shares, *, seed: int) -> dict[str, Tensor]:
    """Indices of a share of every group's tokens, in smooth patches; frames differ in number."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in layout.groups:
        grid = group.grid
        noise = torch.randn(grid.frames, 1, grid.height, grid.width, generator=generator)
        score = avg_pool2d(noise, 5, stride=1, padding=2).flatten()
        number = max(1, round(shares[group.name] * grid.num_tokens))
        keep[group.name] = score.topk(number).indices.sort().values
    return keep


def foreground_work(size: ModelSize, kept: Mapping[str, int], *, itemsize: int) -> Work:
    """Useful FLOP and least traffic of a step on some of the tokens: all are embedded."""
    layer = replace(size.layer, num_mv=kept["views"], num_uv=kept["texture"])
    layers = layer_work(layer, layers=size.layers, itemsize=itemsize)
    assert layers.flop is not None
    patch = 2 * LATENT_CHANNELS * PATCH_TEXELS * size.dim
    tokens = size.layer.num_mv + size.layer.num_uv + sum(kept.values())
    time = 2 * (size.views + 1) * (FREQ_DIM * size.dim + 7 * size.dim * size.dim)
    return replace(
        layers,
        flop=layers.flop + patch * tokens + time,
        flop_formula=f"{layers.flop_formula} of kept tokens, + fixed_step_flop",
    )


def _cases(session: Session) -> Iterator[Case]:
    if session.on_cuda:
        sizes = [replace(FULL_SIZE, layers=4 if session.quick else 30)]
    else:
        sizes = [QUICK_SIZE if session.quick else SMALL]
    dtypes = [torch.bfloat16] if session.on_cuda else [torch.float32]
    for size in sizes:
        for dtype in dtypes:
            yield _curve(size, dtype, session)
            yield _batch(replace(size, layers=1), dtype, session)


def _curve(size: ModelSize, dtype: torch.dtype, session: Session) -> Case:
    device, seed = session.device, session.seed
    model = build_model(size, device=device, dtype=dtype, seed=seed)
    scene = build_scene(size, model, device=device, dtype=dtype, seed=seed)
    expected = _in_fp64(model, scene)
    candidates = [
        Candidate(
            name=DENSE,
            call=_stepped(model, scene, scene.layout),
            expected=partial(expected, scene.layout),
        )
    ]
    points = CURVE[1::3] if session.quick else CURVE
    named = [("typical object", TYPICAL)]
    named += [(f"{share:.0%}", dict.fromkeys(TYPICAL, share)) for share in points]
    for name, shares in named:
        keep = kept_tokens(scene.layout, shares, seed=seed)
        layout = TokenLayout(groups=scene.layout.groups, keep=keep)
        counts = {group: len(index) for group, index in keep.items()}
        candidates.append(
            Candidate(
                name=name,
                call=_stepped(model, scene, layout),
                work=foreground_work(size, counts, itemsize=dtype.itemsize),
                expected=partial(expected, layout),
                metrics={f"share of {group}": share for group, share in shares.items()},
            )
        )
    every = {"views": size.layer.num_mv, "texture": size.layer.num_uv}
    return Case(
        benchmark="foreground",
        name=f"step, {size.layers} x d={size.dim}, {size.layer.num_mv}+{size.layer.num_uv}",
        dtype=dtype,
        candidates=candidates,
        work=foreground_work(size, every, itemsize=dtype.itemsize),
        parameters=size.parameters(),
        reference="the same tokens in fp64; equality with hidden tokens is tested elsewhere",
        plain=DENSE,
    )


def _full_layer(session: Session) -> Iterator[Case]:
    """One layer at full size, few calls: half a minute each on a CPU; on a GPU it is the curve."""
    if session.on_cuda:
        return
    size, dtype = HALF if session.quick else FULL_SIZE, torch.float32
    model = build_model(size, device=session.device, dtype=dtype, seed=session.seed)
    scene = build_scene(size, model, device=session.device, dtype=dtype, seed=session.seed)
    keep = kept_tokens(scene.layout, TYPICAL, seed=session.seed)
    layout = TokenLayout(groups=scene.layout.groups, keep=keep)
    every = {"views": size.layer.num_mv, "texture": size.layer.num_uv}
    counts = {group: len(index) for group, index in keep.items()}
    expected = _in_fp64(model, scene)
    yield Case(
        benchmark="foreground",
        name=f"layer, d={size.dim}, {size.layer.num_mv}+{size.layer.num_uv}",
        dtype=dtype,
        candidates=[
            Candidate(
                name=name,
                call=_stepped(model, scene, tokens),
                work=foreground_work(size, kept, itemsize=dtype.itemsize),
                expected=partial(expected, tokens),
            )
            for name, tokens, kept in (
                (DENSE, scene.layout, every),
                (OF_TYPICAL, layout, counts),
            )
        ],
        work=foreground_work(size, every, itemsize=dtype.itemsize),
        parameters=size.parameters(),
        reference="the same tokens in fp64",
        plain=DENSE,
        few=True,
    )


def finite(made: Tensor | Mapping[str, Tensor]) -> tuple[str | None, Mapping[str, Scalar]]:
    """A check of outputs that nothing is compared with."""
    finite = all(bool(torch.isfinite(x).all()) for x in tensors(made))
    return None if finite else "NaN or infinity in the output", {}


def _batch(size: ModelSize, dtype: torch.dtype, session: Session) -> Case:
    """Objects of different coverage: packed, one after the other, and with all tokens."""
    device, seed = session.device, session.seed
    model = build_model(size, device=device, dtype=dtype, seed=seed)
    one = build_scene(size, model, device=device, dtype=dtype, seed=seed)
    scales = (0.6, 0.9, 1.1, 1.4)
    shares = [{n: s * scale for n, s in TYPICAL.items()} for scale in scales]
    keeps = [kept_tokens(one.layout, s, seed=seed + i) for i, s in enumerate(shares)]
    samples = tuple(TokenLayout(groups=one.layout.groups, keep=keep) for keep in keeps)
    packed = PackedLayout(samples=samples)
    scene = _repeated(one, len(scales))
    alone = [_stepped(model, one, layout) for layout in samples]
    works = [
        foreground_work(size, {n: len(i) for n, i in keep.items()}, itemsize=dtype.itemsize)
        for keep in keeps
    ]
    every = {"views": size.layer.num_mv, "texture": size.layer.num_uv}
    dense = foreground_work(size, every, itemsize=dtype.itemsize)
    wide = wide_copy(model, attention=choose_attention("sdpa"))

    def joined(calls: Sequence[Callable[[], dict[str, Tensor]]]) -> dict[str, Tensor]:
        made = [call() for call in calls]
        return {name: torch.cat([part[name] for part in made]) for name in made[0]}

    def expected() -> dict[str, Tensor]:
        return joined([_stepped(wide, one.double(), layout) for layout in samples])

    together = _summed(works)
    return Case(
        benchmark="foreground",
        name=f"batch of {len(scales)}, 1 x d={size.dim}, {size.layer.num_mv}+{size.layer.num_uv}",
        dtype=dtype,
        candidates=[
            Candidate(
                name=DENSE,
                call=_stepped(model, scene, one.layout),
                expected=lambda: _stepped(wide, scene.double(), one.layout)(),
            ),
            Candidate(
                name="packed", call=_stepped(model, scene, packed), work=together, expected=expected
            ),
            _varlen(model, scene, packed, work=together, expected=expected),
            Candidate(
                name="one by one", call=lambda: joined(alone), work=together, expected=expected
            ),
        ],
        work=_summed([dense] * len(scales)),
        parameters=size.parameters(),
        reference="sample by sample in fp64",
        plain=DENSE,
    )


def _varlen(
    model: SeqTexTransformer,
    scene: Scene,
    packed: PackedLayout,
    *,
    work: Work,
    expected: Callable[[], object],
) -> Candidate:
    """The packed batch with PyTorch's own kernel for it, whatever the library chooses."""
    attend, weights = choose_attention("sdpa_varlen"), next(model.parameters())
    inputs = AttentionInputs(device=weights.device, dtype=weights.dtype, samples=packed.num_samples)
    name = "packed, sdpa_varlen"
    if reason := attend.reason_unsupported(inputs):
        return Candidate(name=name, reason=reason)
    step = _stepped(model, scene, packed)

    def call() -> dict[str, Tensor]:
        real, model.attend = model.attend, attend
        try:
            return step()
        finally:
            model.attend = real

    return Candidate(name=name, call=call, work=work, expected=expected)


def _stepped(
    model: SeqTexTransformer, scene: Scene, layout: AnyLayout
) -> Callable[[], dict[str, Tensor]]:
    """One model call on the tokens of a layout; what stays over the steps is made beforehand."""
    caches: list[StepCache] = []

    @torch.no_grad()
    def call() -> dict[str, Tensor]:
        if not caches:
            cache = model.prepare(layout, geometry=scene.geometry, text=scene.text, precompute=True)
            caches.append(cache)
        velocity: dict[str, Tensor] = model(scene.latents, scene.sigmas, caches[0])
        return velocity

    return call


def _in_fp64(model: SeqTexTransformer, scene: Scene) -> Callable[[AnyLayout], dict[str, Tensor]]:
    """Model calls in fp64, by layout; the wide weights are made when they are first needed."""
    wide: list[SeqTexTransformer] = []

    def call(layout: AnyLayout) -> dict[str, Tensor]:
        wide[:] = wide or [wide_copy(model, attention=choose_attention("sdpa"))]
        return _stepped(wide[0], scene.double(), layout)()

    return call


def _repeated(scene: Scene, count: int) -> Scene:
    """The scene several times as a batch."""

    def many(x: Tensor) -> Tensor:
        return x.expand(count, *x.shape[1:]).contiguous()

    return Scene(
        layout=scene.layout,
        latents={name: many(x) for name, x in scene.latents.items()},
        sigmas={name: many(x) for name, x in scene.sigmas.items()},
        geometry={name: maps.each(many) for name, maps in scene.geometry.items()},
        text=many(scene.text),
    )


def _summed(works: Sequence[Work]) -> Work:
    flop, moved = ([getattr(w, name) or 0.0 for w in works] for name in ("flop", "bytes"))
    return replace(works[0], flop=sum(flop), bytes=sum(moved))


def _grouped(rows: Sequence[Row]) -> list[list[Row]]:
    cases = dict.fromkeys((row.case, row.dtype) for row in rows)
    return [[row for row in rows if (row.case, row.dtype) == case] for case in cases]


def _compared(rows: list[Row]) -> list[Row]:
    """Rows of a case with their speed against all tokens (fastest calls) and its bound in FLOP."""
    dense = next(row for row in rows if row.implementation == DENSE)
    made = []
    for row in rows:
        if row is dense or row.time is None or dense.time is None or not row.work:
            made.append(row)
            continue
        assert row.work.flop is not None
        assert dense.work is not None
        assert dense.work.flop is not None
        speedup = dense.time.min_s / row.time.min_s
        bound = dense.work.flop / row.work.flop
        row = row.with_metrics(speedup=speedup, bound=bound, achieved_over_bound=speedup / bound)
        if row.implementation in ("typical object", OF_TYPICAL):
            row = row.with_metrics(speedup_goal=GOAL, speedup_goal_met=speedup >= GOAL)
        made.append(row)
    return made


def _counted(session: Session) -> list[Row]:
    """FLOP of one full-size layer with all tokens and with those of a typical object."""
    size = ModelSize()
    rows = []
    for name, shares in ((DENSE, None), ("typical object", TYPICAL)):
        flop = [_step_flop(replace(size, layers=layers), shares) for layers in (1, 2)]
        tokens = {"views": size.layer.num_mv, "texture": size.layer.num_uv}
        kept = {n: round((shares or {}).get(n, 1.0) * count) for n, count in tokens.items()}
        layer = replace(size.layer, num_mv=kept["views"], num_uv=kept["texture"])
        formula = sum(layer_flop(layer).values())
        equal = flop[1] - flop[0] == formula
        rows.append(
            Row(
                benchmark="foreground",
                case="one layer, full size, counted",
                implementation=name,
                status="ok" if equal else "wrong",
                reason=None if equal else f"formula {formula}, counted {flop[1] - flop[0]}",
                dtype="bfloat16",
                parameters=size.parameters()
                | {"layers": 1, "num_mv": layer.num_mv}
                | {"num_uv": layer.num_uv},
                work=layer_work(layer),
                metrics={"gflop": (flop[1] - flop[0]) / 1e9, "formula_gflop": formula / 1e9},
            )
        )
        session.say(f"{describe(rows[-1])}  {rows[-1].metrics['gflop']:.1f} GFLOP")
    return rows


def _step_flop(size: ModelSize, shares: Shares | None) -> int:
    meta = torch.device("meta")
    model = build_model(size, device=meta, dtype=torch.bfloat16, attention=CountedAttend())
    scene = build_scene(size, model, device=meta, dtype=torch.bfloat16)
    layout = scene.layout
    if shares is not None:
        keep = kept_tokens(layout, shares, seed=0)
        layout = TokenLayout(groups=layout.groups, keep=keep)
    step = _stepped(model, scene, layout)
    step()
    return count(step).total_flop
