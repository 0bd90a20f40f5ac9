"""The report of many runs: page, Markdown, CSV, LaTeX, methods and a figure, each written whole or not at all."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from common.atomic_io import write_bytes, write_text
from common.checks import check_good_enough, check_target_accuracy
from common.errors import UserError
from common.image_grid import encode_png
from common.progress import Progress
from common.run_folder import RunFolder, missing_folders, remove_empty
from common.search_record import FILE as SEARCH_FILE
from common.smallest_record import FILE as SMALLEST
from common.text import SPLIT_NAMES, clean
from reports.aggregate import aggregate
from reports.load_runs import EXAMPLE, common_folder, find_records, given_folders, load_runs
from reports.methods import as_methods
from reports.provenance import title_of
from reports.renderers import as_csv, as_latex, as_markdown, as_text
from reports.report_data import ReportData
from reports.run_links import chosen_run
from reports.studies import PAGE, search_of
from reports.top_losses import confusion

log = logging.getLogger(__name__)

LONGEST_TITLE = 200  # characters
DPI = 200  # of the confusion matrix, for print


class Written(NamedTuple):
    """The page that was written, and what the screen shows."""

    page: Path
    text: str  # tables with their answers, and why records are excluded
    excluded: list[str]  # the reasons by themselves, for callers that do not show the text


def run(config: DictConfig) -> None:
    """Write the report that conf/report.yaml describes; print its table and answer.

    Raises:
        UserError: as write_report; or `runs` or `out` is not a path.
    """
    if OmegaConf.is_dict(config.runs):
        raise UserError(f"runs={config.runs}: is not a folder; {EXAMPLE}, or several, runs=[DIR,DIR]")
    if OmegaConf.is_config(config.out):
        raise UserError(f"out={config.out}: is not one path; use out=DIR or out=NAME.html")
    runs = OmegaConf.to_container(config.runs) if OmegaConf.is_list(config.runs) else config.runs
    runs, out = (str(each) if isinstance(each, (int, float)) else each for each in (runs, config.out))
    written = write_report(runs, out, config.title, config.good_enough, config.target_accuracy)
    print(f"{written.text}\n\nPage: {written.page}")


def write_report(
    where: str | Sequence[str],
    out: str | None = None,
    title: str | None = None,
    good_enough: float = 0.02,
    target_accuracy: float | None = None,
    *,
    draws_overview: bool = False,
) -> Written:
    """Write report.html, report.md, table.csv, table.tex, methods.md and confusion.png.

    Args:
        where: folder of the runs, several, or a pattern with *; searched to any depth.
        out: folder of what is written, or the page's own name ending in .html, whose name the others then share;
            None: the folder that holds the runs.
        title: of the page; None: the experiment's name, or what differs.
        good_enough: accuracy that a smaller network may lack against the best and still be good enough.
        target_accuracy: accuracy that is enough whatever the best has; the answer then names the smallest network above it.
        draws_overview: write overview.png into the folder of the chosen run where it has none; the page shows it.

    Raises:
        UserError: no runs, none that can be read, no such margin or target, a folder with the page of smallest.py or
            search.py, or no permission to write.
    """
    check_good_enough(good_enough)
    check_target_accuracy(target_accuracy)
    with Progress("reading the runs and writing the report", log):
        paths = find_records(where)
        page, markdown, table, latex, methods, figure = _names(Path(out) if out else common_folder(paths))
        if page.name == PAGE and (command := _command_of_page(page.parent, paths)):
            raise UserError(f"{page}: is the page of {command}, which is not replaced; use out=DIR or out=NAME.html")
        data = aggregate(load_runs(paths, given_folders(where)), good_enough, target_accuracy)
        if draws_overview:
            for run in filter(None, map(chosen_run, data.groups)):
                _draw_overview(run.folder)
        title = clean(title, LONGEST_TITLE) if title else title_of(data)
        from reports.page import make_page  # late: errors come without matplotlib

        contents = {
            page: make_page(data, title, page.parent, search_of(common_folder(paths))),
            markdown: as_markdown(data, title),
            table: as_csv(data),
            latex: as_latex(data),
            methods: as_methods(data),
        }
        drawn = _draw_confusion(data)
        made = missing_folders(page.parent)
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            for path, text in contents.items():
                write_text(path, text)
            if drawn is not None:
                write_bytes(figure, drawn)
        except OSError as error:
            remove_empty(made)
            given, instead = (f"out={out}: ", "use") if out else ("", "python report.py takes")
            raise UserError(f"{given}{page.parent} cannot be written: {error.strerror}; {instead} out=DIR") from error
        return Written(page, as_text(data).strip(), [why for _, why in data.excluded])


def _command_of_page(folder: Path, paths: list[Path]) -> str | None:
    """Return the command whose page of its own, about other runs than these, a folder has; None: it has none."""
    if (folder / SMALLEST).is_file():
        return "smallest.py"
    retrained = (folder / "retrained").resolve()  # the runs on the page of search.py
    is_other = not all(path.resolve().is_relative_to(retrained) for path in paths)
    return "search.py" if is_other and (folder / SEARCH_FILE).is_file() else None


def _draw_overview(folder: RunFolder) -> None:
    """Draw overview.png, which the jobs of a sweep skip; if that fails, log a warning and do without."""
    if folder.figure("overview").is_file():
        return
    from reports.overview import write_overview  # late, as above

    try:
        write_overview(folder)
    except (UserError, OSError, ValueError) as error:
        log.warning("overview.png was not drawn: %s", error)


def _draw_confusion(data: ReportData) -> bytes | None:
    """Draw the confusion matrix of the best row of the first group; None if it has none, or too many classes."""
    from evaluation.figures import MOST_NAMED, confusion_matrix, figure_pixels  # late, as above

    runs = data.groups[0].rows[0].runs if data.groups else []
    made = confusion(runs) if runs else None
    if made is None or made.counts is None or len(made.classes) > MOST_NAMED:
        return None
    images = f"{SPLIT_NAMES[made.split]} images" + f" of {len(runs):,} runs" * (len(runs) > 1)
    return encode_png(figure_pixels(confusion_matrix(made.counts.tolist(), made.classes, images), DPI))


def _names(out: Path) -> tuple[Path, ...]:
    """Return the paths of page, Markdown, CSV, LaTeX, methods and confusion matrix."""
    if out.suffix.lower() in (".html", ".htm"):
        beside = [out.with_suffix(suffix) for suffix in (".md", ".csv", ".tex")]
        return out, *beside, *(out.with_name(f"{out.stem}_{name}") for name in ("methods.md", "confusion.png"))
    names = (PAGE, "report.md", "table.csv", "table.tex", "methods.md", "confusion.png")
    return tuple(out / name for name in names)
