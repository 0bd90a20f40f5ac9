"""One run and many runs: command line, configuration, stages, sweeps, search."""
