"""Screen every cut: one forward pass per backbone and image size, and a probe of the features after each cut."""

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from common.atomic_io import tolerate_disk_errors, write_json
from common.errors import UserError
from common.locks import locked
from common.processor_time import CoreWatch
from common.progress import rounded
from common.run_record import InputInfo
from common.smallest_record import Candidate, Measured, Metric
from common.text import duration, format_interval, is_own_backbone, override_value, plural
from common.untrusted.json_files import read_json, to_type
from datamodules.image_datamodule import ImageDataModule
from datamodules.normalize import as_batch, normalize
from datamodules.pixel_cache import JpegPixels, Look
from datamodules.splits import join_groups, spread_rows
from engine.cli import MAY_DIFFER
from engine.config.validate import validate
from engine.run.cost import on_gpu
from engine.run.stages import ANY, MEMORY, build_data
from engine.search.space import compose_run
from engine.smallest.feature_cache import FeatureCache, weights_name
from engine.smallest.latency import processor_name
from engine.smallest.plan import RESERVE_S, TrainingTimes
from engine.smallest.probe import Part, probe
from engine.smallest.progress import Progress, repeats_hidden
from engine.smallest.selection import REFERENCE_SHARE
from lightning_modules.cut_features import CutFeatures, in_order
from lightning_modules.network_errors import network_errors
from lightning_modules.networks.registry import build_network, network_arguments
from lightning_modules.preprocessing import Preprocessing, decide_preprocessing
from lightning_modules.pretrained_weights import load_initial_weights

log = logging.getLogger(__name__)

MOST_TRAIN, MOST_VAL = 3000, 2000  # images of a pass; a part of a larger set, with every class, ranks cuts as well
SCREEN_SHARE = 0.35  # share of the budget
MARGIN = 1.2  # factor on a predicted time, where a message asks for a larger budget
BATCH_ON_CPU, BATCH_ON_GPU = 16, 256
POLL_S = 0.5
MEASURED_S = 1.0  # of forward passes, after which their rate is reliable
LARGEST_RESULT = 2**20  # bytes
Rows = tuple[np.ndarray, np.ndarray]  # of train and val, in the catalog


@dataclass(kw_only=True)
class Pass:
    """One backbone at one image size, over all images of train and val that are screened."""

    backbone: str
    image_size: int
    images: int
    seconds: float | None = None
    """Of the forward passes only; null where the pass was skipped."""
    macs: float
    """Multiply-accumulates for one image, up to the last cut."""
    skipped: str | None = None
    """Why."""
    flag: str | None = None
    """Why the seconds are not reliable; null where nothing speaks against them."""

    @property
    def name(self) -> str:
        return f"{self.backbone} at {self.image_size} px"


@dataclass(kw_only=True)
class PassResult:
    """The result of a pass, as kept in the folder of the search."""

    question: dict[str, Any]
    """What the probes depend on besides the images; where it differs, the pass is repeated."""
    done: Pass
    forward_s: float = 0.0
    """Seconds of this command's forward passes: 0 where the features were on disk."""
    reading_s: float = 0.0
    """Seconds to read the images, unless an earlier pass of this command has read them."""
    further_s: float = 0.0
    """All other seconds: weights, probes."""
    machine: str | None = None
    """The processor or GPU, and the number of threads, that the seconds of the pass are of."""
    budget_minutes: float | None = None
    """The budget of the command that skipped the pass for lack of time; a command with a larger one decides again."""
    expected_s: float | None = None
    """Seconds that the skipped pass would have taken."""
    left_s: float = 0.0
    """Seconds that the screen had left for it; below 0 after a slow start, which counts in `enough_minutes`."""
    probes: dict[str, Measured] = field(default_factory=dict)
    """By cut."""


class DoesNotFit(Exception):  # noqa: N818 a decision, no error
    """Stop a pass that would take longer than the remaining time.

    Args:
        seconds: of the whole pass.
        flag: why they are not reliable; None where nothing speaks against them.
    """

    def __init__(self, seconds: float, flag: str | None = None):
        self.seconds, self.flag = seconds, flag


