"""Metrics, intervals and tests from labels and probabilities. Imports no torch."""
