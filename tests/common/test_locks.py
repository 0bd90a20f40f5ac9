import threading
import time

import pytest
from filelock import FileLock

from common import locks
from common.locks import locked, one_at_a_time


@pytest.fixture
def waiting(monkeypatch):
    """Return an event that is set once a process begins to wait for a lock."""
    event, acquire = threading.Event(), locks._acquire

    def acquiring(lock, timeout_s):
        if timeout_s:
            event.set()
        return acquire(lock, timeout_s)

    monkeypatch.setattr(locks, "_acquire", acquiring)
    return event


def test_a_lock_is_one_process_s_until_the_block_is_left(tmp_path, caplog):
    path = tmp_path / "a.lock"
    with caplog.at_level("INFO"), pytest.raises(KeyError), locked(path, removes=True, what="reading images") as is_free:
        assert is_free
        with locked(path, removes=True, what="reading images") as other:
            assert not other
        assert path.is_file()  # only who has the lock removes it
        raise KeyError
    assert not path.exists() and not caplog.messages
    with locked(path) as is_free:
        assert is_free
    assert path.is_file()


@pytest.mark.parametrize(("timeout_s", "what", "shown"), [
    (5, "", []), (-1, "reading images", ["reading images: another process is doing this; waiting"]),
])  # fmt: skip
def test_who_waits_gets_the_lock_and_may_say_what_for(tmp_path, caplog, waiting, timeout_s, what, shown):
    path = tmp_path / "a.lock"
    is_held, steps = threading.Event(), []

    def hold():
        with FileLock(path):
            is_held.set()
            waiting.wait(20)
            steps.append("released")

    other = threading.Thread(target=hold)
    other.start()
    is_held.wait()
    with caplog.at_level("INFO", "common"), locked(path, timeout_s, what=what) as is_free:
        assert is_free and steps == ["released"]
    other.join()
    assert caplog.messages == shown


def test_who_waits_in_vain_does_not_get_it(tmp_path):
    with locked(tmp_path / "a.lock"):
        begun = time.monotonic()
        with locked(tmp_path / "a.lock", 0.1) as is_free:
            assert not is_free and time.monotonic() - begun >= 0.1


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), NotImplementedError()])
def test_without_locks_each_process_does_the_work(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with locked(tmp_path / "a.lock") as is_free, locked(tmp_path / "a.lock") as other:
        assert is_free and other
    assert not list(tmp_path.iterdir())


def test_what_one_process_does_for_all_leaves_no_lock(tmp_path, caplog, waiting):
    """The second waits, says so, and enters once the first has left."""
    place, inside, steps = tmp_path / "new" / "folder" / "a.lock", threading.Event(), []

    def work():
        with one_at_a_time(place, "reading images"):
            inside.set()
            waiting.wait(20)
            steps.append("first")

    first = threading.Thread(target=work)
    with caplog.at_level("INFO", "common"):
        first.start()
        inside.wait()
        with one_at_a_time(place, "reading images"):
            steps.append("second")
    first.join()
    assert steps == ["first", "second"] and not list(place.parent.iterdir())
    assert caplog.messages == ["reading images: another process is doing this; waiting"]
