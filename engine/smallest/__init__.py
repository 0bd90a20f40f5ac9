"""The smallest network that is good enough: candidates, screen, race, finals, choice and proof."""
