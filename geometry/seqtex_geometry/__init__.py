"""Meshes, cameras, rasterizers, UV maps, baking and non-destructive export.

Public names are imported when first used, so that reading a mesh does not load torch. No module
is called like a public name: importing it would hide the name behind the module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .asset import MeshAsset as MeshAsset
    from .asset import load_asset as load_asset
    from .axes import Axes as Axes
    from .backproject import BackProjection as BackProjection
    from .cameras import CameraRig as CameraRig
    from .charts import unwrap as unwrap
    from .contact_sheet import save_contact_sheet as save_contact_sheet
    from .export.publish import check_output as check_output
    from .export.textured import ExportReport as ExportReport
    from .export.textured import export_textured as export_textured
    from .fill import fill_nearest_surface as fill_nearest_surface
    from .fill import fill_smooth_surface as fill_smooth_surface
    from .maps import SurfaceMaps as SurfaceMaps
    from .maps import count_uv_overlaps as count_uv_overlaps
    from .maps import uv_map_layers as uv_map_layers
    from .maps import uv_maps as uv_maps
    from .maps import view_maps as view_maps
    from .mesh import VIEW_NAMES as VIEW_NAMES
    from .mesh import Material as Material
    from .mesh import Mesh as Mesh
    from .normals import smooth_normals as smooth_normals
    from .picture_view import BackprojectSettings as BackprojectSettings
    from .project import ProjectedTexture as ProjectedTexture
    from .project import Projector as Projector
    from .project import ProjectSettings as ProjectSettings
    from .project import project_texture as project_texture
    from .rasterize import Rasterizer as Rasterizer
    from .rasterize import available_rasterizers as available_rasterizers
    from .rasterize import choose_rasterizer as choose_rasterizer
    from .render import RenderStyle as RenderStyle
    from .render import render_textured as render_textured
    from .seams import pad_seams as pad_seams
    from .surface import SurfaceTensors as SurfaceTensors
    from .uv_tiles import UVReport as UVReport
    from .uv_tiles import uv_report as uv_report
    from .uv_tiles import wrap_face_uvs as wrap_face_uvs
    from .verify import verify_unchanged as verify_unchanged
    from .working_copy import Normalization as Normalization
    from .working_copy import normalize as normalize

_MODULE_OF_NAME = {
    "uv_map_layers": "maps",
    "fill_smooth_surface": "fill",
    "fill_nearest_surface": "fill",
    "count_uv_overlaps": "maps",
    "Axes": "axes",
    "BackProjection": "backproject",
    "BackprojectSettings": "picture_view",
    "CameraRig": "cameras",
    "ExportReport": "export.textured",
    "Material": "mesh",
    "Mesh": "mesh",
    "MeshAsset": "asset",
    "Normalization": "working_copy",
    "ProjectSettings": "project",
    "ProjectedTexture": "project",
    "Projector": "project",
    "Rasterizer": "rasterize",
    "RenderStyle": "render",
    "SurfaceMaps": "maps",
    "SurfaceTensors": "surface",
    "UVReport": "uv_tiles",
    "VIEW_NAMES": "mesh",
    "available_rasterizers": "rasterize",
    "check_output": "export.publish",
    "choose_rasterizer": "rasterize",
    "export_textured": "export.textured",
    "load_asset": "asset",
    "normalize": "working_copy",
    "pad_seams": "seams",
    "project_texture": "project",
    "render_textured": "render",
    "save_contact_sheet": "contact_sheet",
    "smooth_normals": "normals",
    "unwrap": "charts",
    "uv_maps": "maps",
    "uv_report": "uv_tiles",
    "verify_unchanged": "verify",
    "view_maps": "maps",
    "wrap_face_uvs": "uv_tiles",
}
__all__ = sorted(_MODULE_OF_NAME)
__getattr__, __dir__ = lazy_exports(__name__, _MODULE_OF_NAME)
