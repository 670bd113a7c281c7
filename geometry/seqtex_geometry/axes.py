"""Which way is up and which way is front in a file, and the rotation to the working copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import UsageError

_DEFAULT_FRONT = {"y": "z", "-y": "z", "z": "-y", "-z": "y", "x": "z", "-x": "z"}
AXIS_NAMES = ("x", "y", "z", "-x", "-y", "-z")


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The two directions that orient a file.

    Args:
        up: axis that points up, one of ``AXIS_NAMES``.
        front: axis that points out of the object's face.
        reason: who decided: "glTF standard", "default for OBJ", "--up" ...
    """

    up: str = "y"
    front: str = "z"
    reason: str = "glTF standard"

    def rotation(self) -> npt.NDArray[np.float64]:
        """Rotation from file axes to the working copy (z up, facing -y), ``[3, 3]``.

        Convention:
            Working x is the front view's right: ``front x up`` reversed, so the result is a
            proper rotation; for y up and +z front it is ``(x, y, z) -> (x, -z, y)``.
        """
        up, back = axis_vector(self.up), -axis_vector(self.front)
        return np.stack([np.cross(back, up), back, up])

    def __str__(self) -> str:
        return f"{self.up} up, {self.front} front ({self.reason})"


def axis_vector(name: str) -> npt.NDArray[np.float64]:
    """The unit vector called ``name`` ("x" or "-z"), ``[3]``."""
    vector = np.zeros(3)
    vector["xyz".index(name[-1])] = -1.0 if name[0] == "-" else 1.0
    return vector


def choose_axes(file_format: str, up: str | None, front: str | None) -> Axes:
    """The axes of a file, as named by the user or by the convention of its format.

    Args:
        file_format: "glb", "gltf", "obj", "ply" or "stl".
        up: axis name given by the user. Optional; y otherwise.
        front: axis name given by the user. Optional; +z for y up, -y for z up.

    Raises:
        UsageError: an unknown axis name, or two axes on one line.
    """
    up_name = _parsed("up", up) if up is not None else "y"
    front_name = _parsed("front", front) if front is not None else _DEFAULT_FRONT[up_name]
    if up_name[-1] == front_name[-1]:
        raise UsageError(
            "--front",
            expected=f"an axis at a right angle to up ({up_name})",
            got=front_name,
            remedy="Name another axis for --up or --front.",
        )
    named = [flag for flag, value in (("--up", up), ("--front", front)) if value is not None]
    if named:
        return Axes(up=up_name, front=front_name, reason=" and ".join(named))
    if file_format in ("glb", "gltf"):
        return Axes()
    return Axes(reason=f"default for {file_format.upper()}, change it with --up and --front")


def _parsed(flag: str, name: str) -> str:
    cleaned = name.strip().lower().removeprefix("+")
    if cleaned not in AXIS_NAMES:
        raise UsageError(f"--{flag}", expected="one of " + ", ".join(AXIS_NAMES), got=repr(name))
    return cleaned
