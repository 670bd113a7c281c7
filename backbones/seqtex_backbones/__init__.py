"""Video diffusion backbones and codecs behind one protocol."""
