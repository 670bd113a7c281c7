"""The way out: textures into the original file, verified before it takes its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqtex_core.errors import UsageError

from ..asset import MeshAsset
from ..load.gltf_file import GltfFile
from ..mesh import FloatArray, ImageArray
from ..verify import verify_unchanged
from .gltf_new import new_gltf
from .gltf_textured import textured_gltf
from .obj import textured_obj, tinting_colors
from .obj_library import other_maps
from .publish import check_output, publish, staging_folder
from .textures import check_textures


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote.

    Args:
        path: the main file.
        files: all files of the output, the main one last.
        num_textures: base colour images written.
        checked: what was compared with the input, and found equal.
        notes: sentences worth telling the user.
    """

    path: Path
    files: tuple[Path, ...]
    num_textures: int
    checked: tuple[str, ...]
    notes: tuple[str, ...] = ()


def export_textured(
    asset: MeshAsset,
    textures: Sequence[ImageArray],
    out: str | Path,
    *,
    extras: Mapping[str, Any],
    new_uvs: FloatArray | None = None,
    overwrite: bool = True,
) -> ExportReport:
    """Write the asset with new base colour textures; everything else comes out as it was.

    Args:
        asset: from ``load_asset``; never changed.
        textures: one per texture set, uint8 ``[H, W, 3 or 4]``, sRGB, row 0 on top.
        out: ``.glb`` or ``.gltf``; for OBJ input also ``.obj``. Missing folders are made.
        extras: JSON values, stored as ``asset.extras.seqtex`` in glTF.
        new_uvs: ``face_uvs`` of ``unwrap``, ``[T, 3, 2]``; all faces then share texture set 0.
            Optional: without, the author's UVs are kept.
        overwrite: whether a file at ``out`` may be replaced. The input never is.

    Raises:
        ContractError: something other than the base colour would have changed; nothing is written.
        UsageError: see ``check_output`` and ``check_textures``; no UVs and no ``new_uvs``.
    """
    out = check_output(asset, out, overwrite=overwrite)
    if new_uvs is None and not asset.has_uvs:
        raise UsageError(
            "new_uvs", expected="UVs for a mesh that has none", got="none", remedy="Unwrap first."
        )
    if new_uvs is not None:
        _check_uvs(asset, new_uvs)
    check_textures(textures, 1 if new_uvs is not None else asset.mesh.num_texture_sets)
    files, notes = _files(asset, textures, out, extras, new_uvs)
    with staging_folder(out) as stage:
        for name, data in files.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_bytes(data)
        checked = verify_unchanged(asset, stage / out.name, textures=textures, new_uvs=new_uvs)
        written = publish(asset, stage, out, list(files))
    return ExportReport(
        path=out,
        files=tuple(written),
        num_textures=len(textures),
        checked=tuple(checked),
        notes=tuple(notes),
    )


def _check_uvs(asset: MeshAsset, new_uvs: FloatArray) -> None:
    shape = (len(asset.mesh.faces), 3, 2)
    if new_uvs.shape != shape or not np.isfinite(new_uvs).all():
        raise UsageError(
            "new_uvs", expected=f"finite UVs of shape {list(shape)}", got=str(list(new_uvs.shape))
        )


def _files(
    asset: MeshAsset,
    textures: Sequence[ImageArray],
    out: Path,
    extras: Mapping[str, Any],
    new_uvs: FloatArray | None,
) -> tuple[dict[str, bytes], list[str]]:
    """Contents of every file of the output, by name, the main file last; and notes."""
    notes: list[str] = []
    if out.suffix.lower() == ".obj":
        if tinting_colors(asset):
            notes.append(
                "vertex colours would tint the texture, left out of the OBJ; "
                "a GLB (-o NAME.glb) keeps them as _COLOR_0"
            )
        if new_uvs is not None:
            notes += _maps_note(asset, "fit the old UVs only")
        return textured_obj(asset, textures, new_uvs, out), notes
    source = asset.document if isinstance(asset.document, GltfFile) else None
    if source is not None:
        builder, notes = textured_gltf(asset, textures, extras, new_uvs)
    else:
        builder = new_gltf(asset, textures, extras, new_uvs)
        if tinting_colors(asset):
            notes.append("vertex colours would tint the texture, kept as _COLOR_0")
        notes += _maps_note(asset, "are the OBJ's")
    if out.suffix.lower() == ".glb":
        return {out.name: builder.pack_glb(asset.path)}, notes
    files = builder.pack_gltf(source, out.stem)
    if f"{out.stem}.gltf" != out.name:
        files[out.name] = files.pop(f"{out.stem}.gltf")
    return files, notes


def _maps_note(asset: MeshAsset, why: str) -> list[str]:
    names = other_maps(asset)
    if not names:
        return []
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return [f"maps other than the base colour {why}, left out: {', '.join(names[:8])}{more}"]
