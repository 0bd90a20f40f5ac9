"""From the composed configuration to objects."""
