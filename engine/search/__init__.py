"""A hyper-parameter search with Optuna."""
