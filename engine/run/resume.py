"""Resume from a checkpoint, with the settings of its run and the command line's changes on top."""

import contextlib
import logging
import math
import os
import re
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.own_test_images import OwnTestImages
from common.predictions_csv import read_predicted_images
from common.run_folder import RunFolder
from common.run_record import RunRecord, flatten
from common.text import names_own_code, override_value, quote_override, typed_override
from common.untrusted.saved_config import read_saved_choices, read_saved_config
from datamodules.sources.catalog import Catalog
from engine.hints import CONF

log = logging.getLogger(__name__)

# Settings of a command rather than of the run; also those of the cache, whose old entries may be gone
COMMAND_KEYS = (
    "ckpt_path",
    "stages",
    "register",
    "seeds",
    "good_enough",
    "datamodule.cache",
    "datamodule.cache_max_gib",
    "datamodule.gpu_cache_gib",
)


def run_to_resume(ckpt_path: Path) -> RunFolder | None:
    """Return the run that a checkpoint belongs to, or None where its folder has no configuration.

    Raises:
        UserError: there is no such checkpoint, or the run's folder contains links.
    """
    if not ckpt_path.is_file():
        raise UserError(
            f"ckpt_path={ckpt_path}: no such checkpoint; a run keeps its own in checkpoints/best.ckpt and "
            "checkpoints/last.ckpt"
        )
    folder = RunFolder.of_checkpoint(ckpt_path)
    if folder is None or not folder.config.is_file():
        return None
    # In an untrusted folder, a link would redirect the files that a run writes: log, settings, checkpoints
    for path in (*folder.path.iterdir(), *folder.hydra.glob("*"), *folder.checkpoints.glob("*")):
        if path.is_symlink():
            raise UserError(f"{path}: is a link, but a run resumes only in its own folder; replace it with its target")
    return folder


def settings_of_network(network: Mapping) -> dict[str, object]:
    """Return the settings that choose a network, from its `network_arguments`: model=truncated, model.keep=4."""
    names = [name for name in (network["network"], network.get("name")) if re.fullmatch(r"\w+", str(name), re.ASCII)]
    file = next((name for name in names if (CONF / "model" / f"{name}.yaml").is_file()), None)
    chosen = {"model": file} if file else {}
    return chosen | {key: value for key, value in flatten(network, "model.").items() if value != file}


def network_of_checkpoint(ckpt_path: Path, given: Collection[str]) -> list[str]:
    """Return the settings of a checkpoint's network, except those that are given.

    There are none where the command line chooses a model, or where the checkpoint, which may be untrusted, has more than plain
    settings of a network of this project: then the command line must give them.
    """
    if {"model", "experiment"} & set(given):
        return []
    from lightning_modules.checkpoint import read_checkpoint  # late: torch

    try:
        described = read_checkpoint(ckpt_path)["hyper_parameters"]
    except UserError:  # raised again by the run, unless it finds an intact checkpoint instead
        return []
    settings = settings_of_network(described["network"])
    if "model" not in settings or not all(_is_plain(*each) for each in settings.items()):
        return []
    settings["model.image_size"] = described["image_size"]
    if described["fit"] != "squash":
        settings["datamodule.fit"] = described["fit"]
    return [quote_override(key, value) for key, value in settings.items() if key not in given]


def _is_plain(key: str, value: object) -> bool:
    """Return whether a setting only describes a network of this project: no code, weights or other settings of the command."""
    is_key = re.fullmatch(r"model(\.[a-z]\w*)*", key, re.ASCII) and key != "model.weights"
    return bool(is_key) and not names_own_code(key, value) and "${" not in str(value)


def check_unseen(key: str, weights: str, catalog: Catalog, fingerprints: Sequence[str]) -> None:
    """Check that a run's weights are not tested on images they were trained on; warn where such images are in val.

    Args:
        key: key of the configuration that names the weights.
        weights: its value: a checkpoint or the folder of a run; nothing is known of any other file.

    Raises:
        UserError: training images of that run are in test now, for example after datamodule.split_seed has changed.
    """
    path = Path(weights)
    run = RunFolder(path) if path.is_dir() else RunFolder.of_checkpoint(path)
    if run is None or not run.record.is_file() or not run.splits.is_file():
        return
    record = RunRecord.read_if_intact(run)  # a damaged one is reported where the test evaluation is counted
    trained = record and record.data
    if trained is None or trained.root is None:
        return
    listed = {row["path"]: row["split"] for row in run.read_splits()}
    seen = {path for path, split in listed.items() if split == "train"}
    paths, identify, advice = catalog.paths, str, f"keep the splits of its run: datamodule.splits={run.path}"
    if Path(trained.root) != catalog.root and not _are_moved(run, catalog, fingerprints):
        # These may be the same files under other paths: below another folder, or through links
        paths, identify = catalog.files, os.path.realpath
        seen = {identify(Path(trained.root, path)) for path in seen}
        advice = (
            f"keep the images and splits of its run: datamodule=csv {typed_override('datamodule.table', run.splits)} "
            f"{typed_override('datamodule.root', trained.root)}"
        )
    else:
        _warn_of_moved(f"{key}={weights}", listed, catalog)
    for split in ("test", "val"):
        rows = catalog.rows(split)
        if count := sum(identify(paths[row]) in seen for row in rows.tolist()):
            problem = (
                f"{key}={weights}: {count:,} of the {len(rows):,} {split} images are training images of its run, so "
                f"its accuracy on them would be too high; {advice}"
            )
            if split == "test":
                raise UserError(problem)
            log.warning(problem)


