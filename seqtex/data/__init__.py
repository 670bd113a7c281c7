"""Training data: endless synthetic objects, real meshes, banks and shards that stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .bank import GeometryBank as GeometryBank
    from .preparation import Preparation as Preparation
    from .preparation import prepare_meshes as prepare_meshes
    from .production import Production as Production
    from .production import produce as produce
    from .real_sample import SampleOptions as SampleOptions
    from .record import GeometryRecord as GeometryRecord
    from .record import RecordSizes as RecordSizes
    from .sample import GeometryMaps as GeometryMaps
    from .sample import ObjectSample as ObjectSample
    from .sample import TextureImages as TextureImages
    from .sample import draw_texture as draw_texture
    from .splits import split_families as split_families
    from .splits import split_kinds as split_kinds
    from .stream import ShardStream as ShardStream
    from .synth import SynthObject as SynthObject
    from .synth import SynthSettings as SynthSettings
    from .synth import make_object as make_object

_MODULE_OF_NAME = {
    "GeometryBank": "bank",
    "GeometryMaps": "sample",
    "GeometryRecord": "record",
    "ObjectSample": "sample",
    "Preparation": "preparation",
    "Production": "production",
    "RecordSizes": "record",
    "SampleOptions": "real_sample",
    "ShardStream": "stream",
    "SynthObject": "synth",
    "SynthSettings": "synth",
    "TextureImages": "sample",
    "draw_texture": "sample",
    "make_object": "synth",
    "prepare_meshes": "preparation",
    "produce": "production",
    "split_families": "splits",
    "split_kinds": "splits",
}
__all__ = sorted(_MODULE_OF_NAME)
__getattr__, __dir__ = lazy_exports(__name__, _MODULE_OF_NAME)
