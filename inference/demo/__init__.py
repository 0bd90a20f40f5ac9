"""Serve the web folder of a checkpoint on this machine."""
