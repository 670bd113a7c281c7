"""Mochi 1: a narrower text stream, learned positions."""
