"""When a training step is captured and replayed, and when not. The processor plays the GPU; test_gpu.py has a real one."""

import pytest
import torch

from callbacks.cuda_graphs import CudaGraphs
from lightning_modules import captured_step
from tests.support.helpers import SIMPLE_CNN, outcome

UNEVEN = "datamodule.batch_size=10"  # of 24 images: two full batches, which are replayed, and a short one


@pytest.fixture
def graphs(monkeypatch):
    """Have steps captured on the processor, where a replay computes them again; list captures and replays."""
    events = []

    def capture(step, device):
        with torch.random.fork_rng([]):
            for _ in range(captured_step.WARM_UPS):
                step()
            results = step()
        events.append("capture")

        def replay():
            events.append("replay")
            for old, new in zip(results, step(), strict=True):
                if old is not None:
                    old.copy_(new)

        return replay, results

    monkeypatch.setattr(captured_step, "_capture", capture)
    monkeypatch.setattr(CudaGraphs, "_on_gpu", staticmethod(lambda trainer: True))
    return events


@pytest.mark.parametrize(
    ("settings", "captures"),
    [
        ((), 4),
        pytest.param(("trainer.precision=bf16-mixed",), 4, marks=pytest.mark.thorough),
        pytest.param(("trainer.gradient_clip_val=0.01",), 4, marks=pytest.mark.thorough),
        pytest.param(("batch_transform=mixup",), 4, marks=pytest.mark.thorough),
        pytest.param(
            ("callbacks.progressive_resizing.initial_scale=0.5", "callbacks.progressive_resizing.epoch_fraction=0.5"),
            5,
            marks=pytest.mark.thorough,
        ),
        pytest.param(("model.freeze=1",), 6, marks=pytest.mark.thorough),
        pytest.param(
            ("callbacks.ema.enabled=true", "callbacks.recalibrate_batch_norm.enabled=true"),
            4,
            marks=pytest.mark.thorough,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_full_batches_are_replayed_to_the_same_bits(train, graphs, settings, captures):
    replayed = train(UNEVEN, *settings)
    assert replayed.status == 0, replayed.err
    # In each of two epochs two full batches of train and one of val; then one of val and one of test of another classifier
    assert graphs.count("replay") == 2 * (2 + 1) + 2
    assert graphs.count("capture") == captures
    launched = train(UNEVEN, "trainer.cuda_graphs=false", *settings)
    assert graphs.count("replay") == 8
    assert outcome(replayed.folder) == outcome(launched.folder)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("trainer.accumulate_grad_batches=2",), "trainer.accumulate_grad_batches=2"),
        pytest.param(("trainer.detect_anomaly=true",), "trainer.detect_anomaly=true", marks=pytest.mark.thorough),
        pytest.param(("trainer.cuda_graphs=false",), "trainer.cuda_graphs=false", marks=pytest.mark.thorough),
    ],
)
def test_what_cannot_be_replayed_is_not_captured(train, graphs, monkeypatch, settings, reason):
    reasons, usual = [], CudaGraphs._reason_against
    monkeypatch.setattr(CudaGraphs, "_reason_against", lambda *given: reasons.append(usual(*given)) or reasons[-1])
    assert train(*SIMPLE_CNN, *settings).status == 0
    assert set(reasons) == {reason} and not graphs


@pytest.mark.thorough
def test_modules_of_the_user_s_own_are_captured_only_when_asked(train, graphs, monkeypatch):
    monkeypatch.setattr(torch.nn.Dropout, "__module__", "theirs.layers")
    assert train(*SIMPLE_CNN).status == 0 and not graphs
    assert train(*SIMPLE_CNN, "trainer.cuda_graphs=true").status == 0 and "replay" in graphs


def test_a_step_that_cannot_be_captured_is_launched(train, graphs, monkeypatch):
    def fails(step, device):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(captured_step, "_capture", fails)
    ran = train(*SIMPLE_CNN)
    assert ran.status == 0 and "cannot be captured (operation not permitted when stream is capturing)" in ran.out
    assert any("CUDA graphs: not used" in each for each in ran.record.run.warnings)


def test_other_values_are_refused(train):
    ran = train("trainer.cuda_graphs=fast")
    assert ran.status == 1 and "trainer.cuda_graphs=fast: use true, false or auto" in ran.err


def test_gradients_have_the_strides_of_their_parameters():
    weight = torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last)
    gradient = torch.arange(48.0).view(4, 3, 2, 2)
    (laid_out,) = captured_step._laid_out_as([weight], (gradient,))
    assert laid_out.stride() == weight.stride() and torch.equal(laid_out, gradient)
