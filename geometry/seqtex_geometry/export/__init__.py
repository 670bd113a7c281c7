"""Writing textures back into the file that a mesh came from."""
