"""HunyuanVideo: dual blocks, then single ones."""
