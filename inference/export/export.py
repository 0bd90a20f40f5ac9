"""Export a checkpoint: write the file or folder to a temporary place, verify it, and only then move it to its own."""

import contextlib
import functools
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from common.atomic_io import replace_folder, write_bytes, write_json
from common.errors import DISK_ERRORS, UserError
from common.idle import warn_of_idle
from common.progress import Progress, quiet_native
from common.run_folder import missing_folders, remove_empty, shown_script
from common.run_record import Latency
from common.targets import import_extra, resolve_target
from common.text import clean, file_size, join_words, shell_quote, typed_override
from common.untrusted.json_files import read_json
from datamodules.decode import DECODER
from inference.arguments import check_export_arguments, check_threshold, is_read_by_predict
from inference.backends import CheckpointBackend, ModelDescription
from inference.export.file_format import Computes, FileFormat, TrainedModel
from inference.export.preprocessing import plain
from inference.export.verify import (
    N_CALIBRATION,
    N_INEXACT,
    N_VERIFICATION,
    ORDER,
    SPLITS,
    SYNTHETIC,
    Verification,
    VerificationImages,
    compare_outputs,
    decoded,
    known_images,
    spread,
    verification_images,
)
from inference.image_inputs import ImageInput
from lightning_modules.latency import time_passes

LONGEST = 300  # characters of an error that a format raises
MANIFEST = "export.json"  # in an exported folder: its format, what it was compared on, and its files
LARGEST_JSON = 2**20  # bytes of a JSON file of the folder


class Exported(NamedTuple):
    """Hold the file or folder that was written, how it compares with the checkpoint, and how fast it is."""

    path: Path
    verification: Verification
    calibrated_on: int  # images; 0 if nothing was calibrated
    latency: Latency | None = None  # of one image on one thread; None if the format does not measure it
    size: int = 0  # bytes; for a folder those of all its files
    further: tuple[Verification, ...] = ()  # on the other splits that were asked for


def run(config: DictConfig, make_format: Callable[[], object]) -> None:
    """Export a checkpoint and print the file, its inputs and outputs, and how it compares with the checkpoint.

    Args:
        make_format: builds the format that the node `format` describes.
    """
    made = checked_format(HydraConfig.get().runtime.choices["format"], config, make_format)
    if made.exact:
        warn_of_idle(HydraConfig.get().overrides.task, {"least_agreement": f"with format={made.name}, which is exact"})
    settings = {key: value for key, value in OmegaConf.to_container(config).items() if key not in ("hydra", "format")}
    with Progress("reading the checkpoint") as progress:
        exported = export(**settings, format=made, progress=progress)
    if exported.calibrated_on:
        print(f"calibrated on {exported.calibrated_on:,} images")
    flat = exported.verification.describe_flat() if made.exact else ""  # else it comes with the agreement
    print(f"compared with the checkpoint on {exported.verification.describe()}{flat}")
    if accuracies := exported.verification.describe_accuracies():
        print(accuracies)
        if not made.exact:
            print(exported.verification.describe_cost(made.name))
    if not made.exact:
        print(exported.verification.describe_agreement())
    if exported.latency:
        included = ", preprocessing included" if config.preprocessing else ""
        print(f"{exported.latency.describe()}, one thread of the processor{included}")
    path = exported.path
    print(f"{path}: {file_size(exported.size)}, {made.describe(config.preprocessing)}")
    if is_read_by_predict(path):
        print(
            f"Label images with it: python {shell_quote(shown_script('predict.py'))} {typed_override('ckpt', path)} images=DIR"
        )
    if (path / "index.html").is_file():  # a browser loads no modules from file://
        print(f"Open it: python -m http.server --directory {shell_quote(str(path))}, then http://localhost:8000/")


def checked_format(name: str, config: DictConfig, make_format: Callable[[], object]) -> FileFormat:
    """Return the format that the node `format` describes.

    Raises:
        UserError: no such class, its constructor fails, or it is not a format.
    """
    target = OmegaConf.select(config, "format._target_")
    resolve_target(target, "format._target_")
    with _format_errors(f"format={name} ({target})", "its constructor"):
        made = make_format()
    _check_format(made)
    return made


