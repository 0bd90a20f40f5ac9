"""Turn a checkpoint into a folder with a web page that labels images in the browser."""

from pathlib import Path

PAGE = Path(__file__).parent / "page"  # index.html and what it loads; the same for every network
