"""What Windows refuses and Linux allows."""

import os
import shutil
from pathlib import Path

import pytest


def keep_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to rename or remove a file that this process has open or mapped, or a folder with one, as Windows does."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc to find open files")

    def guarded(usual):
        def act(path, *rest, ignore_errors=False, **settings):
            if held := _open_below(path):
                if ignore_errors:
                    return None
                raise PermissionError(13, f"{held} is open", str(path))
            return usual(path, *rest, **settings)

        return act

    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    monkeypatch.setattr(shutil, "rmtree", guarded(shutil.rmtree))


def _open_below(path: str | Path) -> str | None:
    """Return an open file that is `path` or below it."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    held = [str(link.readlink()) for link in links]
    held += [
        line.split(maxsplit=5)[5].strip() for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line
    ]
    own = os.path.abspath(path)  # noqa: PTH100 links stay links
    return next((file for file in held if file == own or file.startswith(f"{own}/")), None)