class Screen:
    """Fill in, in place, the probe of every pretrained candidate that is not excluded and whose pass fits into the time.

    The cheapest pass comes first. Processes with the same folder share the passes; one that was killed repeats at most the pass
    that it was working on.

    Args:
        candidates: all cuts that are asked for, of all backbones and sizes.
        files: `candidates.weights` by backbone.
        folds: rows of train and val in each fold (`read_folds`), where probes predict both by cross-validation; None: they
            predict val.
        remaining_s: returns the seconds left for the screen; None: no limit.
        overrides: arguments of train.py that all runs share.
    """

    def __init__(
        self,
        candidates: list[Candidate],
        files: dict[str, str | None],
        folder: Path,
        *,
        folds: list[Rows] | None,
        metric: Metric,
        budget_minutes: float | None,
        remaining_s: Callable[[], float | None],
        overrides: list[str],
        progress: Progress,
    ):
        self.folder, self.folds, self.metric, self.overrides = folder / "screen", folds, metric, overrides
        self.remaining_s, self.budget_minutes, self.files = remaining_s, budget_minutes, files
        groups: dict[tuple[str, int], list[Candidate]] = {}
        for candidate in candidates:
            if candidate.pretrained and not candidate.excluded:
                groups.setdefault((candidate.backbone, candidate.image_size), []).append(candidate)
        macs = {key: max(candidate.costs.macs for candidate in group) for key, group in groups.items()}
        self.macs = dict(sorted(macs.items(), key=lambda item: (item[1], item[0])))  # the cheapest pass first
        self.groups = {key: groups[key] for key in self.macs}
        self.images: dict[tuple, Images] = {}
        self.results: dict[tuple[str, int], PassResult] = {}
        self.progress = progress

    def run(self, is_planned: bool = True) -> list[Pass]:
        """Do the passes that no other process does, and wait for the others.

        Args:
            is_planned: whether runs are planned by the seconds of the passes.

        Raises:
            UserError: wrong images or settings, or too little time for the cheapest pass.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = list(self.groups)
        with repeats_hidden(all_information=True):
            while waiting:
                left = [key for key in waiting if not self._settle(key)]
                if left == waiting:
                    names = ", ".join(f"{backbone} at {size} px" for backbone, size in left)
                    self.progress.set("screen", f"waiting for another process to finish {names}")
                    time.sleep(POLL_S)
                waiting = left
            if is_planned:
                self._scale_seconds()
        for key, result in self.results.items():
            for candidate in self.groups[key]:
                if candidate.keep in result.probes:
                    candidate.probe, candidate.stage = result.probes[candidate.keep], "screened"
        return [self.results[key].done for key in self.groups]

    def _scale_seconds(self) -> None:
        """Scale the seconds of passes that another machine has done: the cheapest of them is timed on this one, too."""
        timed = {key: self.results[key] for key in self.groups if self.results[key].done.seconds}
        machines = {each.machine for each in timed.values()} - {None}
        here = _machine(compose_run([*self.overrides, "model=truncated"])) if machines else None
        for machine in machines - {here}:
            there = {key: each for key, each in timed.items() if each.machine == machine}
            key, first = next(iter(there.items()))
            again = PassResult(question=first.question, done=replace(first.done))
            try:
                self._features(again, f"screen: {first.done.name}, timed on this machine")
            except DoesNotFit as error:
                again.done.seconds = error.seconds
            except _SkippedError as error:
                log.info("screen: the times of %s stay those of another machine, %s: %s", key[0], machine, error)
                continue
            ratio = again.done.seconds / first.done.seconds
            log.info(
                "screen: this machine takes %.2g times as long as the one that screened before, %s", ratio, machine
            )
            for each in there.values():
                each.done.seconds *= ratio

    def enough_minutes(self) -> int | None:
        """Return the minutes of a budget that is about enough for all passes; None: no pass lacked time."""
        lacking = [each for each in self.results.values() if each.expected_s and each.budget_minutes]
        if not lacking:
            return None
        spent_s = max(SCREEN_SHARE * 60 * each.budget_minutes - each.left_s for each in lacking)
        return math.ceil((spent_s + MARGIN * sum(each.expected_s for each in lacking)) / 60 / SCREEN_SHARE)

    def _settle(self, key: tuple[str, int]) -> bool:
        """Read the result of a pass, or do the pass; return False while another process is doing it."""
        backbone, size = key
        name = re.sub(r"[^\w.-]", "_", f"{backbone}-{size}")
        path, question = self.folder / f"{name}.json", self._question(key)
        with locked(self.folder / f".{name}.lock") as is_free:
            if not is_free:
                return False
            result = self._read(path, question)
            if result is None:
                result = self._do(key, question)
                with tolerate_disk_errors(path):
                    write_json(path, asdict(result))
            self.results[key] = result
        return True

    def _question(self, key: tuple[str, int]) -> dict[str, Any]:
        cuts = [candidate.keep for candidate in self.groups[key]]
        weights = self.files.get(key[0], "auto")
        folds = self.folds and len(self.folds)
        overrides = _decisive(self.overrides)
        return {"metric": self.metric, "folds": folds, "weights": weights, "cuts": cuts, "overrides": overrides}

    def _read(self, path: Path, question: dict[str, Any]) -> PassResult | None:
        """Return the result of an earlier command or another process; None where the pass is still to be done."""
        if not path.is_file():
            return None
        try:
            result = to_type(read_json(path, LARGEST_RESULT), PassResult, path)
        except UserError as error:
            log.info("screen: %s; this pass is repeated", error)
            return None
        known = result.question
        if isinstance(known.get("overrides"), list):  # up to version 0.6.0, it has all of them
            known["overrides"] = _decisive(known["overrides"])
        if known != question:
            return None
        had = result.budget_minutes
        had_less = had is None or self.budget_minutes is None or self.budget_minutes > had
        return None if result.done.skipped and had_less else result

    def _do(self, key: tuple[str, int], question: dict[str, Any]) -> PassResult:
        """Do a pass, or decide to skip it."""
        number = list(self.groups).index(key) + 1
        started = time.monotonic()
        done = Pass(backbone=key[0], image_size=key[1], images=0, macs=self.macs[key])
        head = f"screen: pass {number} of {len(self.groups)}, {done.name}"
        self.progress.set(head)
        result = PassResult(question=question, done=done)
        expected, left = self._expected_s(key), self.remaining_s()
        try:
            if expected is not None and left is not None and expected > left:
                raise DoesNotFit(expected)
            images, features = self._features(result, head)
            result.probes = self._probes(question["cuts"], images, features, head)
        except DoesNotFit as error:
            seconds = error.seconds
            if number == 1:
                spent_s = SCREEN_SHARE * 60 * (self.budget_minutes or 0) - (self.remaining_s() or 0)
                # Otherwise the next refusal would ask for the time to train a head; here, on the images of the pass
                times = TrainingTimes([replace(done, images=1, seconds=seconds)], n_train=1, n_val=0, epochs=1)
                head_s = min(map(times.of_head, self.groups[key]))
                further_s = max(seconds / SCREEN_SHARE, seconds + RESERVE_S + head_s / REFERENCE_SHARE)
                needed = MARGIN * (spent_s + further_s) / 60
                busy = f" ({error.flag})" if error.flag else ""
                again = " when the machine is idle" * bool(busy) + ", which finds the images read" * (spent_s > seconds)
                raise UserError(
                    f"budget.minutes={self.budget_minutes}: too short for a single pass over the images; the cheapest, "
                    f"{done.name}, takes about {duration(seconds)}{busy}, and gets {SCREEN_SHARE:.0%} of the budget "
                    f"left after starting and reading the images, which took {duration(spent_s)}; use "
                    f"budget.minutes={np.ceil(needed * 10) / 10:g} or more{again and ', or repeat the command' + again}"
                ) from None
            result.budget_minutes, result.expected_s = self.budget_minutes, seconds
            result.left_s = self.remaining_s() or 0.0
            done.skipped = (
                f"it would take about {duration(seconds)}, but the screen has only {duration(max(0.0, result.left_s))} left "
                f"of budget.minutes={self.budget_minutes}"
            )
        except _SkippedError as error:
            done.skipped = str(error)
        if done.skipped:  # the search notes it when all passes are done
            return result
        result.further_s = max(0.0, time.monotonic() - started - result.forward_s - result.reading_s)
        log.info("%s", self._line(result))
        return result

    def _line(self, result: PassResult) -> str:
        done, probes = result.done, result.probes
        best = max(probes, key=lambda cut: probes[cut].value, default=None)
        found = "every cut has features that are not finite"
        if best is not None:
            each = probes[best]
            interval = "" if each.low is None else f" ({format_interval(each.low, each.high)})"
            found = f"best probe: cut after {best}, {self.metric.replace('_', ' ')} {each.value:.3f}{interval}"
        seconds = duration(result.forward_s + result.reading_s + result.further_s)
        disturbed = f" ({done.flag})" if done.flag and result.forward_s else ""
        return f"screen: {done.name}: {plural(len(probes), 'cut')} in {seconds}{disturbed}; {found}"

    def _expected_s(self, key: tuple[str, int]) -> float | None:
        """Return the seconds a pass should take, judged by earlier passes, of the same backbone if any; None: unknown."""
        passes = [each for each in self.results.values() if each.done.seconds]
        if not passes:
            return None
        calm = [each for each in passes if each.done.flag is None] or passes
        own = [each for each in calm if each.done.backbone == key[0]] or calm
        further = sum(each.further_s for each in passes) / len(passes)
        reading = [each.reading_s for each in passes if each.reading_s]
        if reading and not any(size == key[1] for size, *_ in self.images):
            further += sum(reading) / len(reading)
        work = self.macs[key] * passes[-1].done.images
        return further + work * sum(e.done.seconds for e in own) / sum(e.done.macs * e.done.images for e in own)

    def _features(self, result: PassResult, head: str) -> tuple["Images", list[np.ndarray]]:
        """Return the images and the (N, C) features of each cut, read from disk if they are there; complete the result.

        Raises:
            DoesNotFit: the speed on the first images shows that the time is too short.
            _SkippedError: the weights are not available, or the network gives no features for these cuts.
        """
        done, question = result.done, result.question
        backbone, size = key = done.backbone, done.image_size
        cuts = in_order(backbone, question["cuts"])
        own = [
            "model=truncated", f"model.backbone={override_value(backbone)}", f"model.keep={override_value(cuts[-1])}",
            f"model.image_size={size}", f"model.weights={override_value(question['weights'])}",
        ]  # fmt: skip
        config = validate(compose_run([*self.overrides, *own]))
        preprocessing = decide_preprocessing(OmegaConf.to_container(config.model))
        self.progress.set(f"{head}: reading the images")
        started, known = time.monotonic(), len(self.images)
        images = self._images(config, preprocessing)
        done.images = len(images.rows)
        result.reading_s = time.monotonic() - started if len(self.images) > known else 0.0
        self.progress.set(f"{head}: reading the weights")
        network = _load_network(config, images.data, backbone, cuts)
        data = images.data
        mean, std = (data.mean, data.std) if preprocessing.mean is None else (preprocessing.mean, preprocessing.std)
        look = Look(size, data.fit, data.value_range, data.interpolation)
        fingerprints = [data.pixel_cache.stats.fingerprints[row] for row in images.rows]
        result.machine = _machine(config)  # runs are planned by its seconds
        pixels = [look.name(), data.pixel_cache.kept_as == JpegPixels.kept_as, mean, std, fingerprints]
        named = [backbone, cuts, weights_name(network.state_dict()), *pixels, result.machine]
        kept_gib = 0 if is_own_backbone(backbone) else data.cache_max_gib  # of the user's own the code may change
        cache = FeatureCache(data.cache / "features", named, kept_gib)
        found = cache.load([(len(images.rows), channels) for channels in network.channels])
        if found is None:
            device = torch.device("cuda" if on_gpu(config) else "cpu")
            found = self._forward(key, network, images, (mean, std), device, head)
            result.forward_s = found[1]
            cache.save(*found)
        features, done.seconds, done.flag = found
        by_cut = dict(zip(cuts, features, strict=True))
        return images, [by_cut[cut] for cut in question["cuts"]]

    def _images(self, config: DictConfig, preprocessing: Preprocessing) -> "Images":
        """Return the images as a run would see them without augmentation, read once for passes that share a look."""
        look = (config.model.image_size, preprocessing.interpolation, preprocessing.mean is None)
        if look not in self.images:
            with self.progress.open_to_others():  # the data module counts what it reads
                images = Images.of(config, preprocessing, self.folds)
            if images.described and not self.images:
                log.info("screen: probes use %s, including every class", images.described)
            self.images[look] = images
        return self.images[look]

    @torch.inference_mode()
    def _forward(
        self,
        key: tuple[str, int],
        network: CutFeatures,
        images: "Images",
        mean_and_std: tuple,
        device: torch.device,
        head: str,
    ) -> tuple[list[np.ndarray], float, str | None]:
        """Run the network over all images; return (N, C) float32 features of each cut, the seconds, and any disturbance."""
        network = network.eval().to(device, memory_format=torch.channels_last)
        found = [np.empty((len(images.rows), channels), np.float32) for channels in network.channels]
        total, size, seconds = len(images.rows), BATCH_ON_GPU if device.type == "cuda" else BATCH_ON_CPU, 0.0
        if device.type == "cuda":  # the first pass spends seconds on loading kernels, which would distort the rate
            side = images.data.image_size
            network(torch.zeros(min(size, total), 3, side, side, device=device))
            torch.cuda.synchronize(device)
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        begun, watch = time.monotonic(), CoreWatch()
        for start in range(0, total, size):
            rows = images.rows[start : start + size]
            pixels = as_batch(np.stack([images.data.pixel_cache[int(row)] for row in rows])).to(device)
            started = time.perf_counter()
            for held, features in zip(found, network(normalize(pixels, *mean_and_std)), strict=True):
                held[start : start + size] = features.float().cpu().numpy()
            seconds += time.perf_counter() - started
            seen = start + len(rows)
            elapsed = time.monotonic() - begun
            whole = elapsed * total / seen
            left = self._left_s()
            if left is not None and seen < total and seconds >= MEASURED_S and whole - elapsed > left:
                raise DoesNotFit(whole, watch.used().describe_shortage(threads, "a pass"))
            rest = whole - elapsed + self._rest_s(key, whole)
            self.progress.set(head, f"{seen:,} of {total:,} images, about {rounded(rest)} left")
        return found, seconds, watch.used().describe_shortage(threads, "a pass")

    def _left_s(self) -> float | None:
        """Return the seconds left for a pass; for the first one, without which there is no answer, a share of the rest.

        The others get what is left of the screen's share after starting and reading the images, which may be nothing.
        """
        left = self.remaining_s()
        if left is None or self.results:
            return left
        return SCREEN_SHARE * (left + (1 - SCREEN_SHARE) * 60 * self.budget_minutes)

    def _rest_s(self, key: tuple[str, int], seconds: float) -> float:
        """Return the expected seconds of the remaining passes, given this one's `seconds`, at most the time that is left."""
        waiting = {other: macs for other, macs in self.macs.items() if other != key and other not in self.results}
        rest = sum(self._expected_s(other) or seconds * macs / self.macs[key] for other, macs in waiting.items())
        left = self.remaining_s()
        return rest if left is None else min(rest, max(0.0, left))

    def _probes(
        self, cuts: Sequence[str], images: "Images", features: Sequence[np.ndarray], head: str
    ) -> dict[str, Measured]:
        """Return the probe of each cut whose features are all finite."""
        probes = {}
        for number, (cut, of_cut) in enumerate(zip(cuts, features, strict=True), 1):
            self.progress.set(head, f"probe {number} of {len(cuts)}")
            if not np.isfinite(of_cut).all():
                log.info("%s: some features after %s are not finite; this cut is not screened", head, cut)
                continue
            probes[cut] = probe(
                of_cut, images.labels, images.parts, classes=images.classes, metric=self.metric, groups=images.groups
            )
        return probes


