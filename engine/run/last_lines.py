"""The last lines of the screen: how good the network is, where its files are, and what to type next."""

import logging
import shlex
from pathlib import Path

from common.predictions_csv import Predictions
from common.run_folder import RunFolder, shown_path, shown_script
from common.run_record import RunRecord
from common.text import OWN_KEYS, SPLIT_NAMES, register_argument, typed_override
from common.untrusted.saved_config import read_saved_overrides
from engine.flags import own_folders
from engine.run.loggers import typed
from evaluation.describe import compare_to_guessing, name_accuracy, short_accuracy
from lightning_modules.networks.registry import head_name

log = logging.getLogger(__name__)

SPREADS = ("datamodule.fold", "datamodule.select_on", "datamodule.train_fraction")  # smallest.py has its own way


def log_verdict(record: RunRecord, name: str) -> None:
    """Log accuracy with its interval and the comparison with the most frequent class, in one line.

    Args:
        record: of a run that was evaluated.
        name: of the split, of a part of it in words.
    """
    metrics = record.test or record.val
    against = None if record.run.debug else compare_to_guessing(metrics)
    chose = record.test is None or record.data.select_on == "test"
    named = name_accuracy(metrics, SPLIT_NAMES.get(name, name))
    parts = [f"{named} {short_accuracy(metrics)}", *([against] if against else [])]
    log.info("%s%s", ", ".join(parts), "; the epoch was chosen on these images" if chose else "")


def log_next_commands(record: RunRecord, checkpoint: Path, val: Predictions | None, network: dict) -> None:
    """Log commands that continue from a run, each whole: label images, export, look for a smaller network.

    Streamed training images are refused by smallest.py, which is left out then.

    Args:
        record: of the run.
        checkpoint: that was evaluated.
        val: predictions of its validation images, of which one is labeled: of test images it would be an evaluation.
        network: its name and arguments; what of it is the user's own must be registered.
    """
    ckpt = _argument("ckpt", checkpoint)
    image = val and Path(record.data.root, val.paths[0])
    images = "images=DIR" if image is None or not image.is_file() else _argument("images", image)
    streamed = any(finding.kind == "streamed" for finding in record.data.audit or [])
    then = " and export the network" if streamed else ", export the network, find the smallest that is good enough"
    log.info("Next: label images (a file, a folder or a CSV)%s", then)
    parts = (network.get("network"), head_name(network), network.get("backbone"))
    register = register_argument(dict(zip(OWN_KEYS, parts, strict=True)))
    predict, export, smallest = (shlex.quote(shown_script(f"{verb}.py")) for verb in ("predict", "export", "smallest"))
    log.info("    python %s %s %s%s", predict, ckpt, images, register)
    log.info("    python %s %s%s", export, ckpt, register)
    if not streamed:
        arguments = [*own_folders(shlex.split(record.run.command)), *_data_settings(record, checkpoint)]
        log.info("    python %s%s", smallest, "".join(f" {shlex.quote(each)}" for each in arguments))


def _data_settings(record: RunRecord, checkpoint: Path) -> list[str]:
    """Return the settings of the images, each key once, as typed for this run and before it for that of the checkpoint."""
    trained_in = RunFolder.of_checkpoint(checkpoint)
    earlier = read_saved_overrides(trained_in) if trained_in else []
    by_key = {each.lstrip("+").partition("=")[0]: each for each in (*earlier, *typed(record))}
    return [each for key, each in by_key.items() if key.startswith("datamodule") and not key.startswith(SPREADS)]


def _argument(key: str, path: Path) -> str:
    return typed_override(key, shown_path(path))
