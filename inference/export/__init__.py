"""Turn a checkpoint into a file that runs without this project, verified against the checkpoint."""
