"""Application-layer encryption."""
