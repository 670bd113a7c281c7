from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.rope import (
    Extrapolation,
    Interpolation,
    Rope,
    RopeSpec,
    apply_rope,
    apply_rope_reference,
    cogvideox_axis_dims,
    rope_for_grid,
    rope_table,
    wan_axis_dims,
)

WAN = RopeSpec(axis_dims=wan_axis_dims(24))
VIEWS = FrameGroup(name="views", stream="mv", grid=Grid(frames=4, height=3, width=5))
TEXTURE = FrameGroup(name="texture", stream="uv", grid=Grid(frames=1, height=6, width=7))
COGVIDEOX = Interpolation(base_height=30, base_width=45)


def random_rope(rows: int, dim: int, *, pairing: str = "interleaved", heads: int = 0) -> Rope:
    angles = torch.randn(rows, *((heads,) if heads else ()), dim // 2) * 3
    return Rope(cos=angles.cos(), sin=angles.sin(), pairing=pairing)


def single(position: float, spec: RopeSpec) -> Rope:
    """One row at a temporal position."""
    where = torch.tensor([position], dtype=torch.float64)
    return rope_for_grid(Grid(frames=1, height=1, width=1), spec, frame_positions=where)


# --- tables ------------------------------------------------------------------------------------


def test_axis_dims_are_those_of_the_models() -> None:
    assert wan_axis_dims(128) == (44, 42, 42)
    assert wan_axis_dims(64) == (24, 20, 20)
    assert cogvideox_axis_dims(64) == (16, 24, 24)


@pytest.mark.parametrize("head_dim", [24, 64, 128])
@pytest.mark.parametrize("size", [(1, 1, 1), (4, 32, 32), (3, 5, 7)])
def test_extrapolation_equals_wan_in_diffusers(head_dim: int, size: tuple[int, int, int]) -> None:
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    theirs = WanRotaryPosEmbed(head_dim, (1, 2, 2), 64)
    cos, sin = theirs(torch.empty(1, 1, size[0], 2 * size[1], 2 * size[2]))
    grid = Grid(frames=size[0], height=size[1], width=size[2])
    ours = rope_for_grid(grid, RopeSpec(axis_dims=wan_axis_dims(head_dim)))
    # both compute angles in fp64 and round once
    assert torch.equal(ours.cos, cos[0, :, 0, 0::2])
    assert torch.equal(ours.sin, sin[0, :, 0, 1::2])


def diffusers_cogvideox(grid: Grid, **kwargs: object) -> tuple[Tensor, Tensor]:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    cos, sin = get_3d_rotary_pos_embed(
        64, grid_size=(grid.height, grid.width), temporal_size=grid.frames, **kwargs
    )
    return cos[:, 0::2], sin[:, 0::2]


@pytest.mark.parametrize(
    "size", [(30, 45), (32, 32), (64, 64), (45, 30), (32, 33), (17, 41), (21, 45)]
)
def test_interpolation_equals_cogvideox_linspace(size: tuple[int, int]) -> None:
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    grid = Grid(frames=5, height=size[0], width=size[1])
    crops = get_resize_crop_region_for_grid(size, 45, 30)
    cos, sin = diffusers_cogvideox(grid, crops_coords=crops)
    ours = rope_for_grid(grid, RopeSpec(axis_dims=cogvideox_axis_dims(64), policy=COGVIDEOX))
    # theirs has positions up to 45 in fp32: 45 * 2^-24 = 2.7e-6, and one rounding of the result
    torch.testing.assert_close(ours.cos, cos, atol=3e-6, rtol=0)
    torch.testing.assert_close(ours.sin, sin, atol=3e-6, rtol=0)


@pytest.mark.parametrize("size", [(30, 45), (32, 32), (48, 85)])
def test_extrapolation_equals_cogvideox_slice(size: tuple[int, int]) -> None:
    grid = Grid(frames=5, height=size[0], width=size[1])
    cos, sin = diffusers_cogvideox(
        grid, crops_coords=((0, 0), size), grid_type="slice", max_size=(48, 85)
    )
    ours = rope_for_grid(grid, RopeSpec(axis_dims=cogvideox_axis_dims(64)))
    # positions up to 85 in fp32: 85 * 2^-24 = 5.1e-6
    torch.testing.assert_close(ours.cos, cos, atol=6e-6, rtol=0)
    torch.testing.assert_close(ours.sin, sin, atol=6e-6, rtol=0)


def test_interpolation_has_the_end_points_of_diffusers() -> None:
    view, texture = Grid(frames=1, height=32, width=32), Grid(frames=1, height=64, width=64)
    assert COGVIDEOX.region(view) == (0, 8, 30, 38)
    rows, columns = COGVIDEOX.spatial_positions(view)
    assert (rows[-1].item(), columns[0].item(), columns[-1].item()) == (29.0625, 8.0, 36.8125)
    rows, columns = COGVIDEOX.spatial_positions(texture)
    assert (rows[-1].item(), columns[-1].item()) == (29.53125, 37.40625)


def test_aligned_grids_share_coordinates() -> None:
    aligned = Interpolation(base_height=30, base_width=45, linspace_end="aligned")
    view = aligned.spatial_positions(Grid(frames=1, height=32, width=32))
    texture = aligned.spatial_positions(Grid(frames=1, height=64, width=64))
    drift = COGVIDEOX.spatial_positions(Grid(frames=1, height=32, width=32))[1]
    for coarse, fine in zip(view, texture, strict=True):
        torch.testing.assert_close(fine[::2], coarse, atol=1e-13, rtol=0)  # fp64, values < 64
        torch.testing.assert_close(coarse.diff(), torch.full_like(coarse[1:], 0.9375))
    assert (drift - view[1]).abs().max() > 0.2  # the quirk is real


def test_a_grid_may_exceed_every_pretrained_length() -> None:
    grid = Grid(frames=1, height=1, width=5000)
    table = rope_for_grid(grid, WAN)
    angle = 4999.0 / 1e4 ** (2 * 1 / 8)  # second plane of the width axis
    expected = torch.tensor([angle], dtype=torch.float64).cos().float()
    assert table.num_rows == 5000
    assert table.cos[4999, 4 + 4 + 1] == expected[0]


def test_temporal_positions_run_over_the_groups_in_order() -> None:
    after = FrameGroup(name="material", stream="uv", grid=Grid(frames=2, height=2, width=2))
    tables = rope_table(TokenLayout.of([VIEWS, TEXTURE, after]), WAN)
    assert {name: table.num_rows for name, table in tables.items()} == {"mv": 60, "uv": 42 + 8}
    for table, row, position in (("mv", 0, 0), ("mv", 45, 3), ("uv", 0, 4), ("uv", 42, 5)):
        assert torch.equal(tables[table].cos[row], single(position, WAN).cos[0])
    assert torch.equal(tables["uv"].cos[46], single(6, WAN).cos[0])


def test_equal_grids_at_equal_frames_have_equal_tables() -> None:
    twins = [FrameGroup(name=name, stream="mv", grid=TEXTURE.grid) for name in "ab"]
    table = rope_table(TokenLayout.of(twins), WAN, frame_positions={"a": [7], "b": [7]})["mv"]
    assert torch.equal(table.cos[:42], table.cos[42:])
    assert torch.equal(table.sin[:42], table.sin[42:])


def test_dropped_tokens_have_no_row() -> None:
    index = torch.tensor([0, 5, 41])
    full = rope_table(TokenLayout.of([VIEWS, TEXTURE]), WAN)
    packed = rope_table(TokenLayout(groups=(VIEWS, TEXTURE), keep={"texture": index}), WAN)
    assert torch.equal(packed["uv"].sin, full["uv"].sin[index])
    assert torch.equal(packed["mv"].sin, full["mv"].sin)


def test_temporal_offset_shifts_every_frame() -> None:
    layout = TokenLayout.of([VIEWS, TEXTURE])
    from_one = rope_table(layout, WAN, temporal_offset=1.0)
    assert torch.equal(from_one["mv"].cos[0], single(1, WAN).cos[0])
    assert torch.equal(from_one["uv"].cos[0], single(5, WAN).cos[0])


def test_theta_may_differ_by_axis() -> None:
    spec = RopeSpec(axis_dims=(8, 8, 8), theta=(256.0, 1e4, 1e3))
    for frequency, theta in zip(spec.frequencies(), (256.0, 1e4, 1e3), strict=True):
        assert frequency[1].item() == pytest.approx(theta ** (-2 / 8), rel=1e-15)


def test_bad_tables_are_refused() -> None:
    layout = TokenLayout.of([VIEWS])
    with pytest.raises(UsageError, match=r"frame_positions\['views'\]: expected 4 numbers, got 3"):
        rope_table(layout, WAN, frame_positions={"views": [0, 1, 2]})
    with pytest.raises(UsageError, match="views"):
        rope_table(layout, WAN, frame_positions={"view": [0]})
    with pytest.raises(UsageError, match="even"):
        RopeSpec(axis_dims=(3, 2, 2))
    with pytest.raises(UsageError, match="aligned"):
        Interpolation(base_height=2, base_width=2, linspace_end="exact")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="positive"):
        Interpolation(base_height=0, base_width=2)
    with pytest.raises(UsageError, match="one shape"):
        Rope(cos=torch.ones(2, 3), sin=torch.ones(3, 2))
    with pytest.raises(UsageError, match="half"):
        Rope(cos=torch.ones(2, 3), sin=torch.ones(2, 3), pairing="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one pairing"):
        Rope.cat([random_rope(2, 4), random_rope(2, 4, pairing="half")])