@dataclass
class Images:
    """The images of passes that share a look, with the images that probes are fitted to and predict."""

    data: ImageDataModule
    rows: np.ndarray
    """(N,) of train and val, never of test."""
    labels: np.ndarray
    groups: np.ndarray
    parts: list[Part]
    described: str | None
    """How many images of train and val these are; None: all."""

    @property
    def classes(self) -> int:
        return len(self.data.catalog.classes)

    @classmethod
    def of(cls, config: DictConfig, preprocessing: Preprocessing, folds: list[Rows] | None) -> "Images":
        """Read the images; of a large set, a part with every class.

        Raises:
            UserError: an error of the data module, which also refuses a split without a class.
        """
        data = read_images(config, preprocessing)
        catalog, seed = data.catalog, data.rules["seed"]
        train, val = catalog.rows("train"), catalog.rows("val")
        pairs = folds or [(train, val)]
        if folds:  # they also use what datamodule.train_fraction excludes from train without folds
            train = np.setdiff1d(np.concatenate([each for pair in pairs for each in pair]), val)
        thinned = [
            rows if len(rows) <= most else np.sort(rows[spread_rows(catalog.labels[rows], most, seed)])
            for rows, most in ((train, MOST_TRAIN), (val, MOST_VAL))
        ]
        rows = np.concatenate(thinned)
        places = np.full(len(catalog), -1)
        places[rows] = np.arange(len(rows))
        parts = [Part(*(places[each][places[each] >= 0] for each in pair)) for pair in pairs]
        groups = join_groups(catalog.groups, data.pixel_cache.stats.fingerprints)
        counts = [f"{len(part):,} of {len(all_):,}" for part, all_ in zip(thinned, (train, val), strict=True)]
        part = f"{counts[0]} images of train and {counts[1]} of val" if len(rows) < len(train) + len(val) else None
        return cls(data, rows, catalog.labels[rows], groups[rows], parts, part)


