"""Export the best checkpoint in the format of `deploy`, and measure the file's accuracy, latency and size."""

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
from common.targets import check_installed
from common.text import clean, did_you_mean, quote_override
from engine.config.instantiate import instantiate
from engine.error_messages import user_message
from evaluation.intervals import proportion

if TYPE_CHECKING:
    from inference.export.export import FileFormat, Verification

log = logging.getLogger(__name__)

MOST_IMAGES = 2000  # per split
LONGEST_REASON = 300  # characters of an error message that was not written for users
MEASURED = ("val", "test")  # splits on which a file's accuracy is measured
PAGE = "web"  # not a file format: its page runs the onnx file


def check_deploy(name: object, stages: object = ("fit",)) -> None:
    """Check `deploy` as far as possible before training.

    Args:
        name: a format: a file of conf/format or of the user's own folder; None: no export.
        stages: a list or, as typed for a sweep, perhaps a single one.

    Raises:
        UserError: an unknown format, one that is not measured, a package that is not installed, or a run without a trained
            network.
    """
    if name is None:
        return
    made = make_format(name)
    for package in made.packages:
        check_installed(package, f"deploy={name}", made.extra)
    chosen = [stages] if isinstance(stages, str) or not isinstance(stages, Sequence) else stages
    if not {"fit", "test"} & set(chosen):
        raise UserError(
            f"deploy={name}: {quote_override('stages', chosen)} trains and evaluates no network, so there is none to export; "
            "add fit, or leave out deploy"
        )


def check_calibration(name: str | None, streams: bool) -> None:
    """Check that a run keeps the training images on which a format calibrates its ranges.

    Args:
        streams: whether the run streams its training images, so that they are gone afterwards.

    Raises:
        UserError: the format needs them and the run streams them.
    """
    if name is not None and streams and make_format(name).calibrates:
        raise UserError(
            f"deploy={name}: needs training images, and this run streams them; leave it out, and after training run "
            f"python export.py format={name} images=DIR"
        )


def make_format(name: object) -> "FileFormat":
    """Return the format with this name.

    Raises:
        UserError: an unknown format, one that is not measured, or a user's class that is not a format.
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
            "null for none, or your own format with --config-dir=DIR"
        )
    config = hydra.compose("export", overrides=[f"format={name}"])
    return checked_format(name, config, lambda: instantiate(config, "format"))


def deploy(
    record: RunRecord, name: str, checkpoint: Path, *, test: bool = False, register: Sequence[str] = ()
) -> Deployed:
    """Export a checkpoint into its run's folder, compare it with the network, measure it, and record results or failure.

    Args:
        record: the run's record, with its data; the run's splits.csv lists the images.
        test: whether to compare on the test images, too.
        register: full names of the user's own networks, backbones and heads, which the checkpoint may name.
    """
    found = record.deployed = Deployed(format=name)
    try:
        _deploy(found, record, checkpoint, test, register)
    except Exception as error:  # exporters' errors have no common class, and the finished training must not be lost
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        found.error = user_message(error) or clean(reason, LONGEST_REASON)
        log.warning("deploy=%s: not exported: %s", name, found.error)
    return found


def _deploy(found: Deployed, record: RunRecord, checkpoint: Path, test: bool, register: Sequence[str]) -> None:
    from inference.export.export import export

    made, folder = make_format(found.format), record.folder
    path = folder.checkpoints / f"{checkpoint.stem}{made.suffix}"
    if path.is_file():
        path.unlink()  # perhaps exported from an earlier best epoch
    own = checkpoint.resolve().parent == folder.checkpoints.resolve()
    images = None if own else str(folder.splits)  # None: those of its run, or synthetic ones where these are not files
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
        metrics.balanced_cost = found.balanced_cost
    return metrics
