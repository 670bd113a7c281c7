"""Benchmarks of the library: ``python -m benchmarks list`` names them. Never shipped."""
