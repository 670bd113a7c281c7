"""From files to a job: the working copy, its UVs, the cameras and the checked references."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import InputError, UnsupportedError, UsageError
from seqtex_geometry.asset import BadImages, MeshAsset, load_asset
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.charts import ChartMethod, chart_method, unwrap
from seqtex_geometry.maps import (
    SurfaceMaps,
    shared_uv_share,
    uv_map_layers,
    uv_maps,
    view_maps,
)
from seqtex_geometry.mesh import Mesh
from seqtex_geometry.rasterize import Rasterizer, choose_rasterizer
from seqtex_geometry.regions import face_regions
from seqtex_geometry.surface import SurfaceTensors
from seqtex_geometry.uv_tiles import flat_uv_share
from seqtex_geometry.working_copy import normalize

from .author_uvs import check_author_uvs
from .manifest import FileRecord
from .prepare_options import PrepareOptions
from .references import ReferenceImage, ReferenceSource, read_references
from .silhouettes import Reference, fit_reference
from .stages import OnProgress, StageClock

_SETS_LOOKED_AT = 16
_MANY_SETS = 8
_WORTH_TELLING = 0.02

UvSource = Literal["author", "unwrapped", "none"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedJob:
    """Everything that texturing needs, whichever method does it.

    Args:
        asset: the file, untouched.
        mesh: the normalised working copy, with the UVs that will be painted.
        uv_source: whose UVs those are: the author's, new ones, or nobody's (left out on request).
        surface: the same mesh as tensors on the device.
        cameras: the rig, on the same device.
        rasterizer: the chosen backend.
        references: in the order of the rig's views.
        inputs: the files that were read, for the manifest.
        choices: what was decided automatically, as sentences for the user.
        settings: the options of preparation, resolved, for the manifest.
        stage_seconds: time of each stage.
    """

    asset: MeshAsset
    mesh: Mesh
    uv_source: UvSource
    surface: SurfaceTensors
    cameras: CameraRig
    rasterizer: Rasterizer
    references: tuple[Reference, ...]
    inputs: tuple[FileRecord, ...]
    choices: Mapping[str, str]
    settings: Mapping[str, Any]
    stage_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.surface.device

    @property
    def num_texture_sets(self) -> int:
        """Number of textures to make."""
        return self.mesh.num_texture_sets

    def view_maps(self, size: int, *, supersample: int = 1) -> SurfaceMaps:
        """Maps of all views at ``size`` x ``size`` pixels."""
        return view_maps(
            self.surface,
            self.cameras,
            height=size,
            width=size,
            rasterizer=self.rasterizer,
            supersample=supersample,
        )

    def uv_maps(self, size: int, *, texture_set: int = 0) -> SurfaceMaps:
        """Maps of one texture set in UV space at ``size`` x ``size`` texels."""
        return uv_maps(
            self.surface,
            height=size,
            width=size,
            rasterizer=self.rasterizer,
            faces=self.faces_of_set(texture_set),
        )

    def uv_map_layers(self, size: int, *, texture_set: int = 0) -> list[SurfaceMaps]:
        """The maps of one texture set, then those of faces that show the same texels."""
        shown = torch.from_numpy(self.mesh.face_texture_set).to(self.device) == texture_set
        owned = self.faces_of_set(texture_set)
        return uv_map_layers(
            self.surface,
            height=size,
            width=size,
            rasterizer=self.rasterizer,
            faces=owned,
            sharing=shown & ~owned,
        )

    @property
    def face_regions(self) -> Tensor:
        """Number of the plain material that each face shows, ``[T]``, or -1."""
        return torch.from_numpy(face_regions(self.mesh)).to(self.device)

    def faces_of_set(self, texture_set: int) -> Tensor:
        """Faces that give a set's texels their position, boolean ``[T]``."""
        wanted = torch.zeros(self.surface.num_faces, dtype=torch.bool, device=self.device)
        wanted[torch.from_numpy(self.mesh.faces_of_set(texture_set)).to(self.device)] = True
        return wanted


def prepare_job(
    mesh: str | Path | MeshAsset,
    references: Mapping[str, ReferenceSource] | Sequence[ReferenceImage] = (),
    *,
    options: PrepareOptions | None = None,
    on_progress: OnProgress | None = None,
) -> PreparedJob:
    """Load, normalise, unwrap if needed, place the cameras and check the references.

    Args:
        mesh: a file, or one already loaded (its axes are then decided).
        references: per view name a path or a PIL image; or images already read.
        options: defaults to ``PrepareOptions()``.
        on_progress: told about the stages.

    Raises:
        InputError: the mesh, its UVs or an image is rejected, or a reference does not fit its view.
        UsageError: an unknown view, axis, device or rasterizer; ``--keep-uv`` without UVs.
        UnsupportedError: the device or the named rasterizer cannot be used.
    """
    options = options or PrepareOptions()
    clock = StageClock(on_progress)
    device = choose_device(options.device)
    rasterizer = choose_rasterizer(options.rasterizer, device)
    with clock.stage("Load"):
        images = _read_images(references)
        asset = mesh if isinstance(mesh, MeshAsset) else _load(mesh, options)
        working, _ = normalize(asset.mesh, asset.axes)
    working, uv_source = _with_uvs(asset, working, options, clock)
    charts = _chart_method(working, options)
    surface = SurfaceTensors.from_mesh(working, device)
    cameras = CameraRig.seqtex(diagonal=_diagonal(working)).to(device)
    fitted = []
    for image in images:
        with clock.stage("Check references"):
            fitted.append(
                fit_reference(
                    image, surface, cameras, rasterizer=rasterizer, min_iou=options.min_iou
                )
            )
    return PreparedJob(
        asset=asset,
        mesh=working,
        uv_source=uv_source,
        surface=surface,
        cameras=cameras,
        rasterizer=rasterizer,
        references=tuple(fitted),
        inputs=_records(asset, images),
        choices={
            "axes": str(asset.axes),
            "UVs": _uv_sentence(working, uv_source, charts)
            + _sharing_sentence(surface, working, uv_source, rasterizer, options),
            "rasterizer": rasterizer.name,
            "device": str(device),
            **{f"reference {reference.view}": str(reference) for reference in fitted},
        },
        settings={
            **_settings(options, asset, uv_source, rasterizer, device),
            "charts": charts if uv_source == "unwrapped" else None,
        },
        stage_seconds=clock.times,
    )


