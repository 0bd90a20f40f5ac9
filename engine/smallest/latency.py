"""Measure the latency of candidates as they are deployed: one image, an ONNX file on one thread, without preprocessing."""

import contextlib
import logging
import platform
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.atomic_io import tolerate_disk_errors, write_json
from common.errors import UserError
from common.locks import locked
from common.run_record import Latency
from common.smallest_record import Candidate
from common.targets import import_extra
from common.text import clean, plural
from common.untrusted.json_files import read_json, to_type
from inference.backends import ModelDescription, OnnxBackend
from inference.export.onnx_file import OnnxFile, output_graphs, save_onnx
from lightning_modules.cut_costs import HEAD
from lightning_modules.cut_features import CutFeatures, in_order
from lightning_modules.latency import time_passes
from lightning_modules.networks.heads import build_head
from lightning_modules.networks.truncated import truncated

log = logging.getLogger(__name__)

FILE = "latency.json"
LARGEST = 16 * 2**20  # bytes
LONGEST_REASON = 200  # characters


def check_onnx(asked_by: str) -> None:
    """Check that latencies can be measured.

    Args:
        asked_by: the setting that needs them.

    Raises:
        UserError: a package is missing; names the extra.
    """
    for package in OnnxFile.packages:
        import_extra(package, asked_by, OnnxFile.extra)


def measure_latencies(candidates: Sequence[Candidate], num_classes: int, folder: Path) -> None:
    """Measure in turn the latency of each candidate that has none; reuse those that the folder has already.

    Weights are random, since they do not affect the time. One export serves all cuts of a backbone at one size. Where an export
    fails, the reason is logged and the latency stays None, as it does without the extra `onnx`. Of several processes, one
    measures and the others wait. The next command repeats flagged measurements, such as those on a busy machine.

    Args:
        folder: folder of the search, which keeps latencies in latency.json.
    """
    waiting: dict[tuple[str, int], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.costs.latency is None:
            waiting[candidate.backbone, candidate.image_size].append(candidate)
    if not waiting:
        return
    try:
        check_onnx("latency")
    except UserError as error:
        log.info("skipped: %s", error)
        return
    with locked(folder / "latency.lock", timeout_s=-1, what="measuring latency"):
        known = _Known(folder / FILE, num_classes)
        new = [
            [each for each in group if not known.take(each) or (each.costs.latency and each.costs.latency.flag)]
            for group in waiting.values()
        ]
        if n := sum(map(len, new)):
            log.info("measuring the latency of %s in turn, as ONNX on one thread", plural(n, "network"))
        for group in filter(None, new):
            for candidate, found in _measure(group, num_classes):
                known.add(candidate, found)
    listed = [each for group in waiting.values() for each in group]
    for each in listed:
        if reason := known.take(each).get("failed"):
            log.warning("the latency of %s cannot be measured: %s", each.name, reason)
    flagged = [each for each in listed if each.costs.latency and each.costs.latency.flag]
    if flagged:
        first, count = flagged[0], plural(len(flagged), "measurement")
        which = first.name if len(flagged) == 1 else f"the first was {first.name}"
        log.info("the machine was busy during %s: %s (%s)", count, which, first.costs.latency.flag)


def take_known_latencies(
    candidates: Sequence[Candidate], num_classes: int, folder: Path, *, flagged: bool = True
) -> list[Candidate]:
    """Give each candidate without a latency the one that the folder has; measure nothing.

    Return the candidates of which the folder says that their latency cannot be measured.

    Args:
        flagged: also take flagged latencies, such as those measured on a busy machine.
    """
    known, failed = _Known(folder / FILE, num_classes), []
    for candidate in candidates:
        if candidate.costs.latency is None:
            if "failed" in (known.take(candidate) or {}):
                failed.append(candidate)
            if candidate.costs.latency and candidate.costs.latency.flag and not flagged:
                candidate.costs.latency = None
    return failed


class _Known:
    """The latencies kept in a folder that were measured on this processor with this version of onnxruntime."""

    def __init__(self, path: Path, num_classes: int):
        self.path, self.num_classes = path, num_classes
        import onnxruntime  # late: an extra; asked for its version itself, since the package may be onnxruntime-gpu

        self.machine = f"{processor_name()}, onnxruntime {onnxruntime.__version__}"
        self._latencies: dict[str, dict] = {}
        if path.is_file():
            try:
                content = read_json(path, LARGEST)
                if content.get("machine") == self.machine:
                    self._latencies = {
                        key: each if "failed" in each else asdict(to_type(each, Latency, path))
                        for key, each in content["latencies"].items()
                    }
            except (UserError, AttributeError, KeyError, TypeError) as error:
                log.warning(
                    "%s cannot be read, so latencies are measured again: %s", path, clean(error, LONGEST_REASON)
                )

    def take(self, candidate: Candidate) -> dict | None:
        """Give a candidate its latency; return its fields, or `failed` and why it has none, or None if nothing is known."""
        found = self._latencies.get(self._key(candidate))
        if found and "failed" not in found:
            candidate.costs.latency = Latency(**found)
        return found

    def add(self, candidate: Candidate, found: dict) -> None:
        self._latencies[self._key(candidate)] = found
        with tolerate_disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"machine": self.machine, "latencies": self._latencies})

    def _key(self, candidate: Candidate) -> str:
        return f"{candidate.backbone} {candidate.keep} {candidate.image_size} px, {self.num_classes} classes"


