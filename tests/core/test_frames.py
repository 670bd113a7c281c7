"""Token layouts: rows, temporal positions, packing, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout

sizes = st.integers(1, 4)
grids = st.builds(lambda f, h, w: Grid(frames=f, height=h, width=w), sizes, sizes, sizes)


@st.composite
def layouts(draw: st.DrawFn) -> TokenLayout:
    """Up to four groups in any order of streams, some of them packed."""
    groups = tuple(
        FrameGroup(name=f"g{i}", stream=draw(st.sampled_from(["mv", "uv"])), grid=draw(grids))
        for i in range(draw(st.integers(1, 4)))
    )
    keep = {}
    for group in groups:
        if draw(st.booleans()):
            kept = draw(st.sets(st.integers(0, group.grid.num_tokens - 1)))
            keep[group.name] = torch.tensor(sorted(kept), dtype=torch.int64)
    return TokenLayout(groups=groups, keep=keep)


def kept(layout: TokenLayout, name: str) -> list[int]:
    index = layout.keep.get(name)
    return list(range(layout.group(name).grid.num_tokens)) if index is None else index.tolist()


@given(layouts())
def test_rows_of_streams_account_for_every_kept_token(layout: TokenLayout) -> None:
    names = [group.name for rows in layout.streams.values() for group in rows.groups]
    assert sorted(names) == sorted(group.name for group in layout.groups)
    for stream, rows in layout.streams.items():
        assert all(group.stream == stream for group in rows.groups)
        assert rows.group_lengths == tuple(len(kept(layout, g.name)) for g in rows.groups)
        expected = [
            sum(token // group.grid.tokens_per_frame == frame for token in kept(layout, group.name))
            for group in rows.groups
            for frame in range(group.grid.frames)
        ]
        assert list(rows.frame_lengths) == expected
        assert rows.num_tokens == sum(expected)
        assert rows.num_frames == len(expected)
        equal = len(set(expected)) == 1
        assert rows.uniform_length() == (expected[0] if equal else None)


@given(layouts())
def test_unpack_puts_back_what_pack_took(layout: TokenLayout) -> None:
    for group in layout.groups:
        full = torch.arange(1.0, 1.0 + 2 * group.grid.num_tokens).view(1, -1, 2)
        packed = layout.pack(group.name, full)
        chosen = kept(layout, group.name)
        assert torch.equal(packed, full[:, chosen])
        back = layout.unpack(group.name, packed)
        expected = torch.zeros_like(full)
        expected[:, chosen] = full[:, chosen]
        assert torch.equal(back, expected)


@given(layouts())
def test_split_undoes_join(layout: TokenLayout) -> None:
    for rows in layout.streams.values():
        tokens = {
            group.name: torch.randn(2, length, 3)
            for group, length in zip(rows.groups, rows.group_lengths, strict=True)
        }
        back = rows.split_groups(rows.join(tokens))
        assert all(torch.equal(back[name], tokens[name]) for name in tokens)
        frames = {group.name: torch.randn(2, group.grid.frames) for group in rows.groups}
        back = rows.split_frames(rows.join(frames))
        assert all(torch.equal(back[name], frames[name]) for name in frames)


@given(layouts())
def test_temporal_positions_run_over_groups_in_order(layout: TokenLayout) -> None:
    position = 0
    for group in layout.groups:
        assert layout.first_frame(group.name) == position
        position += group.grid.frames


def grid(frames: int = 1, height: int = 2, width: int = 2) -> Grid:
    return Grid(frames=frames, height=height, width=width)


VIEWS = FrameGroup(name="views", stream="mv", grid=grid(frames=3))
TEXTURE = FrameGroup(name="texture", stream="uv", grid=grid(height=4))


def test_without_keeps_positions_of_the_rest() -> None:
    index = torch.tensor([0, 5])
    layout = TokenLayout(groups=(VIEWS, TEXTURE), keep={"views": index, "texture": index})
    rest = layout.without("uv")
    assert rest.groups == (VIEWS,)
    assert set(rest.keep) == {"views"}
    with pytest.raises(UsageError, match="last"):
        layout.without("mv")


@pytest.mark.parametrize("size", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_a_grid_has_positive_sizes(size: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="positive"):
        grid(*size)


@pytest.mark.parametrize("groups", [(), (VIEWS, VIEWS)])
def test_groups_have_unique_names(groups: tuple[FrameGroup, ...]) -> None:
    with pytest.raises(UsageError, match="unique names"):
        TokenLayout.of(groups)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (torch.tensor([0.0]), "int64"),
        (torch.tensor([[0]]), "int64"),
        (torch.tensor([0], dtype=torch.int32), "int64"),
        (torch.tensor([-1, 2]), r"0 to 11, got -1 to 2"),
        (torch.tensor([0, 12]), r"0 to 11, got 0 to 12"),
        (torch.ones(11).bool(), r"mask \[12\], got torch.bool \(11,\)"),
        (torch.tensor([3, 3]), "unique"),
        (torch.tensor([4, 3]), "sorted"),
        (torch.tensor([5, 20, 6]), "sorted"),
    ],
)
def test_kept_indices_are_sorted_unique_and_inside(index: torch.Tensor, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        TokenLayout(groups=(VIEWS,), keep={"views": index})


def test_a_mask_of_kept_tokens_becomes_their_indices() -> None:
    mask = torch.zeros(VIEWS.grid.num_tokens).bool()
    mask[[1, 4, 5]] = True
    shape = (VIEWS.grid.frames, VIEWS.grid.height, VIEWS.grid.width)
    for shown in (mask, mask.view(shape)):
        layout = TokenLayout(groups=(VIEWS,), keep={"views": shown})
        assert layout.keep["views"].tolist() == [1, 4, 5]


def test_unknown_groups_are_named_with_the_known() -> None:
    layout = TokenLayout.of((VIEWS, TEXTURE))
    for ask in (layout.group, layout.first_frame):
        with pytest.raises(UsageError, match="views, texture"):
            ask("material")
    with pytest.raises(UsageError, match="material"):
        TokenLayout(groups=(VIEWS,), keep={"material": torch.tensor([0])})


class Moves(TorchDispatchMode):
    """Counts copies from the CPU to another device: each makes the host wait on CUDA."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        moved = function(*args, **(kwargs or {}))
        if "_to_copy" in str(function):
            self.count += args[0].device != moved.device
        return moved


def test_indices_of_packed_tokens_move_to_the_device_once() -> None:
    layout = TokenLayout(groups=(TEXTURE,), keep={TEXTURE.name: torch.tensor([0, 2])})
    tokens = torch.empty(1, TEXTURE.grid.num_tokens, 3, device="meta")
    with Moves() as moves:
        for _ in range(3):
            packed = layout.pack(TEXTURE.name, tokens)
            assert layout.unpack(TEXTURE.name, packed).shape == tokens.shape
    assert packed.shape == (1, 2, 3)
    assert moves.count == 1


@given(layouts())
def test_all_rows_are_the_streams_one_after_the_other(layout: TokenLayout) -> None:
    joined, parts = layout.all_rows, list(layout.streams.values())
    assert joined.num_tokens == sum(rows.num_tokens for rows in parts)
    assert joined.num_frames == sum(rows.num_frames for rows in parts)
    values = torch.arange(joined.num_tokens)[None]
    split = values.split([rows.num_tokens for rows in parts], dim=1)
    apart = [rows.split_groups(piece) for rows, piece in zip(parts, split, strict=True)]
    together = joined.split_groups(values)
    for groups in apart:
        assert all(torch.equal(together[name], piece) for name, piece in groups.items())
    assert torch.equal(joined.join(together), values)
