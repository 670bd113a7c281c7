"""The mesh as every part of the library sees it: plain arrays, independent of the file format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
ImageArray = npt.NDArray[np.uint8]

_PLAIN_PIXELS = 16

VIEW_NAMES = ("front", "left", "back", "right")


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """What a face looks like before texturing.

    Args:
        name: the file's name for it, or a made-up one.
        base_color_factor: linear RGBA in [0, 1], multiplied onto the image.
        base_color_image: sRGB, ``[H, W, 4]`` uint8, row 0 is the top (v = 1); ``None`` if plain.
        image_error: why the image that it names cannot be shown; ``base_color_image`` is ``None``.
    """

    name: str
    base_color_factor: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    base_color_image: ImageArray | None = None
    image_error: InputError | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is one colour, or an image of next to no pixels, which is no picture."""
        image = self.base_color_image
        no_picture = image is None or image.shape[0] * image.shape[1] <= _PLAIN_PIXELS
        return no_picture and self.image_error is None

    @property
    def shows_tiles(self) -> bool:
        """Whether its image is one per tile of the UVs (UDIM); no file has the name it is given."""
        return self.image_error is not None and "<udim>" in self.image_error.subject.lower()


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """A triangle mesh with everything that rendering and baking need; never changed in place.

    Args:
        vertices: positions, ``[V, 3]``. As loaded: the file's own axes, scene transforms applied;
            float64 where the mesh lies so far from the origin that float32 would blur it.
            After ``normalize``: z up, facing -y, longest bounding-box edge 2, centred.
        faces: vertex indices, ``[T, 3]``, in the order of the file.
        vertex_normals: unit normals, ``[V, 3]``: the author's, or smooth ones where there are none.
        face_uvs: UV coordinates per face corner, ``[T, 3, 2]``, v up, NaN where a face has none;
            ``None`` if no face has any.
        face_material: index into ``materials``, ``[T]``.
        materials: the materials.
        face_primitive: index of the file's primitive instance (glTF: node and primitive; other
            formats: group) that a face came from, ``[T]``.
        face_texture_set: which output texture a face is painted by, ``[T]``; -1 if it stays as it
            is. Faces of one texture set share one UV square.
        vertex_colors: linear RGBA in [0, 1], ``[V, 4]``, or ``None``.
        corner_source: the corner (``3 * face + k``) whose UV each corner repeats, ``[T, 3]``: its
            own number, or, in a further instance of a glTF primitive, the first instance's.
            ``None`` if nothing is repeated. A repeated face shows the texture of its set, but the
            first instance alone gives texels their position.

    Convention:
        Counter-clockwise faces are seen from outside. UV (0, 0) is the lower left of the image.
        Views draw every face and sample the texture wherever ``face_texture_set >= 0``; maps in
        UV space draw ``faces_of_set(i)`` only.
    """

    vertices: FloatArray
    faces: IntArray
    vertex_normals: FloatArray
    face_uvs: FloatArray | None
    face_material: IntArray
    materials: tuple[Material, ...]
    face_primitive: IntArray
    face_texture_set: IntArray
    vertex_colors: FloatArray | None = None
    corner_source: IntArray | None = None

    @property
    def face_is_instance(self) -> BoolArray:
        """Whether a face repeats a face of an earlier instance, ``[T]``."""
        if self.corner_source is None:
            return np.zeros(len(self.faces), dtype=np.bool_)
        return np.asarray(self.corner_source[:, 0] // 3 != np.arange(len(self.faces)))

    @property
    def num_texture_sets(self) -> int:
        """Number of textures that texturing this mesh makes."""
        return int(self.face_texture_set.max(initial=-1)) + 1

    def faces_of_set(self, texture_set: int) -> IntArray:
        """The faces that give the texels of ``texture_set`` their position, indices ``[N]``."""
        owned = (self.face_texture_set == texture_set) & ~self.face_is_instance
        return np.flatnonzero(owned).astype(np.int64)
