"""``train``: one training step of every backbone family, with and without checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from seqtex.models.fill import tensor_bytes
from seqtex.training.optimizer import OptimizerConfig, clip_gradients, make_optimizer
from seqtex.training.trainable import trained_parameters
from seqtex_backbones.entry_config import ARCHITECTURES
from seqtex_backbones.registry import BackboneEntry, load_backbone
from seqtex_core.attention import choose_attention
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.flow_matching import flow_matching_loss
from seqtex_core.frame_plan import DEFAULT_STREAMS, NoisySample
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.kernels.choose import KERNELS, KernelInputs, using_kernels
from seqtex_core.transformer import SeqTexTransformer

from .result import Row, Scalar, Work
from .runner import Candidate, Case, Session, run_cases
from .train_sizes import QUICK_SIZE, SMALL, WIDE, TrainSize, family_entry

OFF, ON = "checkpointing off", "checkpointing on"
COMPILED_BLOCKS = "compiled blocks"
FUSED, WIDE_FUSED = "fused backward", "fp32, fused backward"
"""What ``seqtex train`` runs on a GPU with ``precision = "bf16"`` and with ``"fp32"``."""
NARROW, NARROW_FUSED = "bf16 weights", "bf16 weights, fused backward"
OPTIMIZER = OptimizerConfig()


def run(session: Session) -> list[Row]:
    """Rows of all families; throughput and bytes of weights, gradients, moments as metrics."""
    rows = run_cases(_cases(session), session)
    return [one for case in _by_case(rows) for one in with_throughput(case)]


def training_model(
    entry: BackboneEntry, size: TrainSize, *, device: torch.device, seed: int
) -> SeqTexTransformer:
    """A doubled model as training holds it: frozen base with adapters, all in fp32.

    Args:
        entry: of the backbone.
        size: of the model.
        device: where it goes.
        seed: of the weights.
    """
    config = DecoupledConfig(lora_rank=size.lora_rank, lora_alpha=size.lora_rank / 2)
    model = SeqTexTransformer(load_backbone(entry, seed=seed, device=device), config).to(device)
    return model.train()


class TrainingStep:
    """Forward, backward, clipping and AdamW on one batch that exists already.

    The learning rate is 0, so that every call does the same work on the same weights.

    Args:
        model: what trains; its parameters may be sharded.
        size: of the batch.
        seed: of the batch.
        samples: those of the batch that this process takes.

    Attributes:
        objective: gives the loss; :meth:`loss` unless somebody wraps it.
    """

    def __init__(
        self,
        model: SeqTexTransformer,
        size: TrainSize,
        *,
        seed: int,
        samples: slice = slice(None),
    ) -> None:
        self.model, self.size, self.samples = model, size, samples
        self.objective: Callable[[], Tensor] = self.loss
        self.trained = trained_parameters(model)
        self.optimizer = make_optimizer(self.trained, OPTIMIZER)
        first = next(model.parameters())
        self.device, self.dtype = first.device, first.dtype
        self._draw(torch.Generator().manual_seed(seed))

    def __call__(self, *, checkpointing: bool, bf16: bool = False) -> dict[str, Tensor]:
        """The clipped gradients, by name; none are left behind.

        Args:
            checkpointing: blocks are computed again in the backward pass.
            bf16: with autocast to it.
        """
        self.model.gradient_checkpointing = checkpointing
        autocast = torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()
        with autocast:
            loss = self.objective()
        torch.autograd.backward(loss)
        clip_gradients(self.trained.values(), OPTIMIZER.clip_norm)
        self.optimizer.step()
        found = {n: p.grad for n, p in self.trained.items() if p.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)
        return found

    def loss(self) -> Tensor:
        """Flow-matching loss of the batch; positions, geometry and text are embedded anew."""
        sample, model = self.sample, self.model
        sizes = {n: (x.shape[2], x.shape[3], x.shape[4]) for n, x in sample.latents.items()}
        layout = model.layout(sizes, {n: DEFAULT_STREAMS[n] for n in sizes})
        cache = model.prepare(
            layout,
            geometry=self.geometry,
            text=self.text,
            pooled_text=self.pooled,
            batch_size=len(self.text),
        )
        velocity = model(sample.latents, sample.sigmas, cache)
        losses = flow_matching_loss(velocity, sample)
        return torch.stack(list(losses.groups.values())).sum()

    @property
    def moments(self) -> int:
        """Bytes of the optimizer's state."""
        states = self.optimizer.state.values()
        return sum(own_bytes(t) for state in states for t in state.values() if torch.is_tensor(t))

    def _draw(self, generator: torch.Generator) -> None:
        size, spec = self.size, self.model.spec
        frames, rows, columns = spec.patch_size
        sides = {"views": (size.views, size.view_tokens), "texture": (1, size.uv_tokens)}
        shapes = {
            name: (spec.latent_channels, count * frames, rows * side, columns * side)
            for name, (count, side) in sides.items()
        }

        def drawn(*shape: int) -> Tensor:
            values = torch.randn(*shape, generator=generator)
            return values[self.samples].to(device=self.device, dtype=self.dtype)

        def latents() -> dict[str, Tensor]:
            return {name: drawn(size.batch, *shape) for name, shape in shapes.items()}

        def levels(value: float) -> dict[str, Tensor]:
            batch = len(range(size.batch)[self.samples])
            counts = {name: (batch, shape[1]) for name, shape in shapes.items()}
            return {n: torch.full(shape, value, device=self.device) for n, shape in counts.items()}

        self.sample = NoisySample(
            latents=latents(),
            sigmas=levels(0.7),
            target=latents(),
            frame_weights=levels(1.0),
            trained_groups=tuple(shapes),
        )
        maps = latents(), latents()
        self.geometry = {n: GeometryLatents(position=maps[0][n], normal=maps[1][n]) for n in shapes}
        self.text = drawn(size.batch, size.num_text, spec.text_dim)
        self.pooled = None if spec.pooled_dim is None else drawn(size.batch, spec.pooled_dim)


