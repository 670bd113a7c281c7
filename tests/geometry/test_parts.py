"""Parts of a mesh."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from seqtex_geometry.parts import connected_parts, shown_parts
from seqtex_geometry.surface import SurfaceTensors
from seqtex_geometry.surface_memory import once_per_surface


def surface(vertices: torch.Tensor, faces: list[list[int]]) -> SurfaceTensors:
    normals = torch.nn.functional.normalize(torch.ones_like(vertices), dim=1)
    indices = torch.tensor(faces, dtype=torch.int64).reshape(-1, 3)
    return SurfaceTensors(vertices=vertices, faces=indices, vertex_normals=normals)


def test_vertices_at_one_place_join_faces_and_near_ones_do_not() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    apart = corners + torch.tensor([1.0, 1e-6, 0])
    joined = torch.cat([corners, -corners, apart])  # the second meets the first at -0
    found = connected_parts(surface(joined, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]))
    assert found.tolist() == [0, 0, 1]


def test_what_was_found_out_is_remembered_until_the_surface_changes() -> None:
    looked: list[float] = []

    @once_per_surface
    def width(one: SurfaceTensors) -> float:
        looked.append(float(one.vertices.max()))
        return looked[-1]

    first, second = (surface(torch.full((3, 3), value), [[0, 1, 2]]) for value in (1.0, 2.0))
    assert [width(one) for one in (first, second, first, second)] == [1.0, 2.0, 1.0, 2.0]
    assert looked == [1.0, 2.0]
    first.vertices.mul_(5.0)
    assert [width(first), width(second)] == [5.0, 2.0]
    with torch.inference_mode():
        assert width(surface(torch.full((3, 3), 7.0), [[0, 1, 2]])) == 7.0


def test_no_faces_no_parts() -> None:
    assert connected_parts(surface(torch.zeros(3, 3), [])).tolist() == []


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.randoms())
def test_strips_in_any_order(lengths: list[int], random) -> None:
    """Strips of triangles that share edges, each with vertices of its own."""
    faces, owner, first = [], [], 0
    for number, length in enumerate(lengths):
        faces += [[first + k, first + k + 1, first + k + 2] for k in range(length)]
        owner += [number] * length
        first += length + 2
    order = list(range(len(faces)))
    random.shuffle(order)
    vertices = torch.arange(3.0 * first).reshape(first, 3)
    found = connected_parts(surface(vertices, [faces[i] for i in order])).tolist()
    assert set(found) == set(range(len(lengths)))
    pairs = {(owner[i], part) for i, part in zip(order, found, strict=True)}
    assert len(pairs) == len(lengths)


def test_parts_are_shown_from_four_points_and_a_fiftieth_of_them_on() -> None:
    points, shown = [200, 201, 6, 6, 9], [4, 4, 4, 3, 0]
    part = torch.arange(5).repeat_interleave(torch.tensor(points))
    known = torch.cat([torch.arange(n) < k for n, k in zip(points, shown, strict=True)])
    found = shown_parts(part, known)
    assert torch.equal(found, torch.tensor([0, -1, 2, -1, -1])[part])
    assert shown_parts(part[:0], known[:0]).tolist() == []
