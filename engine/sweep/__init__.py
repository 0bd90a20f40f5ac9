"""Sweeps: what Hydra's callbacks do around the jobs, and how far they are."""
