"""Ablations: the paper's questions at the scale of one CPU, with equal budgets and several seeds.

``python -m benchmarks ablation``; see ``benchmarks/README.md``.
"""
