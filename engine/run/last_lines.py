"""The last lines of the screen: how good the network is, where its files are, and what to type next."""

import logging
from pathlib import Path

from common.flags import own_folders
from common.predictions_csv import Predictions
from common.run_folder import RunFolder, shown_path, shown_script
from common.run_record import RunRecord
from common.text import SPLIT_NAMES, register_argument, shell_quote, shell_split, typed_override
from common.untrusted.saved_config import read_saved_overrides, read_typed
from engine.config.data_overrides import SOURCES
from evaluation.describe import compare_to_guessing, name_accuracy
from evaluation.intervals import format_accuracy

log = logging.getLogger(__name__)

SPREADS = ("datamodule.fold", "datamodule.select_on", "datamodule.train_fraction")  # smallest.py has its own way


def log_verdict(record: RunRecord, name: str) -> None:
    """Log accuracy with its interval and the comparison with the most frequent class, in one line.

    Args:
        name: name of the split, or words for a part of it.
    """
    metrics = record.test or record.val
    against = None if record.run.debug else compare_to_guessing(metrics)
    chose = record.test is None or record.data.select_on == "test"
    named = name_accuracy(metrics, SPLIT_NAMES.get(name, name))
    parts = [f"{named} {format_accuracy(metrics.accuracy, digits=3)}", *([against] if against else [])]
    caveats = [*(["the epoch was chosen on these images"] if chose else []), *record.data.caveats]
    log.info("%s", "; ".join([", ".join(parts), *caveats]))


def log_next_commands(record: RunRecord, checkpoint: Path, val: Predictions | None = None) -> None:
    """Log complete commands that continue from a run: label images, export, look for a smaller network.

    With streamed training images, which smallest.py refuses, the last one is left out.

    Args:
        checkpoint: the checkpoint that was evaluated.
        val: predictions of validation images; the command labels one of these, since a test image would be an evaluation.
    """
    ckpt = typed_override("ckpt", shown_path(checkpoint))
    image = val and Path(record.data.root, val.paths[0])
    images = "images=DIR" if image is None or not image.is_file() else typed_override("images", shown_path(image))
    streamed = any(finding.kind == "streamed" for finding in record.data.audit or [])
    then = " and export the network" if streamed else ", export the network, find the smallest that is good enough"
    log.info("Next: label images (a file, a folder or a CSV)%s", then)
    register = register_argument(record.run.settings)
    predict, export, smallest = (shell_quote(shown_script(f"{verb}.py")) for verb in ("predict", "export", "smallest"))
    log.info("    python %s %s %s%s", predict, ckpt, images, register)
    log.info("    python %s %s%s", export, ckpt, register)
    if not streamed:
        arguments = [*own_folders(shell_split(record.run.command)), *_data_settings(record, checkpoint)]
        log.info("    python %s%s", smallest, "".join(f" {shell_quote(each)}" for each in arguments))


def _data_settings(record: RunRecord, checkpoint: Path) -> list[str]:
    """Return the typed settings of the images, each key once: those of the checkpoint's run, then those of this run."""
    trained_in = RunFolder.of_checkpoint(checkpoint)
    earlier = read_saved_overrides(trained_in) if trained_in else []
    by_key = {each.lstrip("+").partition("=")[0]: each for each in (*earlier, *read_typed(record))}
    source = next((name for key, name in SOURCES.items() if key in by_key), None)
    if by_key.get("datamodule") == f"datamodule={source}":  # smallest.py chooses it, too
        del by_key["datamodule"]
    return [each for key, each in by_key.items() if key.startswith("datamodule") and not key.startswith(SPREADS)]
