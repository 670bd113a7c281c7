"""Wan2.1 and Wan2.2: text-to-video, and what image-to-video models can do without."""
