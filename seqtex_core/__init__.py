"""Components for texturing with video diffusion transformers."""
