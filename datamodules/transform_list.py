"""Augmentation by a list of torchvision.transforms.v2, or of any callables, instead of the study's augmentation.

Such transforms draw from the global generators of torch, Python and NumPy. The parameter of an image is therefore a seed for
these generators, drawn from (seed, epoch, row), so an image looks the same on any number of workers and processes, and after
resuming. On the CPU the transforms get Pillow images, on which TrivialAugmentWide, RandAugment, rotation and color jitter are
two to eight times as fast as on tensors.

On a GPU the transforms get one image tensor at a time, since on a batch torchvision's transforms draw once for all images.
Images with the same draw could share a batch, but few do: TrivialAugmentWide divides 16 images into 14 groups.
"""

import contextlib
import functools
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from common.errors import UserError
from common.targets import raised_in

# torchvision's transforms that do not take Pillow images; the first two silently return them unchanged
ON_TENSORS = (v2.ToDtype, v2.ConvertImageDtype, v2.GaussianNoise, v2.Normalize, v2.LinearTransformation)
TRIES = 8  # draws on a made-up image before training starts
SEEDS = 2**32  # NumPy's old generator accepts only seeds below this


class TransformList:
    """Apply transforms one after the other to each image.

    The first transform gets an RGB image of the run's size; the last must return such an image, as a Pillow image or a
    (3, H, W) uint8 tensor.

    Args:
        transforms: callables that take one image, such as those of torchvision.transforms.v2.
        on_device: whether to transform images on the GPU when training on one. Set it to false for transforms that take only
            Pillow images or tensors on the CPU.
    """

    def __init__(self, *, transforms: list, on_device: bool = True):
        for index, transform in enumerate(transforms):
            if not callable(transform):
                raise UserError(
                    f"augmentation.transforms[{index}]={str(transform)[:60]!r}: is not a transform; give it a _target_, e.g. "
                    "torchvision.transforms.v2.RandomHorizontalFlip"
                )
        self.transforms = transforms
        self.on_device = on_device

    @property
    def changes_nothing(self) -> bool:
        """Whether images stay as they are."""
        return not self.transforms

    def draw(self, size: int, generator: np.random.Generator) -> tuple[int]:
        """Draw the seed of one image."""
        return (int(generator.integers(SEEDS)),)

    def apply(self, pixels: np.ndarray, params: tuple[int]) -> np.ndarray:
        """Augment (H, W, 3) uint8 on the CPU.

        Raises:
            UserError: a transform fails or returns anything but such an image; names its place in the list.
        """
        with own_generators(torch.device("cpu")) as seed:
            seed(params[0])
            image = self._apply(Image.fromarray(pixels), len(pixels))
        return np.asarray(image) if isinstance(image, Image.Image) else image.permute(1, 2, 0).numpy()

    def apply_on_device(self, pixels: Tensor, params: Tensor) -> Tensor:
        """Augment (B, 3, H, W) uint8 by the seeds in params (B, 1) like `apply`, up to what is drawn on the device."""
        augmented = torch.empty_like(pixels)
        with own_generators(pixels.device) as seed:
            for place, number in enumerate(params[:, 0].tolist()):
                seed(number)
                augmented[place] = self._apply(pixels[place], pixels.shape[-1])
        return augmented

    def check(self, size: int, device: torch.device) -> None:
        """Try the transforms on a made-up image of `size` pixels per side, with several draws; errors as of `apply`."""
        pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        for number in range(TRIES):
            if device.type == "cpu":
                self.apply(pixels, (number,))
            else:
                batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device)
                self.apply_on_device(batch, torch.tensor([[number]]))

    @torch.no_grad()
    def _apply(self, image: Image.Image | Tensor, size: int) -> Image.Image | Tensor:
        wrong = None  # message about the first transform after which every result has been wrong
        for index, transform in enumerate(self.transforms):
            name = f"augmentation.transforms[{index}] ({full_name(transform)})"
            if isinstance(image, Image.Image) and _takes_tensors(transform):
                image = v2.functional.pil_to_tensor(image)
            given = image
            try:
                image = transform(given)
            except Exception as error:
                raise transform_error(name, transform, error, _hint(given)) from error
            if not isinstance(image, (Image.Image, Tensor)):
                raise UserError(f"{name}: returns {_describe(image)}; {_needed(size)}")
            if _describe(image) == f"(3, {size}, {size}) uint8":
                wrong = None
            else:
                wrong = wrong or f"{name}: returns {_describe(image)}; {_needed(size)}"
        if wrong:
            raise UserError(wrong)
        return image


@contextlib.contextmanager
def own_generators(device: torch.device) -> Iterator[Callable[[int], None]]:
    """Yield a function that seeds the global generators of torch, Python and NumPy; restore their states at the end."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 the old global generator is what libraries draw from
    on_gpu = device.type == "cuda"

    def seed(number: int) -> None:
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002
        # Not torch.manual_seed, which stores a traceback for a GPU that is not used
        torch.default_generator.manual_seed(number)
        if on_gpu:
            torch.cuda.manual_seed(number)

    with torch.random.fork_rng([device] if on_gpu else []):
        try:
            yield seed
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def transform_error(name: str, transform: Callable, error: Exception, hint: str = "") -> UserError:
    """Return the error of a transform as one line that names the transform and, in a package of the user's own, the line."""
    found = raised_in(error, {full_name(each).split(".")[0] for each in _with_inner(transform)} - {"torchvision"})
    where = f" ({found[1]})" if found else ""
    return UserError(f"{name}: raised {type(error).__name__}: {' '.join(str(error).split())}{where}{hint}")


def full_name(transform: Callable) -> str:
    """Return the full name of a transform's class or function as in a configuration, without private modules."""
    transform = transform.func if isinstance(transform, functools.partial) else transform
    kind = transform if hasattr(transform, "__qualname__") else type(transform)
    return ".".join(part for part in f"{kind.__module__}.{kind.__qualname__}".split(".") if not part.startswith("_"))


def _takes_tensors(transform: Callable) -> bool:
    """Return whether a transform, or one that it contains, is in ON_TENSORS."""
    return any(isinstance(each, ON_TENSORS) for each in _with_inner(transform))


def _with_inner(transform: Callable) -> Iterator[Callable]:
    """Yield a transform and those that it contains, as v2.Compose does."""
    yield transform
    for inner in getattr(transform, "transforms", ()):
        yield from _with_inner(inner)


def _hint(given: Image.Image | Tensor) -> str:
    """Return what the transform that failed was given, and how to give it something else."""
    if isinstance(given, Image.Image):
        return " (given a Pillow image; put torchvision.transforms.v2.ToImage before it to give it a tensor)"
    if given.device.type != "cpu":
        return f" (given a tensor on {given.device}; augmentation.on_device=false keeps images on the processor)"
    return ""


def _describe(image) -> str:
    if isinstance(image, Tensor):
        return f"{tuple(image.shape)} {str(image.dtype).removeprefix('torch.')}"
    if not isinstance(image, Image.Image):
        return "None" if image is None else f"a {type(image).__name__}"
    kind = {"RGB": "uint8", "L": "uint8"}.get(image.mode, f"of Pillow's mode {image.mode}")
    return f"({len(image.getbands())}, {image.height}, {image.width}) {kind}"


def _needed(size: int) -> str:
    return f"an image of {size} x {size} in RGB and uint8 is needed at the end: (3, {size}, {size}) uint8"
