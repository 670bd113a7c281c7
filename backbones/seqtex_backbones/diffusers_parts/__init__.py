"""What the backbones have in common whose weights are a transformer of diffusers."""
