"""LTX-Video: 2B and 13B."""
