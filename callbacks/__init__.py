"""Lightning callbacks. They import no engine: engine/run/stages.py gives them what they need."""
