"""Models: their configs, their weights and how they are found."""
