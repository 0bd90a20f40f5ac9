"""Exceptions that end a command, and the texts for errors of the disk."""

import errno
import signal


class UserError(ValueError):
    """Name what the user can change: the key or file, the value found, what is allowed, the next step.

    The root scripts show its text without a traceback. Every other exception, a plain ValueError too, is a defect of this
    project and keeps its traceback.
    """


class StopRequested(BaseException):
    """Carry the signal that asked the run to end; not an Exception, so `except Exception` cannot keep a sweep running."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.next_step = ""


class TrialPruned(Exception):  # noqa: N818 not an error
    """End a run of a search before its last epoch; the text is the reason."""


ELSEWHERE = "hydra.run.dir=DIR (for a sweep, hydra.sweep.dir=DIR; for the caches, datamodule.cache=DIR)"
REMOVED_FOLDER = (
    "this folder was removed or moved while this command ran: what it wrote is lost or incomplete. Run it again"
)
DISK_ERRORS = {
    errno.ENOSPC: f"no space is left on the disk; free some, or write elsewhere: {ELSEWHERE}",
    errno.EFBIG: f"the file is larger than the file system or ulimit -f allows; write elsewhere: {ELSEWHERE}",
    errno.EDQUOT: f"the disk quota is used up; free some space, or write elsewhere: {ELSEWHERE}",
    errno.EACCES: f"no permission; to read, ask the owner for it; to write, choose another folder: {ELSEWHERE}",
    errno.EPERM: f"not permitted; choose a folder that you may write to: {ELSEWHERE}",
    errno.EROFS: f"the file system is read-only; write elsewhere: {ELSEWHERE}",
    errno.ENOTDIR: f"a part of this path is a file, not a folder; write elsewhere: {ELSEWHERE}",
    errno.EISDIR: f"is a folder, but must be a file; move it away, or write elsewhere: {ELSEWHERE}",
    errno.EMFILE: "this process has too many open files; raise the limit (ulimit -n), or use a smaller datamodule.num_workers",
    errno.ENFILE: "this machine has too many open files; end other programs",
    errno.ELOOP: f"a link in this path leads back to itself; repair it, or write elsewhere: {ELSEWHERE}",
}
