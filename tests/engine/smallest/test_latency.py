"""Latencies of candidates: of the network that a run would export, measured once."""

import json
import logging
import sys

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.run_record import Latency
from common.smallest_record import Candidate, Costs
from engine.smallest.latency import FILE, _AllCuts, check_onnx, measure_latencies, take_known_latencies
from lightning_modules.networks.registry import build_network
from lightning_modules.networks.truncated import build_backbone

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra onnx")

import onnxruntime

from inference.export.onnx_file import output_graphs

TIMED = {"latency_p50_ms": 1.0, "latency_p95_ms": 1.5, "repeats": 5, "warm_up": 3, "flag": None, "threads": 1, "cores": 2,
         "load_1min": 0.5}  # fmt: skip
GRAPHS = {}


def candidate(keep: str, backbone: str = "squeezenet1_1", image_size: int = 32) -> Candidate:
    costs = Costs(parameters=1, macs=1, file_kib=1.0, activation_kib=1.0, activation_int8_kib=0.25)
    return Candidate(
        backbone=backbone, keep=keep, image_size=image_size, pretrained=False, weights="random", costs=costs
    )


@pytest.fixture(autouse=True)
def graphs(monkeypatch) -> None:
    """Export the same cuts once: torch's exporter takes the better part of a second."""

    def exported_once(network, size, names):
        key = (*network.features.cuts, size)
        if key not in GRAPHS:
            GRAPHS[key] = list(output_graphs(network, size, names))
        return GRAPHS[key]

    monkeypatch.setattr("engine.smallest.latency.output_graphs", exported_once)


@pytest.fixture
def timed(monkeypatch) -> list[float]:
    """Run each network once in place of a measurement; return a list that grows with each."""
    runs = []

    def run(one_pass, threads):
        one_pass()
        runs.append(threads)
        return TIMED | {"latency_p50_ms": float(len(runs))}

    monkeypatch.setattr("engine.smallest.latency.time_passes", run)
    return runs


@pytest.mark.parametrize(
    ("backbone", "keeps", "size"),
    [
        pytest.param("squeezenet1_1", ["features.0", "features.7"], 48, marks=pytest.mark.thorough),
        pytest.param("shufflenet_v2_x0_5", ["maxpool", "stage2"], 32, marks=pytest.mark.thorough),
        pytest.param("mnasnet0_5", ["layers.8.0"], 32, marks=pytest.mark.thorough),
        ("test_vit", ["patch_embed"], 160),  # tokens, of which a map is made
    ],
)
def test_a_file_computes_what_the_network_computes_that_a_run_builds(backbone, keeps, size):
    if backbone == "test_vit":
        pytest.importorskip("timm", reason="needs the extra timm")
    torch.manual_seed(0)
    cuts = _AllCuts(backbone, keeps, 3)
    image, n_weights = torch.randn(1, 3, size, size), []
    for keep, head, graph in zip(keeps, cuts.heads, output_graphs(cuts, size, keeps), strict=True):
        network = build_network(
            network="truncated", backbone=backbone, keep=keep, num_classes=3, head={"hidden_dims": [], "dropout": [0.2]}
        ).eval()
        whole = cuts.features.backbone.state_dict()
        assert not network.backbone.load_state_dict(whole, strict=False).missing_keys
        network.head.load_state_dict(head.state_dict())
        with torch.no_grad():
            expected = network(image).numpy()
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-5)
        n_weights.append(len(graph.graph.initializer))
    assert n_weights == sorted(n_weights) and len(set(n_weights)) == len(keeps)  # nothing of what comes after a cut
    assert len(whole) < len(build_backbone(backbone).state_dict())


@pytest.mark.thorough
def test_each_is_measured_once_and_kept(timed, tmp_path):
    first = [candidate("features.1"), candidate("features.3"), candidate("features.3", image_size=48)]
    measure_latencies(first, 2, tmp_path)
    assert [each.costs.latency_ms for each in first] == [1.0, 2.0, 3.0] and timed == [1, 1, 1]
    assert first[0].costs.latency == Latency(batch_size=1, device="cpu", **TIMED)
    again = [candidate("features.3", image_size=48), candidate("features.4"), candidate("features.1")]
    measure_latencies(again, 2, tmp_path)
    assert [each.costs.latency_ms for each in again] == [3.0, 4.0, 1.0]
    measure_latencies(again, 2, tmp_path / "never_written")
    assert len(timed) == 4 and not (tmp_path / "never_written").exists()


