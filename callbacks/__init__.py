"""What happens around training, and around a run."""
