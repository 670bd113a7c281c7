"""Geometry maps: position, normal, mask and depth, seen by cameras or laid out in UV space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from seqtex_core.errors import UsageError

from .cameras import CameraRig
from .chart_order import chart_order
from .checks import check_kind
from .interpolate import Fragments, triangle_areas, uv_fragments, view_fragments
from .rasterize import Rasterizer
from .rasterize.reference import uv_coverage
from .surface import SurfaceTensors
from .uv_tiles import wrap_face_uvs

_MIN_OVERLAP = 5e-4  # of the texels; less is not worth a layer


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceMaps:
    """What the surface looks like in F pictures; background is 0 (``face_idx`` -1) everywhere.

    Args:
        face_idx: face under the pixel centre, ``[F, H, W]`` int64.
        barycentrics: of the pixel centre in that face, ``[F, H, W, 3]``.
        position: ``[F, H, W, 3]``, world coordinates.
        normal: ``[F, H, W, 3]``, interpolated vertex normals.
        mask: covered share of the pixel, ``[F, H, W]`` in [0, 1]; 0 or 1 without supersampling.
        depth: at the pixel centre, ``[F, H, W]``; 0 in UV space.

    Convention:
        With supersampling, ``position``, ``normal`` and ``mask`` are averaged over the pixel's
        area, background zeros included, as in the released system's antialiased views; the other
        fields are always those of the pixel centre.
    """

    face_idx: Tensor
    barycentrics: Tensor
    position: Tensor
    normal: Tensor
    mask: Tensor
    depth: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.face_idx.shape[-2], self.face_idx.shape[-1]

    @property
    def hit(self) -> Tensor:
        """True where the pixel centre is covered, ``[F, H, W]``."""
        return self.face_idx >= 0


def view_maps(
    surface: SurfaceTensors,
    cameras: CameraRig,
    *,
    height: int,
    width: int,
    rasterizer: Rasterizer,
    supersample: int = 1,
    unit_normals: bool = False,
) -> SurfaceMaps:
    """Maps of the surface as F cameras see it.

    Args:
        surface: gradients flow to its vertices and normals.
        cameras: F cameras.
        height: of the maps, in pixels.
        width: of the maps, in pixels.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        supersample: samples per pixel and axis; above 1 silhouettes are antialiased.
        unit_normals: scale interpolated normals to length 1. The released weights expect them as
            interpolated.

    Raises:
        UsageError: sizes that are not positive, or arguments of another kind.
    """
    _check_size(height, width, supersample)
    _check_kinds(surface, rasterizer)
    check_kind("cameras", cameras, CameraRig)
    cameras = cameras.to(surface.device)
    centre = _view_fragments(surface, cameras, height, width, rasterizer)
    if supersample == 1:
        return _maps(surface, centre, centre, 1, unit_normals)
    scale = supersample
    fine = _view_fragments(surface, cameras, height * scale, width * scale, rasterizer)
    return _maps(surface, centre, fine, scale, unit_normals)


def uv_maps(
    surface: SurfaceTensors,
    *,
    height: int,
    width: int,
    rasterizer: Rasterizer,
    faces: Tensor | None = None,
    unit_normals: bool = False,
) -> SurfaceMaps:
    """Maps of the surface laid out in its UV square (F = 1), not antialiased.

    UV coordinates outside the unit square repeat: such faces are rasterized once per unit square
    that they touch. Where charts lie over each other, one of them is on top as a whole, see
    :func:`~seqtex_geometry.chart_order.chart_order`.

    Args:
        surface: must have ``face_uvs``; gradients flow to vertices and normals.
        height: of the maps, in texels.
        width: of the maps, in texels.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        faces: boolean mask ``[T]`` of the faces to draw, such as those of one texture set.
            Defaults to all that have UVs.
        unit_normals: scale interpolated normals to length 1.

    Raises:
        UsageError: no UVs, a mask of another length, sizes that are not positive, or arguments of
            another kind.
    """
    _check_size(height, width, 1)
    _check_kinds(surface, rasterizer)
    uvs, source = wrapped_uvs(surface, faces)
    copy_idx = rasterizer.face_idx_uv(uvs, height=height, width=width)
    if bool(_lost(copy_idx, uvs).any()):
        order = chart_order(uvs, surface.corners()[source])
        uvs, source = uvs[order], source[order]
        copy_idx = rasterizer.face_idx_uv(uvs, height=height, width=width)
    local = uv_fragments(copy_idx, uvs)
    fragments = Fragments(
        shape=local.shape,
        pixel=local.pixel,
        face=source[local.face],
        barycentrics=local.barycentrics,
        depth=local.depth,
    )
    return _maps(surface, fragments, fragments, 1, unit_normals)


def uv_map_layers(
    surface: SurfaceTensors,
    *,
    height: int,
    width: int,
    rasterizer: Rasterizer,
    faces: Tensor | None = None,
    sharing: Tensor | None = None,
    max_layers: int = 4,
) -> list[SurfaceMaps]:
    """UV maps of faces that lie over each other in UV space, such as mirrored halves.

    The first layer is :func:`uv_maps`. Each further layer holds the faces that lost most of their
    texels in all layers before it; there is none where charts do not overlap.

    Args:
        surface: as for :func:`uv_maps`.
        height: of the maps, in texels.
        width: of the maps, in texels.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        faces: boolean mask ``[T]`` of the faces to draw. Defaults to all that have UVs.
        sharing: boolean mask ``[T]`` of faces that are left out of the first layer because they
            show texels whose position others give, such as further instances. Optional.
        max_layers: most layers to make; what lies deeper is left out.
    """
    layers = [uv_maps(surface, height=height, width=width, rasterizer=rasterizer, faces=faces)]
    assert surface.face_uvs is not None  # uv_maps would have raised
    finite = torch.isfinite(surface.face_uvs).all(-1).all(-1)
    wanted = finite if faces is None else finite & faces.to(finite.device)
    if sharing is not None:
        wanted = wanted | (finite & sharing.to(finite.device))
    while len(layers) < max_layers:
        wanted = wanted & _lost(layers[-1].face_idx, surface.face_uvs)
        if not bool(wanted.any()):
            break
        layer = uv_maps(surface, height=height, width=width, rasterizer=rasterizer, faces=wanted)
        # Faces smaller than a texel lose by chance; only texels that change their face count.
        new = layer.hit & torch.stack([layer.face_idx != one.face_idx for one in layers]).all(0)
        if int(new.sum()) < _MIN_OVERLAP * height * width:
            break
        layers.append(layer)
    return layers


def shared_uv_share(
    surface: SurfaceTensors, *, size: int, rasterizer: Rasterizer, faces: Tensor | None = None
) -> float:
    """Share of the UV area that lies over other UV area: mirrored, stacked, repeated or tiled.

    Args:
        surface: must have ``face_uvs``.
        size: of the UV map that it is measured on, in texels.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        faces: boolean mask ``[T]`` of the faces that count. Defaults to all that have UVs.

    Raises:
        UsageError: no UVs, or a mask of another length.
        InputError: a face repeats the texture too often.
    """
    uvs, source = wrapped_uvs(surface, faces)
    assert surface.face_uvs is not None  # wrapped_uvs would have raised
    laid_out = float(triangle_areas(surface.face_uvs.detach()[source.unique()]).sum())
    covered = int((rasterizer.face_idx_uv(uvs, height=size, width=size) >= 0).sum()) / size**2
    return max(0.0, 1.0 - covered / laid_out) if laid_out > 0 else 0.0


def count_uv_overlaps(
    surface: SurfaceTensors, *, height: int, width: int, faces: Tensor | None = None
) -> int:
    """Texels whose centre lies inside more than one face.

    Args:
        surface: must have ``face_uvs``.
        height: of the UV map, in texels.
        width: of the UV map, in texels.
        faces: boolean mask ``[T]`` of the faces that count. Defaults to all that have UVs.

    Raises:
        UsageError: no UVs, a mask of another length, or sizes that are not positive.
    """
    _check_size(height, width, 1)
    uvs, _ = wrapped_uvs(surface, faces)
    return int((uv_coverage(uvs, height=height, width=width) > 1).sum())


def wrapped_uvs(surface: SurfaceTensors, faces: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """UVs moved into the unit square, and the face each row came from.

    Args:
        surface: must have ``face_uvs``.
        faces: boolean mask ``[T]`` of the faces wanted.

    Returns:
        ``[N, 3, 2]`` and ``[N]`` int64. Faces without UVs are left out.

    Raises:
        UsageError: no UVs, or a mask of another length.
    """
    if surface.face_uvs is None:
        raise UsageError(
            "surface.face_uvs",
            expected="UV coordinates",
            got="none",
            remedy="Unwrap the mesh first.",
        )
    if faces is not None and tuple(faces.shape) != (surface.num_faces,):
        raise UsageError(
            "faces", expected=f"mask of shape [{surface.num_faces}]", got=str(list(faces.shape))
        )
    wanted = torch.isfinite(surface.face_uvs).all(-1).all(-1)
    if faces is not None:
        wanted = wanted & faces.to(wanted.device)
    source = torch.nonzero(wanted)[:, 0]
    face_uvs = surface.face_uvs[source]
    if face_uvs.numel() == 0 or bool(((face_uvs >= 0) & (face_uvs <= 1)).all()):
        return face_uvs, source
    copies, row = wrap_face_uvs(face_uvs.detach().cpu().numpy())
    return torch.from_numpy(copies).to(face_uvs), source[torch.from_numpy(row).to(source.device)]


def _lost(face_idx: Tensor, face_uvs: Tensor) -> Tensor:
    """Faces of a texel or more that others lie over, ``[T]``: most of their texels are not theirs.

    Args:
        face_idx: face per texel, ``[H, W]`` or ``[1, H, W]``.
        face_uvs: ``[T, 3, 2]``; all in the unit square.
    """
    height, width = face_idx.shape[-2:]
    won = torch.bincount(face_idx[face_idx >= 0], minlength=len(face_uvs))
    expected = triangle_areas(torch.nan_to_num(face_uvs.detach())) * height * width
    return (won < 0.5 * expected) & (expected >= 1.0)


def _view_fragments(
    surface: SurfaceTensors, cameras: CameraRig, height: int, width: int, rasterizer: Rasterizer
) -> Fragments:
    face_idx = rasterizer.face_idx_views(surface, cameras, height=height, width=width)
    return view_fragments(face_idx, surface, cameras)


def _maps(
    surface: SurfaceTensors,
    centre: Fragments,
    fine: Fragments,
    scale: int,
    unit_normals: bool,
) -> SurfaceMaps:
    normals = fine.interpolate(surface.vertex_normals, surface.faces)
    if unit_normals:
        normals = normalize(normals, dim=-1)
    positions = fine.interpolate(surface.vertices, surface.faces)
    ones = torch.ones_like(positions[:, 0])
    return SurfaceMaps(
        face_idx=centre.image(centre.face, -1),
        barycentrics=centre.image(centre.barycentrics),
        position=_area_mean(fine.image(positions), scale),
        normal=_area_mean(fine.image(normals), scale),
        mask=_area_mean(fine.image(ones)[..., None], scale)[..., 0],
        depth=centre.image(centre.depth),
    )


def _area_mean(images: Tensor, scale: int) -> Tensor:
    """Averages ``[F, s H, s W, C]`` over s x s pixels."""
    if scale == 1:
        return images
    return avg_pool2d(images.permute(0, 3, 1, 2), scale).permute(0, 2, 3, 1)


def _check_kinds(surface: SurfaceTensors, rasterizer: Rasterizer) -> None:
    check_kind("surface", surface, SurfaceTensors, remedy="Use SurfaceTensors.from_mesh(mesh).")
    if not hasattr(rasterizer, "face_idx_uv"):
        raise UsageError(
            "rasterizer",
            expected="one that choose_rasterizer gives",
            got=repr(rasterizer) if isinstance(rasterizer, str) else type(rasterizer).__name__,
            remedy="Use choose_rasterizer(name).",
        )


def _check_size(height: int, width: int, supersample: int) -> None:
    if min(height, width, supersample) < 1:
        raise UsageError(
            "map size",
            expected="positive height, width and supersample",
            got=f"{height} x {width}, supersample {supersample}",
        )
