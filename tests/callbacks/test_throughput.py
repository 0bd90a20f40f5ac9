"""Images a second, and what disturbed an epoch."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks import throughput
from callbacks.throughput import Throughput
from common.processor_time import CoreUse


@pytest.fixture
def epochs(monkeypatch):
    """Train epochs of so many steps of 10 images by a made-up clock: `epochs((step seconds, others' cores, stolen), ...)`."""
    clock, cores = [100.0], {}
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    class Watch:
        def __init__(self):
            self.began = clock[0]

        def used(self):
            wall_s = clock[0] - self.began
            others, stolen = (None if each is None else each * wall_s for each in cores["taken"])
            return CoreUse(wall_s, 2, wall_s, others, stolen)

    monkeypatch.setattr(throughput, "CoreWatch", Watch)

    def train(*each_epoch, device="cpu", processes=1):
        trainer = SimpleNamespace(
            world_size=processes,
            strategy=SimpleNamespace(root_device=torch.device(device)),
            should_stop=False,
            is_last_batch=False,
        )
        callback = Throughput(started_s=100.0)
        callback.on_train_start(trainer, None)
        for steps_s, *taken in each_epoch:
            cores["taken"] = taken
            callback.on_train_epoch_start(trainer, None)
            for number, step_s in enumerate(steps_s, 1):
                clock[0] += 0.01  # of the loader
                callback.on_train_batch_start(trainer, None, None, number)
                clock[0] += step_s
                trainer.is_last_batch = number == len(steps_s)
                callback.on_train_batch_end(trainer, None, None, {"labels": [0] * 10}, number)
            clock[0] += 50.0  # validation, which is no part of it
            cores["taken"] = 2.0, 2.0
            callback.on_train_epoch_end(trainer, None)
        return callback.measured()

    return train


CALM, BUSY = ([0.09] * 20, 0.1, 0.0), ([0.19] * 20, 1.6, 0.0)


def test_the_rate_is_of_the_epochs_that_nothing_disturbed(epochs):
    found = epochs(BUSY, CALM, BUSY, CALM)
    assert [each.flag for each in found.epochs[1:3]] == [
        None,
        "other processes used 1.6 of 2 cores, and training needs 2",
    ]
    assert (found.train_images_per_s, found.flag) == (100.0, None)
    assert found.describe() == "100.0 images/s (without 1 of 3 epochs, which were disturbed)"
    epoch = found.epochs[2]
    assert (epoch.seconds, epoch.step_p50_ms, epoch.step_p95_ms) == (4.0, 190.0, 190.0)
    assert (epoch.others_cores, epoch.stolen_cores) == (1.6, 0.0)


def test_a_rate_of_disturbed_epochs_only_is_flagged(epochs):
    found = epochs(CALM, ([0.19] * 20, 0.0, 0.8))
    assert found.flag == "other virtual machines took 0.8 of 2 cores, and training needs 2"
    assert found.describe() == f"50.0 images/s (unreliable: {found.flag})"
    assert epochs(CALM, CALM).describe() == "100.0 images/s"
    assert epochs(BUSY).train_images_per_s is None and epochs(BUSY).flag is None  # of one epoch there is no rate


def test_images_are_those_of_all_processes_and_the_first_step_counts_from_the_start(epochs):
    found = epochs(CALM, ([0.19] * 20, 0.0, 0.8), processes=4)
    assert [each.images for each in found.epochs] == [800, 800] and found.train_images_per_s == 200.0
    assert (found.epochs[1].others_cores, found.epochs[1].stolen_cores) == (0.0, 0.8)
    assert found.time_to_first_step_s == 0.1


def test_steps_that_differ_by_a_factor_of_three_are_not_steady(epochs):
    found = epochs(([*[0.09] * 18, 0.26, 0.26], 0.0, 0.0), ([*[0.09] * 18, 0.28, 0.28], 0.0, 0.0))
    assert [each.flag for each in found.epochs] == [None, "p95 of the steps is 3.1 times p50"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs the files of Linux")
def test_the_peak_of_memory_is_that_of_the_system():
    (peak,) = (
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    found = throughput.peak_memory_mib()["process"]
    assert (
        0.95 * int(peak) / 1024 <= found < 20 * int(peak) / 1024
    )  # it may be that of the process which started this one


def test_without_proc_stat_only_the_spread_of_the_steps_can_tell(epochs):
    found = epochs((BUSY[0], None, None), ([*[0.09] * 18, 0.9, 0.9], None, None), ([0.09] * 20 + [9.0], None, None))
    assert [each.flag for each in found.epochs] == [None, "p95 of the steps is 10.0 times p50", None]
    assert found.epochs[0].others_cores is None and found.epochs[0].stolen_cores is None


def test_what_cannot_tell_a_disturbance_is_not_judged(epochs):
    short = ([0.01] * 20, 1.6, 0.0)
    few = ([0.1] * 5 + [5.0], 0.0, 0.0)
    assert [each.flag for each in epochs(short, few).epochs] == [None, None]
    assert epochs(([*[0.09] * 18, 0.9, 0.9], 1.0, 0.0), device="cuda").epochs[0].flag is None  # one core is left for it
