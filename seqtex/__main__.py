"""``python -m seqtex``: the same as the ``seqtex`` command."""

from .cli import main

main()
