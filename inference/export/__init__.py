"""From a checkpoint to files that run without this project, each proved against the checkpoint."""
