"""The level of text rows, and their layout."""

from __future__ import annotations

import torch

from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.text_rows import text_layout, text_sigma


def views(keep: list[int] | None = None) -> TokenLayout:
    group = FrameGroup(name="views", stream="mv", grid=Grid(frames=3, height=1, width=2))
    index = {} if keep is None else {"views": torch.tensor(keep)}
    return TokenLayout(groups=(group,), keep=index)


def test_text_has_the_level_of_the_noisiest_frame_of_each_sample() -> None:
    sigma = torch.tensor([[0.07, 0.6, 0.6], [0.07, 0.07, 0.07]])
    got = text_sigma(sigma, views().streams["mv"])
    assert torch.equal(got, torch.tensor([[0.6], [0.07]]))


def test_frames_without_tokens_do_not_count() -> None:
    sigma = torch.tensor([[0.9, 0.3, 0.5]])
    got = text_sigma(sigma, views(keep=[2, 5]).streams["mv"])
    assert torch.equal(got, torch.tensor([[0.5]]))


def test_text_is_one_frame() -> None:
    rows = text_layout(7)
    assert (rows.num_frames, rows.num_tokens, rows.uniform_length()) == (1, 7, 7)
