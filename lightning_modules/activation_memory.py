"""Compute the activation memory of a network for one image, as an interpreter on a phone or a microcontroller runs it.

Operators run one after the other. While one runs, memory holds its inputs and outputs and whatever later operators need, such
as the input of a residual block; the peak is the largest sum of these (MCUNet, Lin et al. 2020, arXiv:2007.10319). The image
counts; weights do not, since they stay in flash. These need no memory of their own:
- views: a reshape, a slice, or zero padding, which the next convolution adds itself (LiteRT's converter makes the padding of
  torch's strided convolutions and poolings an operator, so tflite-micro needs more: docs/deployment.md);
- batch norms and activations of one tensor that nothing else needs: they are folded into the convolution, or work in place.
The internal memory of a kernel (such as the columns of a convolution) does not count.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules.networks.meta import on_meta

FLOAT_BYTES, INT8_BYTES = 4, 1
OF_A_MAP = 4  # numbers that describe the padding of the last two dimensions


class Operation(NamedTuple):
    """Hold the numbers of an operator's input and output activations."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    works_in_place: bool  # if nothing else needs its input


class ActivationTracker(TorchDispatchMode):
    """Record the operators that process an image, from shapes only: on the meta device a pass takes no memory.

    Activations are numbered in the order in which they are computed; 0 is the image.
    """

    def __init__(self, image: Tensor):
        super().__init__()
        self.operations: list[Operation] = []
        self.sizes = [image.numel()]  # of each activation, in values
        self._number = {_storage(image): 0}  # storage -> number of the activation that it holds now
        self._kept: list[Tensor] = [image]  # kept alive, so no storage is reused

    def number_of(self, tensor: Tensor) -> int | None:
        """Return the number of the activation that a tensor is, or is a view of; None if it does not depend on the image."""
        return self._number.get(_storage(tensor))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        taken = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        inputs = tuple(dict.fromkeys(n for each in taken if (n := self.number_of(each)) is not None))
        if not inputs:
            return found
        if _is_padding(func, args):
            self._number[_storage(found)] = inputs[0]
            self._kept.append(found)
            return found
        outputs = []
        for output in tree_leaves(found):
            is_view = not func._schema.is_mutable and isinstance(output, Tensor) and self.number_of(output) is not None
            if isinstance(output, Tensor) and output.numel() and not is_view:
                outputs.append(len(self.sizes))
                self.sizes.append(output.numel())
                self._number[_storage(output)] = outputs[-1]
                self._kept.append(output)
        if outputs:
            is_simple = torch.Tag.pointwise in func.tags or "batch_norm" in func.__name__
            same_size = len(inputs) == 1 and self.sizes[outputs[0]] == self.sizes[inputs[0]]
            self.operations.append(Operation(inputs, tuple(outputs), is_simple and same_size))
        return found

    def peak(self, result: int | None = None, n_operations: int | None = None) -> int:
        """Return the peak number of values in memory while a result is computed.

        Args:
            result: number of the activation; None: the last one.
            n_operations: number of recorded operations up to the result; None: all.
        """
        result = len(self.sizes) - 1 if result is None else result
        needed: list[Operation] = []
        wanted = {result}
        for each in reversed(self.operations[:n_operations]):
            if wanted.intersection(each.outputs):
                needed.insert(0, each)
                wanted.update(each.inputs)
        last_use = {number: index for index, each in enumerate(needed) for number in each.inputs}
        last_use[result] = len(needed)
        alive = peak = self.sizes[0]
        for index, each in enumerate(needed):
            ending = [number for number in each.inputs if last_use[number] == index]
            is_in_place = each.works_in_place and len(ending) == len(each.inputs)
            # Other outputs, which nothing uses (statistics, indices of maxima), are for training
            given = sum(self.sizes[number] for number in each.outputs if number in last_use)
            peak = max(peak, alive if is_in_place else alive + given)
            alive += given - sum(self.sizes[number] for number in ending)
        return peak


@torch.no_grad()
def peak_activations(network: nn.Module, image_size: int) -> int:
    """Return the peak number of values in memory while a network computes the logits of one image."""
    image = torch.empty(1, 3, image_size, image_size, device="meta")
    network = on_meta(network)
    with ActivationTracker(image) as tracker:
        output = network(image)
    return tracker.peak(tracker.number_of(output))


def kibibytes(values: float, bytes_each: int) -> float:
    """Return the memory of `values` in KiB."""
    return round(values * bytes_each / 1024, 2)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_padding(func, args) -> bool:
    """Return whether an operator pads a map with constants, which the next convolution or pooling can do itself."""
    return func.__name__.startswith("constant_pad_nd") and len(args[1]) <= OF_A_MAP
