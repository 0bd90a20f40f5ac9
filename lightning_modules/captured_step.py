"""A training step's loss and gradients as a CUDA graph: one launch instead of a thousand or so launches of short kernels.

With a small network, a GPU waits for the CPU, which launches the kernels one by one. A graph launches the same kernels at once,
so losses and weights have the same bits (https://pytorch.org/docs/stable/notes/cuda.html, "CUDA graphs").
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_modules.image_classifier import ImageClassifier

WARM_UPS = 2  # passes before the capture, in which libraries allocate and choose algorithms once; one more pass follows


class CapturedStep:
    """Replay the loss and the gradients of batches of one shape.

    Capturing takes a few passes, which leave batch norm statistics and random generators unchanged.

    Args:
        classifier: classifier in training mode on the GPU.
        batch: a batch of the shape to capture; tensors on the GPU.
        context: makes the context manager of a step, which sets its precision.

    Raises:
        RuntimeError: from torch: the network or the loss waits for the GPU, or cannot be captured for another reason.
    """

    def __init__(self, classifier: "ImageClassifier", batch: dict, context: Callable[[], AbstractContextManager]):
        self.captured_of = state_of(classifier)
        self.inputs = {name: each.clone() for name, each in batch.items() if isinstance(each, Tensor)}
        self.parameters = [each for each in classifier.parameters() if each.requires_grad]
        buffers = [(buffer, buffer.clone()) for buffer in classifier.buffers()]

        def step() -> tuple[Tensor | None, ...]:  # logits, labels, loss, then the gradients
            with context():
                logits, labels, loss = classifier.predict_and_score(self.inputs)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            return logits.detach(), labels, loss.detach(), *_laid_out_as(self.parameters, gradients)

        self.run, self.results = _capture(step, self.inputs["pixels"].device)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter in classifier.parameters():
            parameter.grad = None  # replays would leave the last gradient of a parameter that is now frozen

    def fits(self, batch: dict) -> bool:
        """Return whether a batch has the shapes and types of the captured one."""
        tensors = {name: each for name, each in batch.items() if isinstance(each, Tensor)}
        return tensors.keys() == self.inputs.keys() and all(
            each.shape == self.inputs[name].shape and each.dtype == self.inputs[name].dtype
            for name, each in tensors.items()
        )

    def replay(self, batch: dict) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, K), labels (B,) and the mean loss of a batch that fits; set the gradients."""
        for name, each in self.inputs.items():
            each.copy_(batch[name], non_blocking=True)
        self.run()
        logits, labels, loss, *gradients = self.results
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return logits, labels, loss.clone()  # the next replay overwrites it


def _capture(step: Callable[[], tuple], device: torch.device) -> tuple[Callable[[], None], tuple]:
    """Return a function that replays a step, and the tensors that it writes."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    generator = torch.cuda.default_generators[device.index]
    fresh, syncs = generator.clone_state(), torch.cuda.get_sync_debug_mode()
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.random.fork_rng([device]):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    step()
                torch.cuda.set_sync_debug_mode("error")  # code that waits for the GPU fails here, where it does no harm
                step()
                torch.cuda.set_sync_debug_mode(syncs)
            # thread_local, since the loader's thread may pin memory meanwhile
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                results = step()
    except RuntimeError:
        generator.graphsafe_set_state(fresh)  # else later dropouts would use the failed capture's state
        raise
    finally:
        torch.cuda.set_sync_debug_mode(syncs)
        torch.cuda.current_stream(device).wait_stream(stream)
    return graph.replay, results


class CapturedEvaluation:
    """Replay the logits of batches of one shape, with a classifier in eval mode; otherwise like `CapturedStep`."""

    def __init__(self, classifier: "ImageClassifier", batch: dict, context: Callable[[], AbstractContextManager]):
        self.captured_of = state_of(classifier)
        self.pixels = batch["pixels"].clone()

        def step() -> tuple[Tensor]:
            with context():
                return (classifier(self.pixels),)

        self.run, (self.logits,) = _capture(step, self.pixels.device)

    def fits(self, batch: dict) -> bool:
        """Return whether a batch has the shape and type of the captured one."""
        pixels = batch["pixels"]
        return pixels.shape == self.pixels.shape and pixels.dtype == self.pixels.dtype

    def replay(self, batch: dict) -> Tensor:
        """Return logits (B, K)."""
        self.pixels.copy_(batch["pixels"], non_blocking=True)
        self.run()
        return self.logits.clone()  # the next replay overwrites them


def state_of(classifier: "ImageClassifier") -> list:
    """Return what a captured step depends on that callbacks may change between epochs: modes, frozen and replaced tensors."""
    tensors = [*classifier.network.parameters(), *classifier.network.buffers()]
    return [
        [module.training for module in classifier.modules()],
        [(each.data_ptr(), each.requires_grad) for each in tensors],
    ]


def _laid_out_as(parameters: list[Tensor], gradients: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Return the gradients with the strides of their parameters, as autograd's own accumulation leaves them."""
    return [
        each if each is None or each.stride() == parameter.stride() else torch.empty_like(parameter).copy_(each)
        for parameter, each in zip(parameters, gradients, strict=True)
    ]
