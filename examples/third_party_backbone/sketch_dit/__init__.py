"""A small video diffusion transformer, and its SeqTex backbone."""
