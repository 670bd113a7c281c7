"""Samples that keep different tokens, packed: rows, attention, gradients, refusals."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqtex_backbones.registry import load_backbone
from seqtex_core.attention import (
    ATTENTION,
    Attend,
    SdpaAttend,
    attention_reference,
    choose_attention,
)
from seqtex_core.attention.packed import attend_packed
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UnsupportedError, UsageError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.modulation import by_frame, by_row
from seqtex_core.packed_layout import PackedLayout
from seqtex_core.stream_attention import join_rows, split_rows
from seqtex_core.text_rows import text_layout, text_sigma
from seqtex_core.transformer import SeqTexTransformer

GRIDS = {"views": (2, 2, 3), "more": (1, 2, 2), "texture": (1, 3, 3)}
GROUPS = tuple(
    FrameGroup(
        name=name,
        stream="uv" if name == "texture" else "mv",
        grid=Grid(frames=size[0], height=size[1], width=size[2]),
    )
    for name, size in GRIDS.items()
)
SIZES = {"views": (2, 4, 6), "texture": (1, 8, 8)}
STREAMS: dict[str, Any] = {"views": "mv", "texture": "uv"}


@st.composite
def packed_layouts(draw: st.DrawFn) -> PackedLayout:
    """Up to three samples, every group with at least one token."""
    samples = []
    for _ in range(draw(st.integers(1, 3))):
        keep = {}
        for group in GROUPS:
            if draw(st.booleans()):
                kept = draw(st.sets(st.integers(0, group.grid.num_tokens - 1), min_size=1))
                keep[group.name] = torch.tensor(sorted(kept))
        samples.append(TokenLayout(groups=GROUPS, keep=keep))
    return PackedLayout(samples=tuple(samples))


def full_tokens(layout: PackedLayout) -> dict[str, Tensor]:
    """Every token of every sample with a number of its own."""
    count = layout.num_samples
    tokens, start = {}, 1.0
    for group in GROUPS:
        size = count * group.grid.num_tokens
        tokens[group.name] = torch.arange(start, start + size).view(count, -1, 1)
        start += size
    return tokens


@given(packed_layouts())
def test_rows_are_those_of_the_samples_one_after_the_other(layout: PackedLayout) -> None:
    tokens = full_tokens(layout)
    for stream, rows in layout.streams.items():
        parts = [
            sample.pack_stream(stream, {n: t[i : i + 1] for n, t in tokens.items()})
            for i, sample in enumerate(layout.samples)
        ]
        packed = layout.pack_stream(stream, tokens)
        assert torch.equal(packed, torch.cat(parts, dim=1))
        assert rows.sample_lengths == tuple(part.shape[1] for part in parts)
        assert sum(rows.frame_lengths) == rows.num_tokens == packed.shape[1]
        back = layout.unpack_stream(stream, packed)
        for name, full in back.items():
            for i, sample in enumerate(layout.samples):
                want = torch.zeros_like(full[i])
                kept = sample.keep.get(name, torch.arange(len(want)))
                want[kept] = tokens[name][i, kept]
                assert torch.equal(full[i], want)


@given(packed_layouts())
def test_joined_rows_come_apart_again(layout: PackedLayout) -> None:
    """Packed streams and a batch of text: sample by sample, text first."""
    count = layout.num_samples
    text = torch.randn(count, 2, 1)
    tokens = full_tokens(layout)
    mv, uv = (layout.pack_stream(s, tokens) for s in ("mv", "uv"))
    kinds = [text_layout(2), layout.streams["mv"], layout.streams["uv"]]
    joined = join_rows(list(zip(kinds, (text, mv, uv), strict=True)))
    lengths = [layout.streams[s].sample_lengths for s in ("mv", "uv")]
    first = [text[:1], mv[:, : lengths[0][0]], uv[:, : lengths[1][0]]]
    assert torch.equal(joined[:, : sum(p.shape[1] for p in first)], torch.cat(first, dim=1))
    for part, want in zip(split_rows(joined, kinds), (text, mv, uv), strict=True):
        assert torch.equal(part, want)


@given(packed_layouts())
def test_values_of_frames_reach_their_rows_either_way(layout: PackedLayout) -> None:
    rows = layout.streams["mv"]
    x, value = torch.randn(1, rows.num_tokens, 4), torch.randn(1, rows.num_frames, 4)
    product = torch.mul
    assert torch.equal(by_row(product, rows, x, value), by_frame(product, rows, x, value))


def test_a_frame_without_a_token_does_not_set_the_level_of_its_samples_text() -> None:
    keep = {"views": [torch.tensor([0, 1]), torch.tensor([7])], "more": [torch.tensor([0])] * 2}
    rows = PackedLayout.of(TokenLayout.of(GROUPS), keep).streams["mv"]
    sigma = torch.tensor([[0.2, 0.9, 0.1], [0.8, 0.3, 0.4]])
    assert torch.equal(text_sigma(sigma, rows), torch.tensor([[0.2], [0.4]]))


def packed_qkv() -> tuple[list[Tensor], list[int], list[int]]:
    queries, keys = [3, 0, 5], [4, 2, 1]
    lengths = (sum(queries), sum(keys), sum(keys))
    return [torch.randn(1, length, 2, 8) for length in lengths], queries, keys


def by_hand(qkv: list[Tensor], queries: list[int], keys: list[int], **options: Any) -> Tensor:
    parts = zip(qkv[0].split(queries, 1), *(x.split(keys, 1) for x in qkv[1:]), strict=True)
    return torch.cat([attention_reference(*part, **options) for part in parts], dim=1)


@pytest.mark.parametrize("name", ["auto", "reference", "sdpa"])
def test_each_sample_attends_its_own_keys(name: str) -> None:
    qkv, queries, keys = packed_qkv()
    out = attend_packed(
        choose_attention(name), *qkv, query_lengths=queries, key_lengths=keys, scale=0.3
    )
    torch.testing.assert_close(out, by_hand(qkv, queries, keys, scale=0.3), atol=2e-6, rtol=0)


def test_flash_attention_takes_all_samples_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def varlen(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.append(options)
        starts = (options["cu_seqlens_q"], options["cu_seqlens_k"])
        assert all(s.dtype == torch.int32 for s in starts)
        lengths = [s.diff().tolist() for s in starts]
        assert [options["max_seqlen_q"], options["max_seqlen_k"]] == [max(n) for n in lengths]
        return by_hand([q[None], k[None], v[None]], *lengths, scale=options["softmax_scale"])[0]

    module = types.ModuleType("flash_attn")
    module.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    module.flash_attn_func, module.flash_attn_varlen_func = None, varlen  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    flash = ATTENTION.get("flash_attn")
    qkv, queries, keys = packed_qkv()
    with pytest.raises(UnsupportedError, match="CUDA"):
        attend_packed(flash, *qkv, query_lengths=queries, key_lengths=keys)
    monkeypatch.setattr(type(flash), "require", lambda self, inputs: None)
    out = attend_packed(flash, *qkv, query_lengths=queries, key_lengths=keys)
    assert len(calls) == 1
    assert calls[0]["causal"] is False
    torch.testing.assert_close(out, by_hand(qkv, queries, keys), atol=2e-6, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_sum_of_the_samples_own(checkpointing: bool) -> None:
    backbone = load_backbone("wan-tiny", seed=0)
    config = DecoupledConfig(mv_train="full")
    transformer = SeqTexTransformer(backbone, config).double()
    transformer.gradient_checkpointing = checkpointing
    dense = transformer.layout(SIZES, STREAMS)
    keep = {
        "views": [torch.tensor([0, 5, 7]), torch.arange(12)],
        "texture": [torch.tensor([2, 3]), torch.tensor([0, 1, 2, 8, 15])],
    }
    packed = PackedLayout.of(dense, keep)
    draw = torch.Generator().manual_seed(0)
    latents = {
        n: torch.randn(2, 16, *s, generator=draw, dtype=torch.float64) for n, s in SIZES.items()
    }
    sigmas = {n: torch.rand(2, s[0], generator=draw).double() for n, s in SIZES.items()}

    def gradients(layout: Any, rows: slice) -> list[Tensor]:
        cache = transformer.prepare(layout, batch_size=len(range(2)[rows]))
        inputs = ({n: x[rows] for n, x in named.items()} for named in (latents, sigmas))
        loss = sum(u.square().sum() for u in transformer(*inputs, cache).values())
        parameters = [p for p in transformer.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
        ]

    together = gradients(packed, slice(0, 2))
    apart = [gradients(packed.samples[i], slice(i, i + 1)) for i in range(2)]
    for got, first, second in zip(together, *apart, strict=True):
        want = first + second
        # fp64 with tables in fp32: roundings of sums over tens of terms, below 1e-6 of the largest
        torch.testing.assert_close(got, want, atol=1e-7 * float(want.abs().max()) + 1e-12, rtol=0)


@pytest.mark.parametrize(
    ("keep", "told"),
    [
        ({"views": [torch.tensor([0])], "texture": [torch.tensor([0])] * 2}, "one entry per"),
        ({"texture": [torch.tensor([0]), torch.tensor([], dtype=torch.int64)]}, "sample 1.*uv"),
        ({"texture": [torch.tensor([9])]}, r"keep\['texture'\]"),
        ({}, "one entry per"),
    ],
)
def test_impossible_samples_are_refused(keep: dict[str, list[Tensor]], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        PackedLayout.of(TokenLayout.of(GROUPS), keep)


def test_other_groups_and_other_batches_are_refused() -> None:
    one = TokenLayout.of(GROUPS)
    with pytest.raises(UsageError, match="equal groups"):
        PackedLayout(samples=(one, one.without("uv")))
    transformer = SeqTexTransformer(load_backbone("wan-tiny", seed=0))
    packed = PackedLayout(samples=(transformer.layout(SIZES, STREAMS),) * 2)
    with pytest.raises(UsageError, match="1 samples, as the text"):
        transformer.prepare(packed)


class VarlenKernel(SdpaAttend):
    """One with a kernel of its own for packed samples, which checks nothing."""

    def attend_packed(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        assert q.shape[1], "the wrapper checks before the kernel"
        return q


@pytest.mark.parametrize("attend", [VarlenKernel(), choose_attention("sdpa")])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"key_lengths": [4, 2, 1]}, "packed samples: expected as many .* got 2 and 3"),
        ({"query_lengths": [], "key_lengths": []}, "one or more, got 0 and 0"),
        ({"key_lengths": [7, 0]}, "sample 1: .* got 5 queries and 0 keys.* without queries"),
        ({"query_lengths": [9, -1]}, "sample 1: expected lengths of 0 or more"),
        ({"query_lengths": [3, 4]}, r"q: expected \[1 Lq N D\] = \[1, 7, any, any\]"),
        ({"key_lengths": [3, 3]}, r"k: expected .*\[1, 6, 2, 8\]"),
        ({"v": torch.zeros(1, 8, 2, 8)}, r"v: expected .*\[1, 7, 2, 8\]"),
        ({"v": torch.zeros(1, 7, 2, 8).double()}, "v: expected torch.float32"),
        ({"masks": [None]}, "masks: expected 2, one per sample, got 1.*None"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_kernel(
    attend: Attend, change: dict[str, Any], told: str
) -> None:
    rows = {name: torch.zeros(1, n, 2, 8) for name, n in (("q", 8), ("k", 7), ("v", 7))}
    fitting: dict[str, Any] = {**rows, "query_lengths": [3, 5], "key_lengths": [4, 3]}
    assert attend_packed(attend, **fitting).shape == rows["q"].shape
    with pytest.raises(UsageError, match=told):
        attend_packed(attend, **fitting | change)