def _warn_of_moved(shown: str, listed: dict[str, str], catalog: Catalog) -> None:
    """Warn of new test images that have the names of missing training images of a run, and may be the same files, moved.

    Args:
        listed: path -> split in the run.
    """
    missing = (path for path in listed.keys() - set(catalog.paths) if listed[path] == "train")
    gone = {Path(path).name for path in missing if not Path(catalog.root, path).exists()}
    test = [catalog.paths[row] for row in catalog.rows("test").tolist()] if gone else []
    if count := sum(path not in listed and Path(path).name in gone for path in test):
        log.warning(
            "%s: %s of the %s test images have the file names of training images that are gone; if these are the same images, "
            "the accuracy on test is too high", shown, f"{count:,}", f"{len(test):,}",
        )  # fmt: skip


def _are_moved(run: RunFolder, catalog: Catalog, fingerprints: Sequence[str]) -> bool:
    """Return whether a run's images are here under the same relative paths: the folder was moved or copied since."""
    predicted = {}
    with contextlib.suppress(UserError, OSError):
        predicted = {row["path"]: row["fingerprint"] for row in read_predicted_images(run, "val")}
    return any(predicted.get(path) == fingerprints[row] for row, path in enumerate(catalog.paths))


def compare_images(record: RunRecord, catalog: Catalog, fingerprints: Sequence[str]) -> None:
    """Warn where a run continues in its folder with other images, splits or weights; note whether test has its old images."""
    before, now, folder = record.previous and record.previous.data, record.data, record.folder
    if not before or not before.fingerprint or before.fingerprint == now.fingerprint:
        return
    own, test = OwnTestImages(folder, catalog.root), catalog.rows("test").tolist()
    measured = sum(own.include(fingerprints[row], catalog.files[row]) for row in test)
    record.tests_earlier_images = bool(measured or own.unknown)
    counts = [
        f"{getattr(now, f'n_{split}') or 0:,} {split} (were {getattr(before, f'n_{split}') or 0:,})"
        for split in ("train", "val", "test")
    ]
    if measured and record.previous.test:
        counts.append(f"{measured:,} of the test images were test images before")
    with contextlib.suppress(UserError, OSError, ValueError):  # splits.csv is missing or damaged
        listed = folder.read_splits()
        splits = {row["path"]: row["split"] for row in listed}
        here = dict(zip(catalog.paths, catalog.splits, strict=True))
        gone = [path for path in splits if path not in here]
        other = sum(here.get(path, split) != split for path, split in splits.items())
        listed_ones = "" if len(catalog.rows("train")) else "of val and test "  # streamed ones are not listed
        new = len(here.keys() - splits.keys())
        counts.append(f"{listed_ones}{new:,} new, {len(gone):,} gone, {other:,} in another split")
        of_rows = [1.0] * len(catalog) if catalog.weights is None else catalog.weights.tolist()
        weights = dict(zip(catalog.paths, of_rows, strict=True))
        weighed = {row["path"]: float(row.get("weight") or 1) for row in listed if row["split"] == "train"}
        if n := sum(
            not math.isclose(weights.get(path, weight), weight, rel_tol=1e-6) for path, weight in weighed.items()
        ):
            counts.append(f"{n:,} with another weight")
    log.warning(
        "%s: the images, their splits or their weights have changed since the run began: %s",
        folder.name,
        "; ".join(counts),
    )


def evaluated_elsewhere(ckpt_path: str, record: RunRecord, catalog: Catalog, fingerprints: Sequence[str]) -> int | None:
    """Return how often a training that continues in another folder was evaluated on any of these test images.

    Return None, with a warning, where the record in its original folder cannot be read.
    """
    began = RunFolder.of_checkpoint(Path(ckpt_path))
    if began is None or not began.record.is_file() or began.path.resolve() == record.folder.path.resolve():
        return 0
    own = OwnTestImages(began, catalog.root)
    if own.unknown:
        log.warning("how often %s was evaluated on test is unknown: %s", ckpt_path, own.unknown)
        return None
    same = own.data.fingerprint_val_test == record.data.fingerprint_val_test
    images = ((fingerprints[row], catalog.files[row]) for row in catalog.rows("test").tolist())
    test = RunRecord.read(began).test
    return test.test_evaluations if test and (same or own.include_any(images)) else 0


