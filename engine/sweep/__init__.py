"""What surrounds a sweep."""
