"""``rasterize``: every rasterizer on views and on UV space, then whole geometry maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.maps import SurfaceMaps, uv_maps, view_maps
from seqtex_geometry.rasterize import RASTERIZERS, Rasterizer, choose_rasterizer
from seqtex_geometry.surface import SurfaceTensors

from .meshes import bumpy_sphere
from .result import Row, Scalar, Work
from .runner import Candidate, Case, Session, run_cases

MAX_DIFFERING = 0.005
"""Share of covered pixels whose face may differ from the reference: those on edges."""
MAP_BYTES = 8 + 4 * (3 + 3 + 3 + 1 + 1)


def run(session: Session) -> list[Row]:
    """Rows of all cases."""
    return run_cases(_cases(session), session)


def _cases(session: Session) -> Iterator[Case]:
    if session.quick:
        sizes = [(40, 128, 256)]
    elif session.on_cuda:
        sizes = [(72, 512, 1024), (284, 512, 1024), (284, 1024, 4096)]
    else:
        sizes = [(72, 512, 1024), (284, 512, 1024)]
    for rings, view_size, uv_size in sizes:
        surface = SurfaceTensors.from_mesh(bumpy_sphere(rings), session.device)
        cameras = CameraRig.seqtex(diagonal=surface.diagonal).to(session.device)
        yield _views(surface, cameras, view_size)
        yield _uv(surface, uv_size)
        yield _maps(surface, cameras, view_size, uv_size)


def _views(surface: SurfaceTensors, cameras: CameraRig, size: int) -> Case:
    def draw(rasterizer: Rasterizer) -> Tensor:
        return rasterizer.face_idx_views(surface, cameras, height=size, width=size)

    return _case(f"{len(cameras)} views {size}", surface, len(cameras) * size * size, draw)


def _uv(surface: SurfaceTensors, size: int) -> Case:
    uvs = surface.face_uvs
    assert uvs is not None

    def draw(rasterizer: Rasterizer) -> Tensor:
        return rasterizer.face_idx_uv(uvs, height=size, width=size)

    return _case(f"uv {size}", surface, size * size, draw)


def _case(
    name: str, surface: SurfaceTensors, pixels: int, draw: Callable[[Rasterizer], Tensor]
) -> Case:
    expected: list[Tensor] = []  # the reference is slow, so its first picture is kept

    def check(found: Tensor) -> tuple[str | None, Mapping[str, Scalar]]:
        if not expected:
            expected.append(draw(choose_rasterizer("reference", surface.device)))
        return _differing(found, expected[0])

    return Case(
        benchmark="rasterize",
        name=f"{name}, {surface.num_faces} faces",
        dtype=torch.float32,
        candidates=[_candidate(n, surface.device, draw, check, pixels) for n in RASTERIZERS],
        work=Work(
            bytes=float(8 * pixels + surface.num_faces * 36),
            bytes_formula="int64 face index per pixel written, face corners read",
        ),
        parameters={"pixels": pixels, "faces": surface.num_faces},
    )


def _candidate(
    name: str,
    device: torch.device,
    draw: Callable[[Rasterizer], Tensor],
    check: Callable[[Any], tuple[str | None, Mapping[str, Scalar]]],
    pixels: int,
) -> Candidate:
    rasterizer = RASTERIZERS.get(name)
    reason = rasterizer.reason_unsupported(device)
    if reason is not None:
        return Candidate(name=name, reason=reason)
    return Candidate(
        name=name,
        call=lambda: draw(rasterizer),
        check=check,
        metrics={"rays": pixels},
        notes=() if name == "reference" else ("memory outside torch is not counted",),
    )


def _differing(found: Tensor, expected: Tensor) -> tuple[str | None, Mapping[str, Scalar]]:
    """Share of pixels whose face is another, of those that any of the two covers."""
    covered = (found >= 0) | (expected >= 0)
    share = float((found != expected).sum()) / max(1, int(covered.sum()))
    metrics: dict[str, Scalar] = {
        "differing_share": share,
        "covered_share": float(covered.float().mean()),
    }
    if share <= MAX_DIFFERING:
        return None, metrics
    return f"{share:.2%} of the covered pixels name another face than the reference", metrics


def _maps(surface: SurfaceTensors, cameras: CameraRig, view_size: int, uv_size: int) -> Case:
    """All maps of the main job, with the rasterizer that is chosen automatically."""
    rasterizer = choose_rasterizer("auto", surface.device)

    def make(supersample: int) -> tuple[SurfaceMaps, SurfaceMaps]:
        views = view_maps(
            surface,
            cameras,
            height=view_size,
            width=view_size,
            rasterizer=rasterizer,
            supersample=supersample,
        )
        return views, uv_maps(surface, height=uv_size, width=uv_size, rasterizer=rasterizer)

    pixels = len(cameras) * view_size**2 + uv_size**2
    return Case(
        benchmark="rasterize",
        name=f"maps {view_size}/{uv_size}, {surface.num_faces} faces",
        dtype=torch.float32,
        candidates=[
            Candidate(
                name=f"{rasterizer.name}, supersample {n}",
                call=lambda n=n: make(n),  # type: ignore[misc]
                check=_finite_maps,
            )
            for n in (1, 4)
        ],
        work=Work(
            bytes=float(MAP_BYTES * pixels),
            bytes_formula="all fields of SurfaceMaps written once",
        ),
        parameters={"pixels": pixels, "faces": surface.num_faces},
    )


def _finite_maps(
    maps: tuple[SurfaceMaps, SurfaceMaps],
) -> tuple[str | None, Mapping[str, Scalar]]:
    finite = all(bool(torch.isfinite(m.position).all() & (m.mask <= 1).all()) for m in maps)
    coverage = {
        "view_coverage": float(maps[0].mask.mean()),
        "uv_coverage": float(maps[1].mask.mean()),
    }
    return None if finite else "NaN or a mask above 1", coverage