def choose_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is CUDA if there is one, else the CPU.

    Raises:
        UsageError: no such device name.
        UnsupportedError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("--device", expected="auto, cpu, cuda, cuda:0, ...", got=name) from error
    if device.type == "meta":
        raise UsageError("--device", expected="one that computes", got=name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UnsupportedError(
            f"device {name!r}",
            expected="a device that torch can use here",
            got=str(error).strip().split("\n", 1)[0],
            remedy="See `seqtex info`; --device cpu runs everywhere.",
        ) from error
    return device


def _load(path: str | Path, options: PrepareOptions) -> MeshAsset:
    bad_images: BadImages = "refuse" if options.uv == "as_is" else "tell"
    return load_asset(path, up=options.up, front=options.front, bad_images=bad_images)


def _read_images(
    references: Mapping[str, ReferenceSource] | Sequence[ReferenceImage],
) -> list[ReferenceImage]:
    if isinstance(references, Mapping):
        return read_references(references)
    return list(references)


def _with_uvs(
    asset: MeshAsset, mesh: Mesh, options: PrepareOptions, clock: StageClock
) -> tuple[Mesh, UvSource]:
    if options.uv == "as_is":
        return mesh, "author" if asset.has_uvs else "none"
    if options.uv != "unwrap" and asset.has_uvs:
        check_author_uvs(asset, asked_for=options.uv == "keep")
        return mesh, "author"
    if options.uv == "keep":
        raise InputError(
            asset.path.name,
            expected="UVs to keep (--keep-uv)",
            got="a mesh without UVs",
            remedy="Leave --keep-uv out to have it unwrapped.",
        )
    limit = options.unwrap_seconds
    method = _chart_method(mesh, options)
    with clock.stage("Unwrap", math.ceil(limit)) as step:
        made = unwrap(
            mesh,
            method=method,
            timeout_s=limit,
            on_progress=lambda seconds: step(int(seconds)),
        )
    return made, "unwrapped"


def _chart_method(mesh: Mesh, options: PrepareOptions) -> ChartMethod:
    return chart_method(mesh) if options.charts == "auto" else options.charts


def _diagonal(mesh: Mesh) -> float:
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
    return float(np.linalg.norm(used.max(axis=0) - used.min(axis=0)))


def _uv_sentence(mesh: Mesh, source: UvSource, method: ChartMethod) -> str:
    sets = mesh.num_texture_sets
    if source == "none":
        return "none"
    made = {"xatlas": "new, made by xatlas", "directions": "new, cut by direction (--charts)"}
    owner = "the author's" if source == "author" else made[method]
    flat = flat_uv_share(mesh)
    note = (
        f"; {flat:.0%} of the surface lies on single points of it, or nearly so"
        if flat >= 0.005
        else ""
    )
    if source == "author" and sets > _MANY_SETS:
        note = f", each of which takes its time (--unwrap makes one){note}"
    return f"{owner}, {sets} texture{'' if sets == 1 else 's'}{note}"


def _sharing_sentence(
    surface: SurfaceTensors,
    mesh: Mesh,
    source: UvSource,
    rasterizer: Rasterizer,
    options: PrepareOptions,
) -> str:
    """Tells of the author's charts over each other, on the texture of which most lie so."""
    if source != "author" or options.uv == "as_is":
        return ""
    share = 0.0
    for index in range(min(mesh.num_texture_sets, _SETS_LOOKED_AT)):
        faces = torch.from_numpy(np.isin(np.arange(len(mesh.faces)), mesh.faces_of_set(index)))
        found = shared_uv_share(surface, size=512, rasterizer=rasterizer, faces=faces)
        share = max(share, found)
    if share < _WORTH_TELLING:
        return ""
    return f"; {share:.0%} of them lie over others and share texels (--unwrap parts them)"


def _settings(
    options: PrepareOptions,
    asset: MeshAsset,
    uv_source: UvSource,
    rasterizer: Rasterizer,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "up": asset.axes.up,
        "front": asset.axes.front,
        "uvs": uv_source,
        "min_iou": options.min_iou,
        "rasterizer": rasterizer.name,
        "device": str(device),
    }


def _records(asset: MeshAsset, images: Sequence[ReferenceImage]) -> tuple[FileRecord, ...]:
    mesh = FileRecord(
        role="mesh", name=asset.path.name, sha256=hashlib.sha256(asset.source).hexdigest()
    )
    return (
        mesh,
        *(
            FileRecord(role=f"reference {image.view}", name=image.name, sha256=image.sha256)
            for image in images
        ),
    )
