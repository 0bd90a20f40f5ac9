"""The border of trust: the one place where files that a stranger may have made are read."""
