"""Records, statistics, figures. Imports no torch."""
