"""The search for the smallest network that is good enough: candidates, screen, race, finals."""