@contextlib.contextmanager
def resume_errors(ckpt_path: str | None) -> Iterator[None]:
    """Name the checkpoint in an error that its state causes in the training inside."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if ckpt_path is None or not any(frame.filename.endswith("checkpoint_connector.py") for frame in frames):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"ckpt_path={ckpt_path}: the state of its training cannot be resumed ({reason}); use another checkpoint, or "
            "start from its weights: model.weights=FILE"
        ) from error


def resume_config(config: DictConfig, overrides: list[str], folder: RunFolder) -> tuple[DictConfig, list[str]]:
    """Return the configuration of the job, and the settings that the command line changes in a checkpoint's run.

    Without a checkpoint it is `config`; with one, the configuration of its run with the overrides on top.

    Args:
        folder: folder of the run that starts now.

    Raises:
        UserError: an experiment or another recipe, since it would be unclear which of its settings win; or another optimizer,
            for which the checkpoint has no state.
    """
    if config.ckpt_path is None:
        return config, []
    if not isinstance(config.ckpt_path, str):
        raise UserError(f"ckpt_path={config.ckpt_path}: use the path of a checkpoint; quote it if it is a number")
    run = run_to_resume(Path(config.ckpt_path))
    if run is None:
        log.warning(
            "ckpt_path=%s: no .hydra/config.yaml next to its folder, so this command's settings apply, not those of its run; "
            "only its network is known",
            config.ckpt_path,
        )
        return config, []
    given = _given(read_saved_choices(run), overrides)
    merged, changed = read_saved_config(run, [*given], config), []
    optimizer = OmegaConf.select(merged, "optimizer._target_")
    for name, text in given.items():
        if name.startswith("callbacks.") and (callback := name.split(".")[1]) not in config.callbacks:
            if merged.callbacks.pop(callback, None) is not None:  # from the run's choice of callbacks
                changed.append(f"~callbacks.{callback}")
            continue
        value = OmegaConf.select(config, name)
        if name not in COMMAND_KEYS and OmegaConf.select(merged, name) != value:
            shown = override_value(value)
            if OmegaConf.is_config(value):
                shown = value if text is None else text
            changed.append(f"{name}={shown}")
        OmegaConf.update(merged, name, value, merge=False, force_add=True)
    for key in COMMAND_KEYS:
        OmegaConf.update(merged, key, OmegaConf.select(config, key), merge=False, force_add=True)
    if optimizer != OmegaConf.select(merged, "optimizer._target_") and "fit" in merged.stages:
        raise UserError(
            f"optimizer._target_={merged.optimizer._target_}: the checkpoint has the state of {optimizer}, which another "
            f"optimizer cannot take over; keep it, or start from the weights: model.weights={config.ckpt_path}"
        )
    log.info("settings of %s%s", run.path, f", changed: {', '.join(changed)}" if changed else "")
    if changed and folder == run:
        log.warning("resuming with settings that differ from the run's: %s", ", ".join(changed))
    return merged, changed


def _given(choices: dict[str, str], overrides: list[str]) -> dict[str, str | None]:
    """Return the keys whose values a command takes from itself, with what was typed; None for a key of a chosen file.

    Args:
        choices: of the run; a choice that it has already is not a change.

    Raises:
        UserError: an experiment or another recipe.
    """
    keys = {override: override.lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides}
    typed = {key.replace("/", "."): override.partition("=")[2] for override, key in keys.items()}
    given = {name: text for name, text in typed.items() if text != str(choices.get(name))}
    for name in ("experiment", "recipe"):
        if name in given:
            raise UserError(
                f"{name}={typed[name]} with ckpt_path: a resumed run keeps its settings; change single settings instead"
            )
    if given.pop("debug", None) is not None:
        given = dict.fromkeys(_keys_of_debug()) | given
    if (text := given.pop("callbacks", None)) is not None:  # base/common.yaml's settings in this group stay the run's
        names = re.findall(r"[\w-]+", f"{choices.get('callbacks', '')},{text}")
        given = dict.fromkeys(_keys_of_callbacks(names)) | given
    return given


def _keys_of_debug() -> list[str]:
    """Return the keys that the chosen file of conf/debug sets; this group has no key of its own."""
    name = HydraConfig.get().runtime.choices.get("debug")
    return list(flatten(OmegaConf.to_container(hydra.compose(f"debug/{name}"), resolve=False))) if name else []


def _keys_of_callbacks(names: Sequence[str]) -> list[str]:
    """Return the keys that any file of conf/callbacks sets, since an earlier command may have chosen it, and `names`."""
    files = sorted({*names, *(file.stem for file in (CONF / "callbacks").glob("*.yaml"))})
    composed = [OmegaConf.to_container(hydra.compose(f"callbacks/{name}"), resolve=False) for name in files]
    return [key for each in composed for key in flatten(each) if key != "callbacks"]  # an empty file
