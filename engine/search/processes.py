"""Whether the process that began something is still there, as far as this machine can tell."""

import os
import socket
from pathlib import Path


def this_process() -> dict:
    """Host, number and start of this process, as plain values."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_gone(process: dict) -> bool | None:
    """Whether such a process has ended; None where that cannot be known: another host, or no note of it."""
    if process.get("host") != socket.gethostname() or os.name != "posix":
        return None
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is there and another user's
        pass
    return process["started"] != _started(process["pid"])


def _started(pid: int) -> str | None:
    """Tells a process from a later one of the same number: boot, and clock ticks from it (proc(5), field 22).

    None where the system does not say.
    """
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
    except OSError:
        return None