def read_images(config: DictConfig, preprocessing: Preprocessing | InputInfo = ANY) -> ImageDataModule:
    """Return a run's data module, set up."""
    data = build_data(config, preprocessing)
    data.memory = MEMORY
    data.setup()
    return data


def read_folds(config: DictConfig, folds: int) -> list[Rows]:
    """Return the rows of train and val in each fold, the same as in runs with datamodule.folds and datamodule.fold.

    Raises:
        UserError: a fold has too few images, or one side lacks a class.
    """
    with repeats_hidden(all_information=True):
        of_folds = (OmegaConf.merge(config, {"datamodule": {"folds": folds, "fold": fold}}) for fold in range(folds))
        return [tuple(map(each.catalog.rows, ("train", "val"))) for each in map(read_images, of_folds)]


def _decisive(overrides: list) -> list:
    """Return the overrides without those that may change when a search resumes."""
    return [each for each in overrides if not MAY_DIFFER.match(str(each).lstrip("+"))]


def _machine(config: DictConfig) -> str:
    name = torch.cuda.get_device_name() if on_gpu(config) else processor_name()
    return f"{name}, {plural(torch.get_num_threads(), 'thread')}"


class _SkippedError(Exception):
    """Skip a pass that cannot be done; the text is the reason."""


def _load_network(config: DictConfig, data: ImageDataModule, backbone: str, cuts: list[str]) -> CutFeatures:
    """Return the network with its pretrained weights.

    Raises:
        _SkippedError: it has none here, or gives no features for these cuts.
    """
    arguments = network_arguments(OmegaConf.to_container(config.model))
    try:
        with network_errors(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # weights that the file lacks are the same in every process
            network = build_network(**arguments, num_classes=len(data.catalog.classes))
            source = load_initial_weights(
                network, config.model.weights, arguments=arguments, called=backbone, download_to=data.cache / "weights"
            )
            if source.startswith("random"):
                raise _SkippedError("its pretrained weights are not available")
            return CutFeatures(network, backbone, cuts)
    except UserError as error:
        raise _SkippedError(str(error)) from error
