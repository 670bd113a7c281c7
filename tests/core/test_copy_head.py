"""The copy head: against loops in fp64, and what copying must never do."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from seqtex_core import copy_head
from seqtex_core.copy_head import (
    PATTERN,
    CopyConfig,
    CopyHead,
    CopyRows,
    area_shares,
    boxed,
    pattern,
)
from seqtex_core.errors import UsageError
from seqtex_geometry.pattern_coordinates import PatternPoints, pattern_features

DIM, CHANNELS = 16, 5


def make_head(heads: int = 3, *, seed: int = 0) -> CopyHead:
    """One whose every part does something."""
    torch.manual_seed(seed)
    head = CopyHead(DIM, CHANNELS, CopyConfig(heads=heads, content=4))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


def rows(count: int, seed: int) -> CopyRows:
    draw = torch.Generator().manual_seed(seed)
    place = torch.rand(count, 3, generator=draw) * 2 - 1
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
    return CopyRows(
        hidden=torch.randn(count, DIM, generator=draw),
        points=torch.cat([place, normal], dim=1),
        latents=torch.randn(count, CHANNELS, generator=draw),
    )


def by_loops(head: CopyHead, target: CopyRows, source: CopyRows) -> Tensor:
    """The definition, query by query and head by head, in fp64."""
    head = head.double()
    asked, known = (CopyRows(*(t.double() for t in r)) for r in (target, source))
    features = {id(r): pattern(r.points) for r in (asked, known)}
    hidden = {id(r): head.norm(r.hidden) for r in (asked, known)}
    summary = torch.cat([hidden[id(known)].mean(0), hidden[id(known)].std(0, unbiased=False)])
    log = head.log_scale + head.rescale(summary).view(head.heads, PATTERN)
    scale = log.clamp(-5, 4).exp()

    def logits(h: int, rows: CopyRows, row: int) -> Tensor:
        ask = head.query(hidden[id(rows)][row]).view(head.heads, -1)[h]
        keys = head.key(hidden[id(known)]).view(-1, head.heads, head.content)[:, h]
        apart = (features[id(rows)][row] - features[id(known)]) * scale[h]
        return keys @ ask - apart.square().sum(1)

    errors = []
    count = len(known.hidden)
    judged = torch.linspace(0, count - 1, min(64, count)).long().tolist()
    variance = known.latents.var(0, unbiased=False).mean() + 1e-4
    for h in range(head.heads):
        total = []
        for row in judged:
            near = (known.points[:, :3] - known.points[row, :3]).norm(dim=1) < 0.3
            weight = logits(h, known, row).masked_fill(near, -1e4).softmax(0)
            total.append((weight @ known.latents - known.latents[row]).square().mean())
        errors.append((torch.stack(total).mean() / variance).clamp(max=4) + 0.01)
    made = []
    for row in range(len(asked.hidden)):
        changes, by_head = [], []
        for h in range(head.heads):
            logit = logits(h, asked, row)
            weight = logit.softmax(0)
            copied = weight @ known.latents
            spread = (weight @ known.latents.square() - copied.square()).clamp(min=0).mean()
            away = (features[id(asked)][row] - weight @ features[id(known)]).abs()
            mass = logit.logsumexp(0).clamp(min=-30) / 4
            changes.append(copied - asked.latents[row])
            evidence = [(spread + 1e-4).sqrt(), away[:3].sum(), away[-3:].sum(), mass]
            by_head.append(torch.cat([changes[h], torch.stack([*evidence, errors[h].log()])]))
        own = [hidden[id(asked)][row], asked.latents[row], features[id(asked)][row]]
        share = head.gate(torch.cat([*own, *by_head])).softmax(0)
        made.append(sum(share[h] * changes[h] for h in range(head.heads)))
    return torch.stack(made)


def test_equals_its_definition() -> None:
    head, target, source = make_head(), rows(7, 1), rows(90, 2)
    got = head(target, source)
    expected = by_loops(head, target, source)
    # logits are differences of squares up to 1e3 in fp32: 1e3 * 2^-24 = 6e-5 in a weight's exponent
    assert float(((got - expected).norm() / expected.norm()).detach()) < 2e-4


def test_a_share_of_two_is_as_two_tokens() -> None:
    head, target, source = make_head(), rows(7, 1), rows(20, 2)
    share = torch.randint(1, 4, (20,), generator=torch.Generator().manual_seed(0))
    repeated = CopyRows(*(t.repeat_interleave(share, dim=0) for t in source))
    assert len(repeated.hidden) <= 64, "all are judged"
    once, often = head(target, source, share=share.float()), head(target, repeated)
    # as in the test above
    assert float(((once - often).norm() / often.norm()).detach()) < 2e-4
    assert float(((head(target, source) - often).norm() / often.norm()).detach()) > 2e-2
    with pytest.raises(UsageError, match="share"):
        head(target, source, share=share[:5].float())


def test_shares_are_areas() -> None:
    """A grid at two densities; the smaller cells are the typical ones."""
    axes = torch.arange(20.0), torch.arange(40.0) / 2
    coarse = torch.cartesian_prod(axes[0], axes[0], torch.zeros(1))
    fine = torch.cartesian_prod(axes[1] + 100, axes[1], torch.zeros(1))
    surface = torch.cat([coarse, fine])
    inner = coarse[((coarse[:, :2] > 1) & (coarse[:, :2] < 18)).all(1)]
    # cdist takes squares apart above 25 rows: differences of numbers up to 1e4 in fp32
    torch.testing.assert_close(
        area_shares(inner, surface), torch.full((len(inner),), 4.0), rtol=2e-2, atol=0
    )
    assert area_shares(inner[:0], surface).shape == (0,)
    assert area_shares(inner[:1], inner[:1]).tolist() == [1.0]


def learned(
    head: CopyHead, target: CopyRows, source: CopyRows, *, exact: bool = False, bf16: bool = False
) -> Any:
    """What is made and its gradients, by weight and by part of the rows."""
    head = copy.deepcopy(head)
    inputs = [CopyRows(*(t.clone().requires_grad_() for t in r)) for r in (target, source)]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        made = by_loops(head, *inputs) if exact else head(*inputs)
    direction = torch.randn(made.shape, generator=torch.Generator().manual_seed(7))
    (made * direction).sum().backward()
    gradients = {n: p.grad for n, p in head.named_parameters()}
    for name, part in zip(("target", "source"), inputs, strict=True):
        gradients |= {f"{name}.{field}": t.grad for field, t in part._asdict().items()}
    return {"made": made.detach(), **gradients}


def test_rows_in_chunks_make_and_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    head, target, source = make_head(), rows(22, 3), rows(30, 4)
    whole = learned(head, target, source)
    monkeypatch.setattr(copy_head, "_CHUNK", 8)  # 8, 8 and 6 rows
    chunks = learned(head, target, source, bf16=True)  # both passes stay in fp32
    with torch.no_grad():
        assert torch.equal(head(target, source), chunks["made"])
    exact = learned(head, target, source, exact=True)
    for name, value in exact.items():
        # 6e-5 in a weight's exponent, as above; twice that in its slope
        size = float(value.norm())
        far, allowed = (float((x[name] - value).norm()) / size for x in (chunks, whole))
        assert size > 0, name
        assert allowed < 1.2e-4, name
        assert far < 2 * allowed + 1e-6, name  # the same roundings, in sums of another order


def held(head: CopyHead, target: CopyRows, source: CopyRows) -> int:
    """Bytes of all tensors that wait for the backward pass."""
    waiting: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        waiting[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        made = head(target, source)
    assert made.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in waiting.values())


def test_rows_of_further_chunks_hold_no_memory_per_known_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, rises = make_head(), {}
    for chunk in (32, 10_000):
        monkeypatch.setattr(copy_head, "_CHUNK", chunk)
        for known in (50, 450):
            few, many = (held(head, rows(n, 3), rows(known, 4)) for n in (64, 192))
            rises[chunk, known] = (many - few) / (192 - 64)
    assert rises[32, 450] == rises[32, 50]
    # all rows at once hold products and weights at least: two fp32 numbers per head and known point
    assert rises[10_000, 450] - rises[10_000, 50] >= 2 * 4 * head.heads * 400


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), known=st.integers(1, 40))
def test_what_is_made_lies_between_what_was_there(seed: int, known: int) -> None:
    target, source = rows(6, seed), rows(known, seed + 1)
    made = target.latents + make_head(seed=seed)(target, source)
    low = torch.minimum(source.latents.amin(0), target.latents)
    high = torch.maximum(source.latents.amax(0), target.latents)
    assert bool(((made >= low - 1e-4) & (made <= high + 1e-4)).all())


def test_the_order_of_known_tokens_is_nothing() -> None:
    head, target, source = make_head(), rows(5, 5), rows(40, 6)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = CopyRows(*(t[order] for t in source))
    torch.testing.assert_close(head(target, shuffled), head(target, source), rtol=1e-4, atol=1e-5)


def test_a_head_that_looks_at_heights_copies_from_the_same_height() -> None:
    head = CopyHead(DIM, CHANNELS, CopyConfig(heads=1))
    with torch.no_grad():
        head.log_scale.fill_(-5.0)
        head.log_scale[0, 2] = 4.0
        head.gate[2].bias.copy_(torch.tensor([50.0, 0.0]))
    source = rows(60, 7)
    source.points[:, 2] = torch.linspace(-1, 1, 60)
    target = rows(4, 8)
    target.points[:, 2] = source.points[[3, 20, 33, 59], 2]
    expected = source.latents[[3, 20, 33, 59]]
    # the next height is 2/59 away: its weight is exp(-(54.6 * 0.034)^2) = 3% of the nearest's
    made = head(target, source).detach()
    assert float((target.latents + made - expected).abs().max()) < 0.3
    assert float(made.abs().max()) > 0.5


def test_an_untrained_head_keeps_most_of_the_base() -> None:
    head = CopyHead(DIM, CHANNELS, CopyConfig(heads=2))
    target, source = rows(9, 9), rows(30, 10)
    kept = math.exp(2) / (math.exp(2) + 2)
    largest = (source.latents.amax() - target.latents.amin()).abs()
    assert float(head(target, source).detach().abs().max()) <= (1 - kept) * float(largest) + 1e-5


@pytest.mark.parametrize(("targets", "sources"), [(0, 5), (5, 0)])
def test_nothing_to_copy_or_nowhere(targets: int, sources: int) -> None:
    head = make_head()
    made = head(rows(targets, 1), rows(sources, 2))
    assert made.shape == (targets, CHANNELS)
    assert not bool(made.any())
    made.sum().backward()
    assert all(p.grad is not None for p in head.parameters())  # processes wait for all of them


def test_every_weight_learns() -> None:
    head = make_head()
    head(rows(8, 1), rows(80, 2)).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in head.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in head.parameters())


def test_half_precision_rows_cost_their_own_rounding_only() -> None:
    head, target, source = make_head(), rows(8, 1), rows(80, 2)
    exact = head(target, source)
    rounded = [CopyRows(r.hidden.bfloat16(), r.points, r.latents) for r in (target, source)]
    with torch.autocast("cpu", torch.bfloat16):
        got = head(*rounded)
    assert got.dtype == torch.float32
    # 2^-9 in normalised rows, times sums over the gate's 60 inputs of weights of 0.3
    assert float(((got - exact).norm() / exact.norm()).detach()) < 0.03


def test_boxed_points_fill_the_unit_box() -> None:
    points = rows(50, 11).points * torch.tensor([3.0, 1.0, 2.0, 1, 1, 1]) + torch.tensor(
        [5.0, -2.0, 1.0, 0, 0, 0]
    )
    present = torch.arange(50) < 40
    place = boxed(points, present)[present, :3]
    centre = (place.amax(0) + place.amin(0)) / 2
    torch.testing.assert_close(centre, torch.zeros(3), rtol=0, atol=1e-5)
    assert float(place.abs().amax()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(boxed(points, present)[:, 3:], points[:, 3:], rtol=0, atol=0)
    assert torch.equal(boxed(points, torch.zeros(50).bool()), points)


def test_the_pattern_is_that_of_the_geometry_package() -> None:
    points = rows(30, 12).points
    place, normal = points.numpy()[:, :3], points.numpy()[:, 3:]
    same = PatternPoints(position=place, normal=normal, facing=normal[0])
    torch.testing.assert_close(pattern(points), torch.from_numpy(pattern_features(same)))


@pytest.mark.parametrize("options", [{"heads": 0}, {"content": 0}, {"source": "texture"}])
def test_settings_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options)).replace("source", "two groups")):
        CopyConfig(**options)


@pytest.mark.parametrize("part", ["hidden", "points", "latents"])
def test_rows_of_other_widths_and_lengths_are_refused(part: str) -> None:
    head, source = make_head(), rows(5, 1)
    wide = getattr(source, part)
    for wrong in (wide[:, 1:], wide[1:]):
        with pytest.raises(UsageError, match="target"):
            head(source._replace(**{part: wrong}), source)
