"""Positions and noise levels of rows that may be packed: what a shell makes, row by row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .adapter import BackboneShell, TimeEmbedding
from .frames import StreamLayout, TokenLayout
from .kernels.choose import without_autocast
from .packed_layout import AnyLayout
from .rope import Rope


def positions(
    shell: BackboneShell, layout: AnyLayout
) -> tuple[Mapping[str, Rope] | None, Mapping[str, Tensor] | None]:
    """Rotary tables and position embeddings of the rows of every stream.

    Packed samples take their rows from the tables of all tokens, which are made once.

    Args:
        shell: of the backbone.
        layout: the rows.
    """
    dense = layout if isinstance(layout, TokenLayout) else layout.dense
    with without_autocast(next(shell.parameters(), torch.empty(0)).device):
        rope, position = shell.rope(dense), shell.position_embedding(dense)
    if isinstance(layout, TokenLayout):
        return rope, position
    index = {stream: layout.dense_rows(stream) for stream in layout.streams}
    return (
        rope and {s: rope[s].rows(i.to(rope[s].cos.device)) for s, i in index.items()},
        position and {s: position[s][i.to(position[s].device)] for s, i in index.items()},
    )


def joined_rope(
    rope: Mapping[str, Rope] | None, layout: AnyLayout, device: torch.device
) -> Rope | None:
    """Tables of the rows of both streams as one, for keys of both; ``None`` if rows are packed.

    Args:
        rope: tables of the streams.
        layout: the rows.
        device: where the table goes.
    """
    if not rope or "uv" not in layout.streams or not isinstance(layout, TokenLayout):
        return None
    return Rope.cat([rope["mv"], rope["uv"]]).to(device)


def row_times(time: TimeEmbedding, rows: StreamLayout) -> TimeEmbedding:
    """Times ``[B, F, ...]`` as rows see them; frames of packed samples are those of one sample.

    Args:
        time: of every sample's frames.
        rows: of the stream.
    """
    if not rows.sample_lengths:
        return time
    return TimeEmbedding(
        embedding=time.embedding.flatten(0, 1)[None], projected=time.projected.flatten(0, 1)[None]
    )
