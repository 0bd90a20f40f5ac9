"""Where the project and the files of a run lie."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OUTPUTS = PROJECT / "outputs"
