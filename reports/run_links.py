"""What links a page to its runs: relative links, the commands that use a network, and its overview."""

import base64
import io
import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from common.image_grid import jpeg_base64
from common.run_folder import PROJECT
from common.text import plural, register_argument, typed_override
from reports.load_runs import Run
from reports.report_data import ResultGroup, ResultRow

MOST_FILES = 12  # runs of one row with links
OVERVIEW = "overview"  # a run's figure of this name is shown for the chosen run
LARGEST_FILE = 16 * 2**20  # bytes of an overview that is read
LARGEST_SHOWN = 400 * 2**10  # bytes of a PNG that the page embeds unchanged; a larger one becomes a JPEG
WIDEST = 1600  # pixels
MOST_PIXELS = 20_000_000


class Link(NamedTuple):
    """A link relative to the page's folder, which still works if page and target are moved together."""

    href: str
    text: str


def link(target: Path, page_folder: Path, text: str) -> Link:
    """Return the link from a page's folder to a file or folder; it never has a scheme of its own."""
    path = os.path.relpath(target.absolute(), page_folder.absolute()).replace(os.sep, "/")
    return Link("./" + quote(path.encode(errors="surrogateescape")) + ("/" if target.is_dir() else ""), text)


def run_links(run: Run, page_folder: Path) -> list[Link]:
    """Return links to the folder of a run, and to its model card and checkpoint if it has them."""
    folder = run.folder
    files = [(folder.model_card, "model card"), (folder.best_checkpoint, "best.ckpt")]
    found = [(folder.path, "folder"), *((path, text) for path, text in files if _is_file(path))]
    return [link(path, page_folder, text) for path, text in found]


def row_links(row: ResultRow, page_folder: Path) -> list[tuple[str, list[Link]]]:
    """Return the links of each run of a row, with the seed and fold that tell it from the others."""
    several = len(row.runs) > 1
    return [(_repetition(run) if several else "", run_links(run, page_folder)) for run in row.runs[:MOST_FILES]]


def _repetition(run: Run) -> str:
    return f"seed {run.seed}" if run.fold is None else f"seed {run.seed}, fold {run.fold}"


def use(group: ResultGroup, page_folder: Path, *, with_overview: bool = True) -> dict | None:
    """Return commands, links and, if asked, overview of the network that the answer names; None if it has no checkpoint."""
    run = chosen_run(group)
    if run is None:
        return None
    row = group.named_row
    why = (
        f"the best by {group.ranked_on}"
        if row is group.rows[0]
        else "the smallest network that is shown to be good enough"
    )
    if len(group.rows) == 1:
        why = ""
    if len(row.runs) > 1:
        best = f"the best of its {plural(len(_with_checkpoint(row)), 'run')} by {group.ranked_on}"
        why += f"{'; ' if why else ''}{_repetition(run)}, {best}"
    checkpoint = typed_override("ckpt", _as_typed(run.folder.best_checkpoint))
    register = register_argument(run.record.run.settings)
    commands = [f"python predict.py {checkpoint} images=DIR{register}", f"python export.py {checkpoint}{register}"]
    return {
        "name": row.name,
        "why": why,
        "commands": commands,
        "links": run_links(run, page_folder),
        "overview": overview(run.folder.figure(OVERVIEW)) if with_overview else None,
        "overview_of": f"{row.name}, {_repetition(run)}" if len(row.runs) > 1 else row.name,
        "overview_link": link(run.folder.figure(OVERVIEW), page_folder, "overview"),
    }


def chosen_run(group: ResultGroup) -> Run | None:
    """Return the run whose network the answer names; None if none is better than guessing or none has a checkpoint."""
    if group.study and group.study.has_own_answer:
        return None  # its own page has it
    row = group.named_row
    runs = _with_checkpoint(row)
    return None if not runs or row.guesses or row.ranked_by is None else max(runs, key=_ranking_accuracy)


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 Path.is_file raises an error in a folder that cannot be read


def _with_checkpoint(row: ResultRow) -> list[Run]:
    return [run for run in row.runs if _is_file(run.folder.best_checkpoint)]


def overview(path: Path) -> str | None:
    """Return an image of a run as a data URL, shrunk if it is large; None if there is none that can be shown."""
    try:
        if path.is_symlink() or not 0 < path.stat().st_size <= LARGEST_FILE:
            return None  # a symbolic link may lead to a private image
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            image.load()
            if len(content) <= LARGEST_SHOWN and image.width <= WIDEST:
                return f"data:image/png;base64,{base64.b64encode(content).decode()}"
            image.thumbnail((WIDEST, 2 * WIDEST))
            return f"data:image/jpeg;base64,{jpeg_base64(image)}"
    except (OSError, ValueError, SyntaxError):  # missing or damaged: the page does without
        return None


def _ranking_accuracy(run: Run) -> float:
    measured = run.record.val or run.record.test
    return measured.accuracy.value if measured and measured.accuracy else -1.0


def _as_typed(path: Path) -> str:
    """Return a path as one types it in the project's folder."""
    path = path.absolute()
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)
