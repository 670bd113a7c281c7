"""Fused operations between the matrix products, each beside its plain form."""