@pytest.mark.parametrize("content", ["{", '{"machine": 3}', '{"machine": "M", "latencies": []}'])
def test_what_cannot_be_read_is_measured_again(content, timed, tmp_path, monkeypatch):
    (tmp_path / FILE).write_text(content)
    monkeypatch.setattr("engine.smallest.latency.processor_name", lambda: "M")
    found = candidate("features.1")
    measure_latencies([found], 2, tmp_path)
    assert found.costs.latency_ms == 1.0 and len(json.loads((tmp_path / FILE).read_text())["latencies"]) == 1


@pytest.mark.thorough
def test_of_another_machine_it_is_measured_again(timed, tmp_path, monkeypatch):
    measure_latencies([candidate("features.1")], 2, tmp_path)
    monkeypatch.setattr("engine.smallest.latency.processor_name", lambda: "another")
    measure_latencies([candidate("features.1")], 2, tmp_path)
    assert len(timed) == 2


@pytest.mark.thorough
def test_a_failed_export_leaves_the_others(timed, tmp_path, monkeypatch, caplog):
    def refuse(network, size, names):
        if "features.3" in network.features.cuts:
            raise RuntimeError("no such\noperator")
        return output_graphs(network, size, names)

    monkeypatch.setattr("engine.smallest.latency.output_graphs", refuse)
    found = [candidate("features.1"), candidate("features.3")]
    for _ in range(2):
        measure_latencies(found, 2, tmp_path)
        assert [each.costs.latency_ms for each in found] == [1.0, None]
        (message,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
        assert "features.3, 32 px cannot be measured: its export failed (RuntimeError: no such operator)" in message
        caplog.clear()
    later = [candidate("features.1"), candidate("features.3"), candidate("features.7")]
    assert take_known_latencies(later, 2, tmp_path) == later[1:2] and not caplog.records


def test_a_busy_machine_is_shown(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("engine.smallest.latency.time_passes", lambda *_, **__: TIMED | {"flag": "other processes"})
    measure_latencies([candidate("features.1")], 2, tmp_path)
    assert "the machine was busy during 1 measurement: squeezenet1_1 cut after features.1" in caplog.text


def test_only_what_is_measured_is_shown_as_measured(timed, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for names, wanted in ((["features.1"], "measuring the latency of 1 network "), (["features.1"], None),
                          (["features.1", "features.0", "features.3"], "measuring the latency of 2 networks ")):  # fmt: skip
        caplog.clear()
        measure_latencies([candidate(name) for name in names], 2, tmp_path)
        shown = [each.getMessage() for each in caplog.records if "latency of" in each.getMessage()]
        assert [each[: len(wanted or "")] for each in shown] == [wanted] * bool(wanted)


def test_what_a_busy_machine_gave_is_measured_again_by_the_next_command(tmp_path, monkeypatch):
    for flag, p50, wanted in (("other processes", 9.0, 9.0), (None, 2.0, 2.0), (None, 3.0, 2.0)):
        found = TIMED | {"flag": flag, "latency_p50_ms": p50}
        monkeypatch.setattr("engine.smallest.latency.time_passes", lambda *_, found=found, **__: found)
        again = candidate("features.1")
        measure_latencies([again], 2, tmp_path)
        assert (again.costs.latency_ms, again.costs.latency.flag) == (wanted, flag)


def test_without_the_extra_it_is_named_where_a_setting_asks(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"^cost=latency_ms: onnxscript is not installed.*\[onnx\]"):
        check_onnx("cost=latency_ms")
    found = candidate("features.1")
    measure_latencies([found], 2, tmp_path)
    assert (
        found.costs.latency is None
        and "skipped: latency: onnxscript is not installed" in caplog.text
        and not list(tmp_path.iterdir())
    )


def test_a_command_that_resumes_orders_by_the_latencies_that_were_measured_before(timed, tmp_path):
    first, later, other = candidate("features.1"), candidate("features.1"), candidate("features.7")
    measure_latencies([first], 2, tmp_path)
    take_known_latencies([later, other], 2, tmp_path)
    assert len(timed) == 1
    assert later.costs.latency_ms == first.costs.latency_ms and other.costs.latency_ms is None
