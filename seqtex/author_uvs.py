"""Whether the author's UVs can be painted."""

from __future__ import annotations

from seqtex_core.errors import InputError
from seqtex_geometry.asset import MeshAsset
from seqtex_geometry.udim import udim_tiles
from seqtex_geometry.uv_tiles import flat_uv_share

_MOST_FLAT = 0.5
"""Share of the surface whose UVs may lie on single points; more is no layout to paint on."""


def check_author_uvs(asset: MeshAsset, *, asked_for: bool) -> None:
    """Refuse UVs on which no texture can be painted that looks like the reference.

    Args:
        asset: with UVs.
        asked_for: the user said that they are to be kept; then tiles may share a texture.

    Raises:
        InputError: they have an image for each tile (UDIM), or keep most of the surface on points.
    """
    name = asset.path.name
    image = next((one.image_error for one in asset.mesh.materials if one.shows_tiles), None)
    tiles = 0 if asked_for else udim_tiles(asset.mesh)
    if image is not None or tiles:
        raise InputError(
            f"UVs of {name}",
            expected="UVs for one image",
            got=f"one image for each tile of them (UDIM): {image.subject}"
            if image is not None
            else f"charts in {tiles} tiles (UDIM) that would lie over each other in one image",
            remedy="Use --unwrap, so that all tiles become one"
            + ("." if image is not None else ", or --keep-uv if they are to share their texels."),
        )
    share = flat_uv_share(asset.mesh)
    if share > _MOST_FLAT:
        raise InputError(
            name,
            expected="UVs that spread the surface over a texture",
            got=f"UVs that keep {share:.0%} of it on single points, or nearly so",
            remedy="Use --unwrap to make new UVs.",
        )