def own_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor in this process; of a sharded one those of its shard."""
    local = getattr(tensor, "to_local", None)
    return tensor.nbytes if local is None else int(local().nbytes)


def step_flop(step: TrainingStep) -> int:
    """FLOP of the matrix products of a step without checkpointing, by FlopCounterMode.

    Attention counts as its products: two forward, four backward; a kernel that computes the scores
    again does more.

    Args:
        step: is run once, with attention spelled out.
    """
    model = step.model
    real, model.attend = model.attend, choose_attention("reference")
    model.gradient_checkpointing = False
    try:
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(step.loss())
    finally:
        model.attend = real
        step.optimizer.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def with_throughput(rows: Sequence[Row]) -> list[Row]:
    """Rows of a case with tokens per second, and what checkpointing costs and saves.

    Args:
        rows: of one case.
    """
    plain = next((r for r in rows if r.implementation == OFF), None)
    return [_with_throughput(row, plain) for row in rows]


def _with_throughput(row: Row, plain: Row | None) -> Row:
    if row.time is None or row.memory is None:
        return row
    seconds, peak, sizes = row.time.median_s, row.memory.peak_bytes, row.parameters
    batch = int(sizes["batch"] or 0)
    tokens = batch * (int(sizes["num_mv"] or 0) + int(sizes["num_uv"] or 0))
    held = sum(int(row.metrics[name] or 0) for name in ("weights_bytes", "moments_bytes"))
    found = row.with_metrics(
        samples_per_s=batch / seconds, tokens_per_s=tokens / seconds, total_bytes=held + peak
    )
    if plain is None or plain is row or plain.time is None or plain.memory is None:
        return found
    return found.with_metrics(
        time_over_plain=seconds / plain.time.median_s,
        peak_over_plain=peak / plain.memory.peak_bytes,
    )


def _cases(session: Session) -> Iterator[Case]:
    size = WIDE if session.on_cuda else QUICK_SIZE if session.quick else SMALL
    for family in ARCHITECTURES.names():
        yield _case(family, size, session)


def _case(family: str, size: TrainSize, session: Session) -> Case:
    entry = family_entry(family, size)
    bf16 = session.on_cuda
    case = Case(
        benchmark="train",
        name=f"{family}, {size.layers} x d={size.dim}, {size.num_tokens} tokens",
        dtype=torch.bfloat16 if bf16 else torch.float32,
        candidates=[],
        work=Work(),
        parameters={"family": family, **size.parameters()},
    )
    if entry is None:
        why = "this family has no sizes in benchmarks/train_sizes.py"
        return replace(case, candidates=[Candidate(name=n, reason=why) for n in (OFF, ON)])
    model = training_model(entry, size, device=session.device, seed=session.seed)
    step = TrainingStep(model, size, seed=session.seed)
    step(checkpointing=False)  # makes the optimizer's moments
    flop = step_flop(step)
    metrics = _held(step)

    def plain() -> dict[str, Tensor]:
        with using_kernels("plain"):
            return step(checkpointing=False, bf16=bf16)

    return replace(
        case,
        candidates=[
            Candidate(name=OFF, call=plain, metrics=metrics),
            Candidate(
                name=ON,
                call=lambda: step(checkpointing=True, bf16=bf16),
                metrics=metrics,
                notes=("on the kernels that the library chooses",),
            ),
            *fused(step, metrics),
            _compiled(step, session, metrics),
            *_narrow(step, session),
        ],
        work=Work(flop=float(flop), flop_formula="training_flop"),
        expected=lambda: _expected(step, session),
        reference="gradients of the same step in fp64",
        plain=OFF,
    )


def fused(step: TrainingStep, metrics: Mapping[str, Scalar]) -> Iterator[Candidate]:
    """The fused kernels in both precisions of the trainer.

    Args:
        step: on fp32 weights.
        metrics: of the rows.
    """
    for name, bf16, note in (
        (FUSED, True, "bf16 autocast on fp32 weights"),
        (WIDE_FUSED, False, "no autocast, all in fp32"),
    ):
        dtype = torch.bfloat16 if bf16 else torch.float32
        if reason := reason_unfused(step, dtype, autocast=bf16):
            yield Candidate(name=name, reason=reason)
            continue
        yield Candidate(
            name=name,
            call=partial(step, checkpointing=False, bf16=bf16),
            metrics=metrics,
            notes=(note, "on the kernels that the library chooses"),
        )


def reason_unfused(step: TrainingStep, dtype: torch.dtype, *, autocast: bool) -> str | None:
    """Why the fused kernels cannot train there, or ``None``.

    Args:
        step: whose device and heads count.
        dtype: of the rows.
        autocast: made so by autocast.
    """
    inputs = KernelInputs(
        operation="qk_prep",
        device=step.device,
        dtype=dtype,
        width=step.size.head_dim,
        needs_grad=True,
        autocast=autocast,
    )
    return KERNELS.get("triton").reason_unsupported(inputs)


def _narrow(step: TrainingStep, session: Session) -> Iterator[Candidate]:
    """Weights in bf16 instead of autocast: what the casts of every step cost."""
    if reason := reason_unfused(step, torch.bfloat16, autocast=False):
        yield from (Candidate(name=name, reason=reason) for name in (NARROW, NARROW_FUSED))
        return
    other = TrainingStep(copy.deepcopy(step.model).bfloat16(), step.size, seed=session.seed)
    other(checkpointing=False)  # makes the optimizer's moments

    def on(kernels: str) -> dict[str, Tensor]:
        with using_kernels(kernels):
            return other(checkpointing=False)

    for name, kernels in ((NARROW, "plain"), (NARROW_FUSED, "auto")):
        yield Candidate(
            name=name,
            call=partial(on, kernels),
            expected=lambda: _expected(other, session),
            metrics=_held(other),
            factor=4.0,
            notes=("no autocast; compared with the same bf16 weights in fp64",),
        )


def _compiled(step: TrainingStep, session: Session, metrics: Mapping[str, Scalar]) -> Candidate:
    if not session.on_cuda:
        return Candidate(name=COMPILED_BLOCKS, reason="measured on CUDA only: opt-in elsewhere")
    size, seed = step.size, session.seed
    other = TrainingStep(copy.deepcopy(step.model), size, seed=seed)
    other.model.compile_blocks()
    return Candidate(
        name=COMPILED_BLOCKS,
        call=lambda: other(checkpointing=False, bf16=True),
        metrics=metrics,
    )


def _expected(step: TrainingStep, session: Session) -> dict[str, Tensor]:
    wide = copy.deepcopy(step.model).double()
    wide.attend = choose_attention("sdpa")
    return TrainingStep(wide, step.size, seed=session.seed)(checkpointing=True)


def _held(step: TrainingStep) -> dict[str, Scalar]:
    trained = sum(p.nbytes for p in step.trained.values())
    return {
        "weights_bytes": tensor_bytes(step.model),
        "trained_bytes": trained,
        "gradients_bytes": trained,
        "moments_bytes": step.moments,
    }


def _by_case(rows: Sequence[Row]) -> list[list[Row]]:
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(row.case, []).append(row)
    return list(cases.values())
