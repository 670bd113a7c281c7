"""Cosmos: Predict1, Predict2 and Predict2.5."""