# --- application -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("pairing", ["interleaved", "half"])
@pytest.mark.parametrize("rows", [1, 63, 127, 1000])
def test_apply_matches_its_definition(
    assert_as_accurate, dtype: torch.dtype, pairing: str, rows: int
) -> None:
    rope = random_rope(rows, 8, pairing=pairing)
    x = torch.randn(2, rows, 3, 8).to(dtype)
    exact = apply_rope_reference(x.double(), rope)
    assert_as_accurate(apply_rope(x, rope), apply_rope_reference(x, rope), exact)


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
def test_apply_to_non_contiguous_rows_and_heads_of_their_own(pairing: str) -> None:
    rope = random_rope(7, 10, pairing=pairing, heads=3)
    wide = torch.randn(2, 3, 7, 33)
    for x in (wide[..., 1:11].transpose(1, 2), wide[..., :20:2].transpose(1, 2), wide[..., 3:13]):
        rows = x if x.shape[1] == 7 else x.transpose(1, 2)
        # values below 6: three fp32 roundings of at most 6 * 2^-24 each
        expected = apply_rope_reference(rows, rope)
        torch.testing.assert_close(apply_rope(rows, rope), expected, atol=1.1e-6, rtol=0)


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
def test_gradient_is_the_rotation_back(pairing: str) -> None:
    rope = random_rope(5, 8, pairing=pairing)
    x = torch.randn(1, 5, 2, 8, requires_grad=True)
    out_grad = torch.randn(1, 5, 2, 8)
    apply_rope(x, rope).backward(out_grad)
    back = Rope(cos=rope.cos, sin=-rope.sin, pairing=rope.pairing)
    # values below 6: three fp32 roundings
    torch.testing.assert_close(x.grad, apply_rope_reference(out_grad, back), atol=1.1e-6, rtol=0)


