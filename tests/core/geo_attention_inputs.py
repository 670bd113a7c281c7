"""What the Geo-Attention tests share: views, a texture, their positions."""

import torch
from torch import Tensor

from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.rope import RopeSpec, rope_table, wan_axis_dims

HEADS, DIM, G = 2, 24, 5
VIEWS = FrameGroup(name="views", stream="mv", grid=Grid(frames=4, height=3, width=3))
TEXTURE = FrameGroup(name="texture", stream="uv", grid=Grid(frames=1, height=5, width=7))
SPEC = RopeSpec(axis_dims=wan_axis_dims(DIM))
TABLES = rope_table(TokenLayout.of([VIEWS, TEXTURE]), SPEC)
MV, UV = TABLES["mv"].num_rows, TABLES["uv"].num_rows
ORDERS = ("post_rope", "pre_rope")


def rows(length: int) -> Tensor:
    return torch.randn(2, length, HEADS, DIM)


def geometry(length: int) -> Tensor:
    return torch.randn(2, length, HEADS, DIM)
