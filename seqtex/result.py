"""What a run made: textures, views and the record of how; and how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_geometry.export.publish import check_output, source_files
from seqtex_geometry.export.textured import ExportReport, export_textured
from seqtex_geometry.maps import SurfaceMaps
from seqtex_geometry.render import render_textured

from .intermediates import write_intermediates
from .manifest import Manifest, ModelRecord
from .outputs import check_replaceable, manifest_path, resolve_output, staged
from .prepare import PreparedJob
from .stages import OnProgress, StageClock


@dataclass(frozen=True, kw_only=True)
class SavedResult:
    """Where a result was written.

    Args:
        path: the textured mesh.
        manifest: the record beside it.
        intermediates: the folder of intermediates, if one was asked for.
        files: all files of the mesh, and the record.
        beside: files that the input mesh refers to.
        checked: what was compared with the input and found equal.
        notes: sentences worth telling the user.
    """

    path: Path
    manifest: Path
    files: tuple[Path, ...]
    beside: tuple[Path, ...]
    intermediates: Path | None
    checked: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultMaps:
    """Geometry maps that a method worked with.

    Args:
        textures: in UV space, one per texture set.
        views: as the rig sees the mesh; ``None`` if the method needed none.
    """

    textures: Sequence[SurfaceMaps]
    views: SurfaceMaps | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TextureResult:
    """Textures for a job, ready to be looked at and written.

    Args:
        job: what was textured.
        textures: one per texture set, ``[3, H, W]`` float32 in [0, 1], sRGB, row 0 is v = 1; empty
            for tasks that make views only.
        manifest: the record of the run.
        views: pictures that a model made, ``[F, 3, H, W]`` in [0, 1], in the order of the rig.
        maps: the geometry maps that were used.
    """

    job: PreparedJob
    textures: tuple[Tensor, ...]
    manifest: Manifest
    views: Tensor | None = None
    maps: ResultMaps | None = None

    @property
    def texture(self) -> Tensor:
        """The texture of a mesh that has one.

        Raises:
            UsageError: none or several were made.
        """
        if len(self.textures) != 1:
            raise UsageError(
                "texture", expected="one", got=str(len(self.textures)), remedy="Use .textures."
            )
        return self.textures[0]

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds per stage, in the order they ran."""
        return self.manifest.stage_seconds

    @classmethod
    def of(
        cls,
        job: PreparedJob,
        textures: tuple[Tensor, ...],
        *,
        method: str,
        settings: Mapping[str, Any],
        choices: Mapping[str, str] | None = None,
        stage_seconds: Mapping[str, float] | None = None,
        views: Tensor | None = None,
        maps: ResultMaps | None = None,
    ) -> TextureResult:
        """A result with its manifest, begun from the job's own record.

        Args:
            job: what was textured.
            textures: see the class.
            method: "project" or "model".
            settings: of the method; the job's are added.
            choices: what the method decided automatically; the job's are added.
            stage_seconds: of the method; the job's are added.
            views: see the class.
            maps: see the class.

        Raises:
            UsageError: textures that do not fit the job.
        """
        _check_textures(job, textures)
        manifest = Manifest(
            method=method,
            settings={**job.settings, **settings},
            inputs=job.inputs,
            choices={**job.choices, **(choices or {})},
            stage_seconds={**job.stage_seconds, **(stage_seconds or {})},
        )
        return cls(job=job, textures=textures, manifest=manifest, views=views, maps=maps)

    def with_model(self, model: ModelRecord, *, task: str, seed: int | None) -> TextureResult:
        """The same result whose manifest also names the weights, the task and the seed."""
        return replace(self, manifest=replace(self.manifest, model=model, task=task, seed=seed))

    def noting(self, **settings: Any) -> TextureResult:
        """The same result whose manifest has further settings."""
        manifest = replace(self.manifest, settings={**self.manifest.settings, **settings})
        return replace(self, manifest=manifest)

    def render(self, size: int = 512) -> Tensor:
        """The textured mesh as the rig sees it, unlit, ``[F, 4, S, S]`` with straight alpha."""
        return render_textured(
            self.job.mesh,
            self.textures,
            self.job.cameras,
            height=size,
            width=size,
            rasterizer=self.job.rasterizer,
        )

    def save(
        self,
        out: str | Path | None = None,
        *,
        intermediates: str | Path | None = None,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
    ) -> SavedResult:
        """Write the textured mesh and its manifest; all of it, or nothing.

        The written file is read back and compared with the original before it gets its name.

        Args:
            out: file or folder; ``<stem>_textured`` beside the mesh if not given.
            intermediates: folder for maps, references as used, textures and renders. Optional.
            overwrite: replace files that are not results of ours.
            on_progress: told about the stages.

        Raises:
            UsageError: no texture to write, or a place that must not or cannot be written.
            ContractError: the written file would differ in more than its base colour.
        """
        if not self.textures:
            raise UsageError("result", expected="textures to write", got="views only")
        asset = self.job.asset
        target = check_output(asset, resolve_output(asset.path, None if out is None else Path(out)))
        check_replaceable(target, overwrite=overwrite)
        clock = StageClock(on_progress)
        sources = source_files(asset)
        with ExitStack() as stack:
            folder = stack.enter_context(staged(target.parent, inputs=sources))
            report = self._export(folder / target.name, clock)
            if intermediates is not None:
                steps = stack.enter_context(staged(Path(intermediates)))
                with clock.stage("Intermediates"):
                    write_intermediates(self, steps)
            seconds = {**self.manifest.stage_seconds, **clock.times}
            record = replace(self.manifest, stage_seconds=seconds)
            record.write(manifest_path(folder / target.name))
            written = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
        return SavedResult(
            path=target,
            manifest=manifest_path(target),
            files=tuple(target.parent / file for file in sorted(written)),
            beside=tuple(path for path in sources if path != asset.path),
            intermediates=None if intermediates is None else Path(intermediates),
            checked=report.checked,
            notes=report.notes,
        )

    def _export(self, path: Path, clock: StageClock) -> ExportReport:
        new_uvs = self.job.mesh.face_uvs if self.job.uv_source == "unwrapped" else None
        with clock.stage("Export and verify"):
            return export_textured(
                self.job.asset,
                [_pixels(texture) for texture in self.textures],
                path,
                extras=self.manifest.to_json(with_times=False),  # equal runs, equal bytes
                new_uvs=new_uvs,
            )


def _pixels(texture: Tensor) -> npt.NDArray[np.uint8]:
    """``[H, W, 3]`` uint8 of ``[3, H, W]`` in [0, 1]."""
    scaled = (texture.detach().float().clamp(0, 1) * 255).round().byte()
    return scaled.permute(1, 2, 0).cpu().numpy()


def _check_textures(job: PreparedJob, textures: tuple[Tensor, ...]) -> None:
    if textures and len(textures) != job.num_texture_sets:
        raise UsageError(
            "textures", expected=f"{job.num_texture_sets}, one per set", got=str(len(textures))
        )
    for index, texture in enumerate(textures):
        if texture.ndim != 3 or texture.shape[0] != 3 or not bool(torch.isfinite(texture).all()):
            raise UsageError(
                f"textures[{index}]",
                expected="finite values of shape [3, H, W]",
                got=str(list(texture.shape)),
            )
