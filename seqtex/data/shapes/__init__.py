"""Shape families: each draws endless meshes of one kind from random numbers alone."""
