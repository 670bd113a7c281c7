"""Readers of mesh files: each turns one format into a ``ParsedFile``."""
