"""New UV charts for a mesh, made by xatlas in a child process that can be stopped."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError, MissingDependencyError, UsageError

from .checks import check_mesh
from .mesh import FloatArray, IntArray, Mesh

_WORKER = Path(__file__).with_name("charts_worker.py")
_POLL_SECONDS = 0.1

ChartMethod = Literal["xatlas", "directions"]
CHART_METHODS: tuple[ChartMethod, ...] = ("xatlas", "directions")
XATLAS_FACES = 60_000
"""Faces up to which xatlas cuts the surface unless the user says otherwise."""


def unwrap(
    mesh: Mesh,
    *,
    method: ChartMethod = "xatlas",
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
        method: who cuts the surface; see :func:`chart_method`. xatlas packs the charts of either.
        resolution: texture size in pixels that the packing aims at.
        padding: pixels between charts at that size.
        timeout_s: seconds after which xatlas is stopped.
        on_progress: called with the elapsed seconds, about ten times a second. Optional.

    Raises:
        InputError: xatlas took too long or failed on this mesh.
        MissingDependencyError: xatlas is not installed.
        UsageError: a size that is not positive, or no ``Mesh``.

    Source:
        xatlas; the SeqTex rig uses resolution 1024 and padding 2.
    """
    check_mesh(mesh)
    if method not in CHART_METHODS:
        raise UsageError("charts", expected=" or ".join(CHART_METHODS), got=repr(method))
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
        if method == "xatlas":
            points, corners = _scaled(mesh.vertices, faces), faces
        else:
            points, corners = _laid_out(mesh.vertices, faces)
        np.save(folder / "vertices.npy", points)
        np.save(folder / "faces.npy", corners.astype(np.uint32))
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


def chart_method(mesh: Mesh) -> ChartMethod:
    """The method for a mesh: xatlas, or the quick one where xatlas takes too long or gives up.

    Measured on smooth ellipsoids: 82 thousand faces took xatlas three minutes; at 328 thousand it
    crashed. Cutting by direction took 2 s and 7 s.
    """
    return "xatlas" if int((~mesh.face_is_instance).sum()) <= XATLAS_FACES else "directions"


def _laid_out(vertices: FloatArray, faces: IntArray) -> tuple[FloatArray, IntArray]:
    """Charts by direction beside each other in the plane, ``[N, 2]``, and the faces' corners.

    xatlas tells charts apart by their place, so each gets a cell of its own.
    """
    from .direction_charts import direction_charts  # scipy: only where charts are cut

    plane, chart = direction_charts(vertices, faces)
    pairs = chart[:, None] * (int(faces.max()) + 1) + faces
    _, first, index = np.unique(pairs, return_index=True, return_inverse=True)
    points = plane.reshape(-1, 2)[first]
    owner = np.repeat(chart, 3)[first]
    count = int(chart.max()) + 1
    low = np.full((count, 2), np.inf)
    np.minimum.at(low, owner, points)
    points = points - low[owner]
    cell = 1.01 * max(float(points.max()), 1e-300)
    per_row = math.ceil(math.sqrt(count))
    places = np.stack([owner % per_row, owner // per_row], axis=1) * cell
    laid: FloatArray = ((points + places) / cell).astype(np.float32)
    return laid, index.reshape(-1, 3).astype(np.int64)


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
                    remedy="Use --charts directions, which is quick, or give the mesh UVs.",
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
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["it crashed"]
        raise InputError(
            "unwrapping",
            expected="xatlas to chart the mesh",
            got=f"exit status {process.returncode}: {last[0]}",
            remedy="Use --charts directions, or give the mesh UVs.",
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
