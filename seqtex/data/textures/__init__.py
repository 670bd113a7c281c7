"""Solid textures: colours as functions of position, normal and material group."""
