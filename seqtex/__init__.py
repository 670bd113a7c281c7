"""The SeqTex application: pipeline, command line, manifests."""
