"""Data sources: each lists images with their labels."""