def test_a_table_first_used_in_inference_mode_still_trains() -> None:
    rope = random_rope(5, 8)
    with torch.inference_mode():
        apply_rope(torch.randn(1, 5, 2, 8), rope)
    x = torch.randn(1, 5, 2, 8, requires_grad=True)
    apply_rope(x, rope).sum().backward()
    assert x.grad is not None


def test_eager_and_traced_forms_agree() -> None:
    rope, x = random_rope(9, 12), torch.randn(2, 9, 2, 12)
    traced = torch.compile(apply_rope, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(x, rope), apply_rope(x, rope), atol=1.1e-6, rtol=0)


def test_diffusers_applies_the_same_rotation() -> None:
    """Wan's processor writes even and odd channels of ``[B, L, N, D]``."""
    rope, x = random_rope(9, 24), torch.randn(2, 9, 2, 24)
    expected = torch.empty_like(x)
    cos, sin = rope.cos[:, None], rope.sin[:, None]
    expected[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    expected[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    torch.testing.assert_close(apply_rope(x, rope), expected, atol=1.1e-6, rtol=0)


def test_no_fp64_after_the_table_is_built() -> None:
    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                assert out.dtype not in (torch.float64, torch.complex128), func
            return out

    for pairing in ("interleaved", "half"):
        rope = random_rope(5, 8, pairing=pairing)
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(1, 5, 2, 8).to(dtype)
            with Spy():
                apply_rope(x, rope)


def test_tables_are_joined_sliced_and_moved() -> None:
    rope = random_rope(6, 8)
    text = rope.still(2)
    joined = Rope.cat([text, rope])
    x = torch.randn(1, 8, 2, 8)
    assert torch.equal(apply_rope(x, joined)[:, :2], x[:, :2])
    assert torch.equal(joined.rows(slice(2, None)).cos, rope.cos)
    assert rope.to("cpu") is rope
    assert rope.to("meta").cos.device.type == "meta"


def test_a_table_that_does_not_fit_is_refused() -> None:
    x = torch.randn(1, 6, 2, 8)
    for bad, message in (
        (random_rope(5, 8), r"x: expected \[B L N D\] = \[any, 5, any, 8\], got \[1, 6, 2, 8\]"),
        (random_rope(6, 10), "B L N D"),
        (random_rope(6, 8, heads=3), r"rope.cos: expected \[L N D/2\]"),
        (random_rope(6, 8).to("meta"), "rope.to"),
    ):
        with pytest.raises(UsageError, match=message):
            apply_rope(x, bad)
    with pytest.raises(UsageError, match="floating-point"):
        apply_rope(torch.zeros(1, 6, 2, 8, dtype=torch.int64), random_rope(6, 8))


# --- properties --------------------------------------------------------------------------------

positions = st.integers(min_value=0, max_value=200)
specs = st.sampled_from(
    [
        WAN,
        RopeSpec(axis_dims=(8, 8, 8), pairing="half"),
        RopeSpec(axis_dims=cogvideox_axis_dims(32), policy=COGVIDEOX, theta=256.0),
    ]
)


@given(a=positions, b=positions, shift=positions, spec=specs)
def test_logits_depend_on_position_differences_only(
    a: int, b: int, shift: int, spec: RopeSpec
) -> None:
    q, k = torch.randn(2, 1, 1, 1, spec.head_dim, dtype=torch.float64)

    def logit(at_q: int, at_k: int) -> Tensor:
        return (apply_rope(q, single(at_q, spec)) * apply_rope(k, single(at_k, spec))).sum()

    # fp32 tables: each cosine is off by 2^-25 at most, times |q||k| (below 100)
    limit = 4 * 2**-25 * float(q.norm() * k.norm())
    assert abs(logit(a, b) - logit(a + shift, b + shift)) <= limit


@given(
    seed=st.integers(0, 1000),
    factor=st.floats(-4, 4),
    pairing=st.sampled_from(["interleaved", "half"]),
)
def test_rotation_is_linear_and_keeps_norms(seed: int, factor: float, pairing: str) -> None:
    torch.manual_seed(seed)
    rope = random_rope(3, 8, pairing=pairing)
    x, y = torch.randn(2, 1, 3, 2, 8, dtype=torch.float64)
    left = apply_rope(x + factor * y, rope)
    right = apply_rope(x, rope) + factor * apply_rope(y, rope)
    torch.testing.assert_close(left, right, atol=1e-13, rtol=0)  # fp64, values below 50
    # fp32 tables: cos^2 + sin^2 is 1 to 2^-23
    torch.testing.assert_close(
        apply_rope(x, rope).norm(dim=-1), x.norm(dim=-1), atol=0, rtol=2**-23
    )


@given(seed=st.integers(0, 1000), dim=st.sampled_from([2, 6, 16]))
def test_pairings_are_permutations_of_each_other(seed: int, dim: int) -> None:
    torch.manual_seed(seed)
    interleaved = random_rope(4, dim)
    half = Rope(cos=interleaved.cos, sin=interleaved.sin, pairing="half")
    x = torch.randn(1, 4, 2, dim, dtype=torch.float64)
    order = torch.cat((torch.arange(0, dim, 2), torch.arange(1, dim, 2)))
    expected = apply_rope(x, interleaved)[..., order]
    torch.testing.assert_close(apply_rope(x[..., order], half), expected, atol=1e-14, rtol=0)


@given(
    frames=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    scale=st.integers(2, 4),
)
def test_extrapolation_keeps_the_native_spacing(
    frames: int, height: int, width: int, scale: int
) -> None:
    """A larger grid contains the smaller grid's rows unchanged (paper, Alg. 1)."""
    small = Grid(frames=frames, height=height, width=width)
    large = Grid(frames=frames, height=scale * height, width=scale * width)
    table = rope_for_grid(large, WAN).cos.unflatten(0, (frames, large.height, large.width))
    inner = table[:, :height, :width].reshape(small.num_tokens, -1)
    assert torch.equal(inner, rope_for_grid(small, WAN).cos)
    assert Extrapolation().spatial_positions(large)[0][-1] == large.height - 1
