"""Lightning callbacks. They import no engine: engine/run/callback_list.py gives them what they need."""
