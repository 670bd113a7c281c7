"""CogVideoX: 2B, 5B and 1.5-5B."""
