"""Which of several charts over the same texels is on top."""

from __future__ import annotations

import torch

from seqtex_geometry.chart_order import chart_order

ALONG = torch.tensor([[0.0, 0], [1, 0], [1, 1]])
"""Counter-clockwise."""


def ordered(uvs: list[torch.Tensor], corners: list[torch.Tensor]) -> list[int]:
    return chart_order(torch.stack(uvs), torch.stack(corners)).tolist()


def at(*places: float) -> list[torch.Tensor]:
    """Triangles beside each other in space, one per place; none share a corner."""
    triangle = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    return [triangle + torch.tensor([9.0 * place, 0, 0]) for place in places]


def test_charts_that_are_wound_counter_clockwise_come_first() -> None:
    mirrored = ALONG.flip(0)
    assert ordered([mirrored, ALONG, mirrored, ALONG], at(0, 1, 2, 3)) == [1, 3, 0, 2]


def test_faces_of_a_chart_stay_together_where_its_first_face_is() -> None:
    """Faces 0 and 2 share an edge on the surface and in the texture, 1 lies over both."""
    other = torch.tensor([[0.0, 0], [1, 1], [0, 1]])
    first, over = at(0, 1)
    beside = torch.tensor([[0.0, 0, 0], [1, 1, 0], [0, 1, 0]])
    assert ordered([ALONG, ALONG, other], [first, over, beside]) == [0, 2, 1]
    # elsewhere in the texture, or elsewhere on the surface, it is a chart of its own
    assert ordered([ALONG, ALONG, other + 2], [first, over, beside]) == [0, 1, 2]
    assert ordered([ALONG, ALONG, other], [first, over, beside + 5]) == [0, 1, 2]


def test_both_sides_of_a_fold_are_charts() -> None:
    """Two faces that share an edge, the second folded back over the first."""
    first = at(0)[0]
    behind = torch.stack([first[0], first[2], torch.tensor([1.0, 0, 1])])
    folded = ALONG[[0, 2, 1]]
    assert ordered([folded, ALONG], [behind, first]) == [1, 0]


def test_nothing_has_no_order() -> None:
    assert chart_order(torch.zeros(0, 3, 2), torch.zeros(0, 3, 3)).tolist() == []
