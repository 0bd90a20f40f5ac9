"""Images, scalars, a browser, and a hook into a training step."""

import contextlib
import functools
import importlib.util
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.run_folder import PROJECT, RunFolder
from common.run_record import RunRecord
from common.untrusted.tables import iterate_csv
from datamodules.cache_folder import open_pixel_caches
from datamodules.pixel_cache import Look, PixelCache

SHARED = PROJECT.parent / "shared"  # real images and weights, where they are available; tests that need them are marked
# What takes longer than a small training
NOT_DRAWN = [f"~callbacks.{name}" for name in ("contact_sheet", "image_logger")]
SIMPLE_CNN = ("model=simple_cnn", "model.image_size=16")  # the quickest, for tests in which the network does not matter
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
needs_ray = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason='ray is not installed: pip install -e ".[ray]"'
)
COLORS = {"blue": (40, 60, 200), "red": (200, 60, 40), "green": (50, 190, 60)}
FINAL = {
    "network": "truncated",
    "backbone": "shufflenet_v2_x0_5",
    "keep": 5,
    "head": {"hidden_dims": [2], "dropout": [0.2, 0.02]},
}  # the study's final network


def read_csv(path: Path, needed: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read all rows of a table; for arguments and errors see `iterate_csv`."""
    return [row for _, row in iterate_csv(path, needed)]


def open_pixel_cache(files: Sequence[str | Path], look: Look, folder: Path, limit_gib: float = 50.0) -> PixelCache:
    """Open the cache of one look: see `open_pixel_caches`."""
    return open_pixel_caches(files, [look], folder, limit_gib)[0]


def make_images(root: Path, counts: dict[str, int], *, size: int = 48, seed: int = 0) -> Path:
    """Save `counts` of noisy images a folder, e.g. {"train/red": 8}; the last part of the name is the color."""
    generator = np.random.default_rng(seed)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        color = np.array(COLORS.get(Path(folder).name, (128, 128, 128)))
        for index in range(count):
            pixels = (color + generator.normal(0, 25, (size, size, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{index:03}.png")
    return root


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, its name and its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return TensorBoard's scalars of a run: tag -> (epoch, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(s.step, s.value) for s in events.Scalars(tag)] for tag in ("train/loss", "val/accuracy", "train/lr")}


def outcome(folder: Path) -> list:
    """Return all results of a run, to the last bit."""
    run = RunFolder(folder)
    tables = [path.read_bytes() for path in (run.metrics, run.predictions("val"), run.predictions("test"))]
    record = RunRecord.read(run)
    best, last = (torch.load(path, weights_only=True) for path in (run.best_checkpoint, run.last_checkpoint))
    weights = [_bits(value) for state in (best, last) for value in state["state_dict"].values()]
    moments = last["optimizer_states"][0]["state"].values()
    moments = [_bits(each[name]) for each in moments for name in ("exp_avg", "exp_avg_sq") if name in each]
    return [tables, weights, moments, record.val, record.test, record.decision]


def _bits(value: torch.Tensor) -> bytes:
    return value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()  # bfloat16 too


class Killed(BaseException):
    """Nothing catches it, as nothing notices a SIGKILL."""


def at_step(monkeypatch, step: int, action) -> None:
    """Do something after a training step, once."""
    from callbacks.terminate_on_nan import TerminateOnNaN

    usual, done = TerminateOnNaN.on_train_batch_end, []

    def then(self, trainer, *arguments):
        usual(self, trainer, *arguments)
        if trainer.global_step == step and not done:
            done.append(step)
            action()

    monkeypatch.setattr(TerminateOnNaN, "on_train_batch_end", then)


def free_port() -> str:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def ray_jobs(number: int) -> list:
    """Return the processes below this one, a sweep's command or a node, in which Ray runs a job now."""
    import psutil

    found = psutil.Process(number).children(recursive=True)
    return [each for each in found if each.is_running() and each.cmdline()[:1] == ["ray::job"]]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """Serve a folder on loopback as any static host does; yield the server, whose `url` it is."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    server.url = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def in_chromium(file: Path | str, arguments: Sequence[str] = (), **context) -> Iterator[tuple]:
    """Yield a page of 1280 x 900 that shows a file or URL, its requests, and its messages: console, errors and dialogs.

    `arguments` are the browser's own, `context` is Playwright's.
    """
    browsers = pytest.importorskip(
        "playwright.sync_api", reason='playwright is not installed: pip install -e ".[test]"'
    )
    with browsers.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *arguments])
        page = browser.new_context(viewport={"width": 1280, "height": 900}, **context).new_page()
        requests, messages = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri() if isinstance(file, Path) else file)
        yield page, requests, messages
        browser.close()
