"""Meshes, cameras, rasterizers, UV maps, baking and non-destructive export."""
