"""New UV charts for a mesh, made by xatlas in a child process that can be stopped."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError, MissingDependencyError, UsageError

from .mesh import FloatArray, IntArray, Mesh

_WORKER = Path(__file__).with_name("charts_worker.py")
_POLL_SECONDS = 0.1


def unwrap(
    mesh: Mesh,
    *,
    resolution: int = 1024,
    padding: int = 2,
    timeout_s: float = 120.0,
    on_progress: Callable[[float], None] | None = None,
) -> Mesh:
    """The same mesh with new UVs: one square that all faces share as texture set 0.

    Vertices, faces and their order stay as they are; UVs belong to face corners, so nothing has
    to be split here. Further instances of a primitive get the UVs of the first. Faces without
    area, which xatlas leaves out, get the UV of a neighbour at each corner.

    Args:
        mesh: with or without UVs.
        resolution: texture size in pixels that the packing aims at.
        padding: pixels between charts at that size.
        timeout_s: seconds after which xatlas is stopped.
        on_progress: called with the elapsed seconds, about ten times a second. Optional.

    Raises:
        InputError: xatlas took too long or failed on this mesh.
        MissingDependencyError: xatlas is not installed.
        UsageError: a size that is not positive.

    Source:
        xatlas; the SeqTex rig uses resolution 1024 and padding 2.
    """
    if resolution < 16 or padding < 0 or timeout_s <= 0:
        raise UsageError(
            "unwrap",
            expected="resolution >= 16, padding >= 0, timeout_s > 0",
            got=f"{resolution}, {padding}, {timeout_s}",
        )
    if find_spec("xatlas") is None:
        raise MissingDependencyError(
            "xatlas", expected="an installed package", got="none", remedy="pip install xatlas"
        )
    owned = np.flatnonzero(~mesh.face_is_instance)
    faces = mesh.faces[owned]
    with tempfile.TemporaryDirectory(prefix="seqtex-unwrap-") as name:
        folder = Path(name)
        np.save(folder / "vertices.npy", _scaled(mesh.vertices, faces))
        np.save(folder / "faces.npy", faces.astype(np.uint32))
        # The packed square comes out up to a quarter larger than asked for.
        _run_worker([str(folder), str(resolution), str(padding + 1)], timeout_s, on_progress)
        uvs: FloatArray = np.load(folder / "uvs.npy", allow_pickle=False)
        charted: npt.NDArray[np.bool_] = np.load(folder / "charted.npy", allow_pickle=False)
    if not charted.any():
        raise InputError("mesh", expected="faces with area", got="none that xatlas can chart")
    _fill_uncharted(uvs, charted, faces)
    face_uvs = np.zeros((len(mesh.faces), 3, 2), np.float32)
    face_uvs[owned] = uvs
    if mesh.corner_source is not None:
        face_uvs = face_uvs.reshape(-1, 2)[mesh.corner_source]
    sets = np.zeros(len(mesh.faces), np.int64)
    return replace(mesh, face_uvs=face_uvs, face_texture_set=sets)


def _scaled(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Positions scaled to a mean face area of 1: xatlas drops faces below an absolute area."""
    used = np.unique(faces)
    low = vertices[used].astype(np.float64).min(axis=0)
    moved = vertices.astype(np.float64) - low
    corners = moved[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = float(np.linalg.norm(normals, axis=1).mean()) / 2
    scaled: FloatArray = (moved / np.sqrt(area) if area > 0 else moved).astype(np.float32)
    return np.nan_to_num(scaled)


def _run_worker(
    arguments: list[str], timeout_s: float, on_progress: Callable[[float], None] | None
) -> None:
    start = time.monotonic()
    # -P: the worker's own folder must not shadow other modules.
    process = subprocess.Popen(
        [sys.executable, "-P", str(_WORKER), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while True:
            elapsed = time.monotonic() - start
            if on_progress is not None:
                on_progress(elapsed)
            if elapsed > timeout_s:
                raise InputError(
                    "unwrapping",
                    expected=f"xatlas to finish within {timeout_s:g} s",
                    got=f"no result after {elapsed:.1f} s",
                    remedy="Raise the time-out, simplify the mesh, or give it UVs yourself.",
                )
            try:
                _, errors = process.communicate(timeout=min(_POLL_SECONDS, timeout_s))
                break
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise InputError(
            "unwrapping",
            expected="xatlas to chart the mesh",
            got=f"exit status {process.returncode}: {last[0]}",
            remedy="Give the mesh UVs yourself, or repair it first.",
        )


def _fill_uncharted(uvs: FloatArray, charted: npt.NDArray[np.bool_], faces: IntArray) -> None:
    """Give corners of ignored faces the UV that their vertex has in a charted face."""
    if charted.all():
        return
    corner_of_vertex = np.full(int(faces.max()) + 1, -1, np.int64)
    rows = np.flatnonzero(charted)
    corner_of_vertex[faces[rows].ravel()] = (3 * rows[:, None] + np.arange(3)).ravel()
    flat = uvs.reshape(-1, 2)
    for row in np.flatnonzero(~charted):
        known = corner_of_vertex[faces[row]]
        spare = int(known.max())
        chosen = np.where(known >= 0, known, spare if spare >= 0 else 3 * int(rows[0]))
        uvs[row] = flat[chosen]
