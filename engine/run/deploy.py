"""What `deploy` asks for: the best checkpoint as a file that runs elsewhere, with its accuracy, latency and size."""

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from common.errors import UserError
from common.progress import Progress
from common.run_record import Deployed, ExportMetrics, RunRecord
from common.text import clean, did_you_mean
from engine.config.instantiate import instantiate
from engine.error_messages import user_message
from evaluation.intervals import proportion

if TYPE_CHECKING:
    from inference.export.export import FileFormat, Verification

log = logging.getLogger(__name__)

MOST_IMAGES = 2000  # of a split
LONGEST_REASON = 300  # characters of an error that is not written for users
MEASURED = ("val", "test")  # splits whose images say how accurate a file is
PAGE = "web"  # no format of a file: its network is the one of onnx


def check_deploy(name: object, stages: Sequence[str] = ("fit",)) -> None:
    """Check what can be known of `deploy` before anything is trained.

    Args:
        name: of a file of conf/format, or of the user's own folder; None: nothing is asked for.
        stages: of the run.

    Raises:
        UserError: no such format, one that is not measured, a package that it needs and that is not installed, or a run that
            has no trained network.
    """
    if name is None:
        return
    made = make_format(name)
    for package in made.packages:
        if not _is_installed(package):
            install = f'-e ".[{made.extra}]"' if made.extra else package
            raise UserError(f"deploy={name}: needs {package}, which is not installed: pip install {install}")
    if not set(stages) & {"fit", "test"}:
        raise UserError(
            f"deploy={name}: stages=[{','.join(stages)}] trains and evaluates no network, so that there is none to export; "
            "add fit, or leave out deploy"
        )


def check_calibration(name: str | None, streams: bool) -> None:
    """Check that a run has the training images that a format measures its ranges on.

    Args:
        streams: whether the run streams them, so that no file has them afterwards.

    Raises:
        UserError: it has not.
    """
    if name is not None and streams and make_format(name).calibrates:
        raise UserError(
            f"deploy={name}: needs training images, and this run streams them; leave it out, and after training use "
            f"python export.py format={name} images=DIR"
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # of a package within one that is not installed
        return False


def make_format(name: object) -> "FileFormat":
    """Return the format of a name.

    Raises:
        UserError: no such format, one that is not measured, or a class of the user's that is none.
    """
    from inference.export.export import checked_format  # late: torch

    names = GlobalHydra.instance().config_loader().get_group_options("format", ObjectType.CONFIG)
    if name == PAGE:
        raise UserError(
            f"deploy={name}: the page computes with the same file as deploy=onnx; use that, and make the page with "
            "python export.py format=web"
        )
    if name not in names:
        raise UserError(
            f"deploy={name}: no such format; {did_you_mean(str(name), set(names) - {PAGE})}, "
            "null for none, or one of your own with --config-dir=DIR"
        )
    config = hydra.compose("export", overrides=[f"format={name}"])
    return checked_format(name, config, lambda: instantiate(config, "format"))


def deploy(
    record: RunRecord, name: str, checkpoint: Path, *, test: bool = False, register: Sequence[str] = ()
) -> Deployed:
    """Export a checkpoint into the folder of its run, compare and measure it, and record that; a failure is recorded, too.

    Args:
        record: of the run, with its data, whose splits.csv names the images.
        name: of the format.
        test: compare it on the test images as well.
        register: full names of networks, backbones and heads of the user's own, which the checkpoint may name.
    """
    found = record.deployed = Deployed(format=name)
    try:
        _deploy(found, record, checkpoint, test, register)
    except Exception as error:  # of an exporter, which has no common class; the training is done and must not be lost
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        found.error = user_message(error) or clean(reason, LONGEST_REASON)
        log.warning("deploy=%s: not exported: %s", name, found.error)
    return found


def _deploy(found: Deployed, record: RunRecord, checkpoint: Path, test: bool, register: Sequence[str]) -> None:
    from inference.export.export import export

    made, folder = make_format(found.format), record.folder
    path = folder.checkpoints / f"{checkpoint.stem}{made.suffix}"
    if path.is_file():
        path.unlink()  # of an earlier best epoch, perhaps
    own = checkpoint.resolve().parent == folder.checkpoints.resolve()
    images = None if own else str(folder.splits)  # None: of its run, and synthetic ones where these are no files
    with Progress(f"deploy={found.format}") as progress:
        exported = export(
            str(checkpoint), format=made, out=str(path), images=images, register=register,
            further=["test"] * test, most=MOST_IMAGES, progress=progress,
        )  # fmt: skip
    found.file = exported.path.relative_to(folder.path).as_posix()
    found.bytes, found.latency, found.calibrated_on = exported.size, exported.latency, exported.calibrated_on
    for each in (exported.verification, *exported.further):
        setattr(found, each.split if each.split in MEASURED else "other", _metrics(each))


def _metrics(found: "Verification") -> ExportMetrics:
    metrics = ExportMetrics(
        images=found.images, n=found.n, largest_difference=found.largest_difference, changed=found.changed
    )
    cost = found.cost()
    if cost and found.split in MEASURED:
        metrics.accuracy = proportion(found.correct_exported, found.n_labeled, found.effects[1])
        metrics.cost = cost
    return metrics