class _AllCuts(nn.Module):
    """Return the logits of several cuts of a backbone for one image, from one forward pass."""

    def __init__(self, backbone: str, keeps: Sequence[str], num_classes: int):
        super().__init__()
        last = in_order(backbone, keeps)[-1]
        network = truncated(backbone=backbone, keep=last, head=HEAD, num_classes=num_classes)
        self.features = CutFeatures(network, backbone, keeps)
        self.heads = nn.ModuleList(
            build_head(features=each, num_classes=num_classes, **HEAD) for each in self.features.channels
        )
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(head(each) for head, each in zip(self.heads, self.features(image), strict=True))


def _measure(candidates: list[Candidate], num_classes: int) -> Iterator[tuple[Candidate, dict]]:
    """Yield the latency of each candidate, all cuts of one backbone at one size; where it has none, `failed` and why."""
    backbone, size = candidates[0].backbone, candidates[0].image_size
    names = [f"logits{index}" for index in range(len(candidates))]
    try:
        with torch.random.fork_rng(devices=[]):
            network = _AllCuts(backbone, [each.keep for each in candidates], num_classes)
        graphs = list(output_graphs(network, size, names))
    except Exception as error:  # errors of torch's exporter have no common class
        if len(candidates) == 1:
            reason = clean(f"{type(error).__name__}: {error}", LONGEST_REASON)
            yield candidates[0], {"failed": f"its export failed ({reason})"}
            return
        for candidate in candidates:  # perhaps only one of them cannot be exported
            yield from _measure([candidate], num_classes)
        return
    for candidate, graph in zip(candidates, graphs, strict=True):
        yield candidate, _time(graph, size, num_classes)


def _time(graph, image_size: int, num_classes: int) -> dict:
    """Return the fields of an ONNX model's Latency, or `failed` and the reason."""
    described = ModelDescription([str(k) for k in range(num_classes)], image_size, [0.5] * 3, [0.5] * 3, decision=None)
    image = np.random.default_rng(0).normal(size=(1, 3, image_size, image_size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        save_onnx(graph, path, described.as_metadata())
        try:
            backend = OnnxBackend(path, "cpu", threads=1)
            backend.session.run(None, {backend.input.name: image})
        except Exception as error:  # onnxruntime's errors have no common class
            return {"failed": f"onnxruntime does not run it ({clean(error, LONGEST_REASON)})"}
    found = time_passes(lambda: backend.session.run(None, {backend.input.name: image}), threads=1)
    return asdict(Latency(batch_size=1, device="cpu", **found))


def processor_name() -> str:
    """Return the name of the processor, if the system gives one."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
        )
    return platform.processor() or platform.machine()