def export(
    ckpt: str | None,
    *,
    format: FileFormat,
    preprocessing: bool = True,
    out: str | None = None,
    images: str | list[str] | None = None,
    root: str | None = None,
    largest_difference: float = 1e-4,
    least_agreement: float = 0.9,
    threshold: float | None = None,
    register: Sequence[str] = (),
    further: Sequence[str] = (),
    most: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the file or folder and verify it against the checkpoint.

    Args:
        format: OnnxFile(), Int8(), TorchExport() or your own.
        preprocessing: True: uint8 images of any size in, probabilities out; False: normalized images in, logits out.
        out: the file, or its folder; for a format that writes a folder, that folder; None: beside the checkpoint.
        images: images to verify it on and, if the format calibrates, to calibrate with; None: those of the run.
        root: folder of the relative paths of a table.
        largest_difference: allowed between a probability and the checkpoint's; binds exact formats, and for others the network
            before rounding and the resizing.
        least_agreement: of the probabilities with the checkpoint's (1: equal); binds formats that are not exact.
        threshold: of two classes, probability from which the file decides on the positive one; None: the checkpoint's.
        register: full names of your own networks and heads that the checkpoint may use.
        further: other splits to compare it on, if they have images.
        most: images per split to compare it on; None: 200 for an exact format, 2,000 for others.

    Raises:
        UserError: wrong settings, no images to calibrate with, a place that cannot be written, too large a difference, or a
            format that fails.
    """
    _check_format(format)
    progress = progress or Progress()
    path = check_export_arguments(
        ckpt, suffix=format.suffix, preprocessing=preprocessing, out=out, largest_difference=largest_difference,
        least_agreement=least_agreement, is_folder=format.is_folder,
    )  # fmt: skip
    check_threshold(threshold)
    if format.is_folder:
        _check_replaceable(path, format)
    progress.set(f"importing {join_words(format.packages, 3)}" if format.packages else "reading the checkpoint")
    with quiet_native():
        for package in format.packages:
            import_extra(package, f"format={format.name}", format.extra)
    checkpoint = CheckpointBackend(Path(ckpt), "cpu", register)
    if threshold is not None:
        checkpoint.description = checkpoint.description.with_threshold(threshold)
    decision = checkpoint.description.decision
    if decision and decision.confidence is not None and not format.exact:  # chosen with other probabilities
        checkpoint.description = replace(checkpoint.description, decision=replace(decision, delta=None))
    splits = known_images(Path(ckpt), images, root)
    if images is not None and not any(splits.get(split) for split in (*ORDER, *further)):
        split = clean(min(splits), 40)
        raise UserError(f"images={images}: has only images of the split {split}; give validation images: images=DIR")
    calibration = _calibration_images(format, splits, images, checkpoint.description) if format.calibrates else []
    compared = verification_images(splits, ORDER, most or (N_VERIFICATION if format.exact else N_INEXACT))
    more = {"format": format.name, "decoder": DECODER, "version": importlib.metadata.version("justenough")}
    metadata = checkpoint.description.as_metadata() | {name: json.dumps(value) for name, value in more.items()}
    network = plain(checkpoint.network)
    model = TrainedModel(network, checkpoint.description, preprocessing, metadata, calibration, compared, progress)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, path.name)
        if format.is_folder:
            file.mkdir()
        progress.set(f"format={format.name}: writing {path.name}")
        with _format_errors(format, "write"):
            format.write(model, file)
        if file.is_dir() and not format.is_folder:
            raise UserError(
                f"{format}: its method write made a folder; set is_folder = True in the class, or write a file"
            )
        if file.is_dir() != format.is_folder or not _size(file):
            what = "the folder" if format.is_folder else "the path"
            raise UserError(f"{format}: its method write wrote nothing; it must write to {what} that it is given")
        progress.set(f"format={format.name}: opening the file")
        with _format_errors(format, "open"):
            computes = format.open(file, model)

        def compare(tested: Computes, images: VerificationImages, resizes_exactly: bool = False) -> Verification:
            what = "the file" if tested is computes else "the network before rounding"
            progress.set(f"format={format.name}: comparing {what} with the checkpoint on {SPLITS[images.split]}images")
            checked = functools.partial(_compute, format, tested, len(checkpoint.description.classes))
            native_sizes = preprocessing and format.resizes
            return compare_outputs(checkpoint, checked, images, native_sizes, progress.count, resizes_exactly)

        verification = _verify(format, model, computes, compare, largest_difference, least_agreement)
        with _format_errors(format, "check"):
            format.check(file, model)
        others = [verification_images(splits, (split,), most or N_INEXACT) for split in further if splits.get(split)]
        compared_further = [compare(computes, each) for each in others]
        progress.set(f"format={format.name}: latency")
        with _format_errors(format, "open_on_one_thread"):
            computes = format.open_on_one_thread(file, model)
        latency = _measure_latency(computes, model.description.image_size) if computes else None
        _put_in_place(file, path, format, verification)
    return Exported(path, verification, len(calibration), latency, _size(path), tuple(compared_further))


def _verify(
    format: FileFormat,
    model: TrainedModel,
    computes: Computes,
    compare: Callable[..., Verification],
    largest_difference: float,
    least_agreement: float,
) -> Verification:
    """Compare what was written with the checkpoint; for a format in 8 bits, first the network before rounding.

    Raises:
        UserError: too large a difference, or too little agreement.
    """
    images, rounded = model.compared, ""
    if format.exact:
        verification, exact = compare(computes, images), computes
    else:
        with _format_errors(format, "open_unrounded"):
            exact = format.open_unrounded(model)
        rounded = "before rounding to 8 bits, on "
    if exact:
        few = images.part(N_VERIFICATION)
        bound = [verification if format.exact else compare(exact, few)]
        if images.images:  # synthetic ones have color, which those of the run may not have
            bound.append(compare(exact, VerificationImages([], SYNTHETIC)))
        for each in bound:
            if not each.largest_difference <= largest_difference:
                raise UserError(
                    f"{format}: {rounded}{each.describe()}, which is above largest_difference={largest_difference:g}; nothing "
                    "was written. If the format is part of this project, please report it with the name of the network"
                )
    if format.exact:
        return verification
    verification = compare(computes, images, resizes_exactly=format.resizes_exactly)
    _check_agreement(format, verification, largest_difference, least_agreement)
    return verification


def _check_agreement(
    format: FileFormat, found: Verification, largest_difference: float, least_agreement: float
) -> None:
    """Check a file that is not exact, such as one in 8 bits.

    Raises:
        UserError: its probabilities agree too little with those of the checkpoint, or it resizes differently.
    """
    if not found.resizing <= largest_difference:
        raise UserError(
            f"{format}: {found.images}: resizing inside the file changes a probability by {found.resizing:.1e}, which is "
            f"above largest_difference={largest_difference:g}; nothing was written. Please report it"
        )
    if not found.agreement >= least_agreement:
        other = f"calibrate on training images more like those it will label (images=DIR; at most {N_CALIBRATION} are used), "
        more = other if format.calibrates else ""
        raise UserError(
            f"{format}: {found.describe()}, {found.describe_agreement()}. That is below least_agreement={least_agreement:g}: "
            f"the file is broken, or loses too much; nothing was written. Next, with python export.py: {more}"
            f"use {format.exact_instead}, which is exact, or allow it with a smaller least_agreement"
        )


def _check_format(format: object) -> None:
    """Raise UserError unless this is a format with a name and a suffix."""
    kind = f"{type(format).__module__}.{type(format).__qualname__}"
    if not isinstance(format, FileFormat):
        raise UserError(f"format: {kind} is not a subclass of {FileFormat.__module__}.{FileFormat.__qualname__}")
    for attribute in ("name", "suffix"):
        value = getattr(format, attribute, None)
        if not isinstance(value, str) or not value or Path(value).name != value:
            raise UserError(f"format: {kind}.{attribute} is {value!r}; use a text such as onnx or .onnx")


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it does not exist."""
    return sum(file.stat().st_size for file in (_files(path) if path.is_dir() else [path]) if file.is_file())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _put_in_place(file: Path, path: Path, format: FileFormat, verification: Verification) -> None:
    """Copy a verified file or folder to `path`, replacing an earlier one at once; raise UserError if that fails."""
    made = missing_folders(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if format.is_folder:
            _write_manifest(file, format, verification)
            replace_folder(file, path)
        else:
            write_bytes(path, file.read_bytes())
    except OSError as error:
        remove_empty(made)
        place = "out=DIR" if format.is_folder else "out=FILE or out=DIR"
        raise UserError(f"out={path}: cannot be written ({error.strerror}); use {place}") from error


def _write_manifest(folder: Path, format: FileFormat, verification: Verification) -> None:
    """Write the list of an exported folder's files: the next export may replace these."""
    compared = {"images": verification.images, "largest_difference": verification.largest_difference}
    if not format.exact:
        compared["agreement"] = verification.agreement
    content = {
        "format": format.name,
        "version": importlib.metadata.version("justenough"),
        "compared": compared,
        "files": [file.relative_to(folder).as_posix() for file in _files(folder)],
    }
    write_json(folder / MANIFEST, content)


def _check_replaceable(path: Path, format: FileFormat) -> None:
    """Raise UserError unless the folder to write is absent, empty, or contains only an export of the same format."""
    if not path.exists():
        return
    use_other = "give another folder, out=DIR"
    if not path.is_dir():
        raise UserError(f"out={path}: is a file, but format={format.name} writes a folder; {use_other}")
    found = {file.relative_to(path).as_posix() for file in _files(path)}
    if not found:
        return
    try:
        manifest = read_json(path / MANIFEST, LARGEST_JSON)
        of_format, known = manifest["format"], {MANIFEST, *manifest["files"]}
    except (OSError, UserError, KeyError, TypeError):
        of_format, known = None, set()
    if of_format not in (None, format.name):
        raise UserError(f"out={path}: contains an export of format={clean(of_format, 40)}; {use_other}, or remove it")
    if others := sorted(found - known):
        names = join_words([clean(name, 40) for name in others], 3)
        raise UserError(
            f"out={path}: contains files that are not an export of format={format.name} ({names}); {use_other}"
        )


@contextlib.contextmanager
def _format_errors(format: FileFormat | str, method: str) -> Iterator[None]:
    """Name the format in errors of its class, which may be the user's own; errors of the disk have their own text."""
    try:
        yield
    except Exception as error:
        wraps = (InstantiationException, torch.onnx.OnnxExporterError)  # their own text does not give the reason
        cause = error.__cause__ if isinstance(error, wraps) and error.__cause__ else error
        if isinstance(cause, UserError):
            raise
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            place = tempfile.gettempdir()  # everything is written there first
            if not str(cause.filename or place).startswith(place):
                raise
            raise UserError(
                f"{place}: cannot be written ({cause.strerror}); free some space, or use TMPDIR=DIR"
            ) from error
        text = " ".join(f"{type(cause).__name__}: {cause}".split())[:LONGEST]
        message = f"{format}: {method} raised {text}; nothing was written. HYDRA_FULL_ERROR=1 shows where"
        raise UserError(message) from error


def _compute(format: FileFormat, computes: Computes, k: int, pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, k) of a written file, with their shape checked."""
    with _format_errors(format, "what open returned"):
        found = np.asarray(computes(pixels))
    if found.shape != (len(pixels), k):
        raise UserError(
            f"{format}: the function returned by open gives {found.shape}, but ({len(pixels)}, {k}) is expected"
        )
    return found


def _measure_latency(computes: Computes, image_size: int) -> Latency:
    """Measure the file with one image of the network's own size, which a file that resizes resizes all the same."""
    image = np.zeros((1, image_size, image_size, 3), np.uint8)
    return Latency(batch_size=1, device="cpu", **time_passes(lambda: computes(image), threads=1))


def _calibration_images(
    format: FileFormat, splits: dict[str, list[ImageInput]], images, description: ModelDescription
) -> list[ImageInput]:
    """Return training images, or given images without a split; files that cannot be read are skipped."""
    candidates = splits.get("train") or splits.get("")
    if not candidates:
        reason = f"images={images} has none" if images is not None else "those of the run are not available"
        raise UserError(
            f"format={format.name} needs training images, and {reason}; give some: images=DIR, or images=RUN for those of a run"
        )
    chosen = VerificationImages(spread(candidates, N_CALIBRATION), "images to calibrate with")
    return [image_input for _, image_input in decoded(chosen, description)]
