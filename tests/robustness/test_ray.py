"""Sweeps on a Ray cluster of two nodes on this machine: a killed process, a lost node, a signal, and the same command again."""

import re
import signal
import time

import pytest

from tests.support.helpers import NOT_DRAWN, needs_ray, ray_jobs
from tests.support.processes import TRAIN, small_training, start
from tests.support.sweep_results import finished, results

pytestmark = [needs_ray, pytest.mark.slow, pytest.mark.timeout(900)]


class Nodes:
    """A cluster whose head runs no jobs, and nodes of one core."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.address = f"hydra.launcher.ray.init.address={cluster.address}"

    def add(self):
        return self.cluster.add_node(num_cpus=1)

    def job(self, node):
        """Return the process of the job on a node."""
        (raylet,) = node.all_processes["raylet"]
        return ray_jobs(raylet.process.pid)[0]

    def remove(self, node):
        """Kill a node with all that runs on it."""
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield Nodes(cluster)
    cluster.shutdown()


def start_sweep(images, folder, *more, epochs=60):
    settings = [*more, *NOT_DRAWN, f"trainer.max_epochs={epochs}", f"hydra.sweep.dir={folder}"]
    return start(TRAIN, "-m", *small_training(images, folder.parent, *settings))


def wait_for_checkpoints(folder, n, process):
    while len(list(folder.glob("*/checkpoints/last.ckpt"))) < n:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_killed_processes_and_lost_nodes_change_no_bit(nodes, two_colors, tmp_path):
    straight = start_sweep(two_colors, tmp_path / "straight", "seed=1,2,3")
    out, err = straight.communicate()
    assert straight.returncode == 0, err
    first, other = nodes.add(), nodes.add()
    process = start_sweep(two_colors, tmp_path / "sweep", "seed=1,2,3", "hydra/launcher=ray", nodes.address)
    wait_for_checkpoints(tmp_path / "sweep", 2, process)
    nodes.job(first).kill()
    nodes.remove(other)
    out, err = process.communicate()
    nodes.remove(first)
    assert process.returncode == 0, err
    assert len(re.findall("seed-.: interrupted; resuming from checkpoints/last.ckpt", out)) == 2
    assert "Sweep: 3 of 3 done, 0 running, 0 failed" in out
    assert results(tmp_path / "sweep") == results(tmp_path / "straight")


def test_jobs_that_are_lost_for_good_are_named_and_the_same_command_runs_them_again(nodes, two_colors, tmp_path):
    node, given = nodes.add(), ("seed=1,2,3", "hydra/launcher=ray", nodes.address)
    process = start_sweep(two_colors, tmp_path / "sweep", *given, "hydra.launcher.ray.remote.max_retries=0")
    for n, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        wait_for_checkpoints(tmp_path / "sweep", n, process)
        nodes.job(node).send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 1 and "Traceback" not in out + err
    assert err.endswith("ERROR: 2 jobs failed: seed-1, seed-2. Rerun the same command to retry only these\n")
    assert len(re.findall("ERROR: seed-[12]: lost: .+died", out)) == 2
    before = finished(tmp_path / "sweep")
    assert [path.parent.name for path in before] == ["seed-3"]
    again = start_sweep(two_colors, tmp_path / "sweep", *given)
    out, err = again.communicate()
    nodes.remove(node)
    assert again.returncode == 0 and out.count("interrupted; resuming from checkpoints/last.ckpt") == 2, err
    assert len(after := finished(tmp_path / "sweep")) == 3 and before.items() <= after.items()


def test_a_signal_saves_all_jobs_and_the_same_command_resumes(nodes, two_colors, tmp_path):
    both, given = [nodes.add(), nodes.add()], ("seed=1,2,3", "hydra/launcher=ray", nodes.address)
    process = start_sweep(two_colors, tmp_path / "sweep", *given, epochs=120)
    wait_for_checkpoints(tmp_path / "sweep", 2, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM. Resume with: python train.py -m " in err
    assert out.count("WARNING: SIGINT: stopping after this step") == 2 and "Traceback" not in out + err
    assert finished(tmp_path / "sweep") == {} and not (tmp_path / "sweep" / "seed-3").exists()
    again = start_sweep(two_colors, tmp_path / "sweep", *given, epochs=120)
    out, err = again.communicate()
    for node in both:
        nodes.remove(node)
    assert again.returncode == 0 and len(finished(tmp_path / "sweep")) == 3, err


def test_what_ray_refuses_is_one_line(two_colors, tmp_path):
    for given, line in {
        "hydra.launcher.ray.init.address=127.0.0.1:1": "hydra.launcher.ray.init: nothing answers at address=127.0.0.1:1 ",
        "hydra.launcher.ray.remote.num_cpus=999": "hydra.launcher.ray.remote: no node has what a job needs (num_cpus=999 ",
        "+hydra.launcher.ray.init.corse=2": "hydra.launcher.ray.init: Unknown keyword argument(s): corse",
    }.items():
        process = start_sweep(two_colors, tmp_path / "sweep", "seed=1,2", "hydra/launcher=ray", given)
        out, err = process.communicate()
        assert process.returncode == 1 and err.splitlines()[-1].startswith(f"ERROR: {line}"), out + err
        assert "Traceback" not in out + err and not (tmp_path / "sweep").exists()
