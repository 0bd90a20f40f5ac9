"""Any list of transforms: the draws are the image's, the result is an image, and whatever else is named."""

import contextlib
import functools
import importlib
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from torchvision.transforms import v2

from common.errors import UserError
from datamodules.transform_list import ON_TENSORS, SEEDS, TransformList, own_generators

SIDE = 48
CPU = torch.device("cpu")


class Draws:
    """Paint what each global generator gives into a pixel of its own."""

    def __call__(self, image):
        pixels = np.array(image)
        pixels[0, 0] = random.randrange(256), np.random.randint(256), torch.randint(256, ()).item()  # noqa: NPY002
        return Image.fromarray(pixels)


class Fails:
    """Raise where the draw is small."""

    def __init__(self, share: float):
        self.share = share

    def __call__(self, image):
        if torch.rand(()) < self.share:
            raise KeyError("no such\ncolor")
        return image


def fails(image, share: float):
    return Fails(share)(image)


@pytest.fixture
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def draws(count: int) -> list[tuple[int]]:
    return [TransformList(transforms=[]).draw(SIDE, np.random.default_rng((1, 0, row))) for row in range(count)]


def on_device(augmentation: TransformList, image: np.ndarray, params: list[tuple[int]]) -> np.ndarray:
    batch = torch.from_numpy(np.stack([image] * len(params))).permute(0, 3, 1, 2)
    augmented = augmentation.apply_on_device(batch, torch.tensor(params))
    assert augmented.dtype == torch.uint8 and augmented.is_contiguous(memory_format=torch.channels_last)
    return augmented.permute(0, 2, 3, 1).numpy()


def test_all_that_transforms_draw_from_depends_on_the_parameters_only(image):
    augmentation = TransformList(transforms=[Draws()])
    first = [augmentation.apply(image, params)[0, 0].tolist() for params in draws(20)]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    assert first == [augmentation.apply(image, params)[0, 0].tolist() for params in draws(20)]
    assert all(len({pixel[channel] for pixel in first}) > 10 for channel in range(3))


def test_the_global_generators_continue_as_if_nothing_had_been_drawn(image):
    def after(act) -> tuple:
        random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
        act()
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    fails = TransformList(transforms=[Draws(), Fails(1)])

    def failing():
        with pytest.raises(UserError):
            fails.apply(image, (3,))

    untouched = after(lambda: None)
    assert after(lambda: TransformList(transforms=[Draws()]).apply(image, (3,))) == untouched
    assert after(lambda: on_device(TransformList(transforms=[v2.TrivialAugmentWide()]), image, draws(4))) == untouched
    assert after(failing) == untouched


def test_the_seed_is_of_32_bits():
    seeds = [params[0] for params in draws(2000)]
    assert 0 <= min(seeds) < 2**24 and 2**32 - 2**24 < max(seeds) < SEEDS == 2**32 and len(set(seeds)) == 2000


def test_a_flip_of_probability_p_flips_that_share_of_images(image):
    augmentation = TransformList(transforms=[v2.RandomHorizontalFlip(p=0.3)])
    flipped = [np.array_equal(augmentation.apply(image, params), image[:, ::-1]) for params in draws(1000)]
    assert binomtest(sum(flipped), 1000, 0.3).pvalue > 1e-4
    # and each image for itself, in a batch too
    assert [np.array_equal(pixels, image[:, ::-1]) for pixels in on_device(augmentation, image, draws(200))] == flipped[
        :200
    ]


@pytest.mark.parametrize(("transform", "most"), [
    (v2.RandomHorizontalFlip(), 0), (v2.RandomErasing(p=1), 0), (v2.RandomCrop(SIDE, padding=8), 0),
    (v2.RandomResizedCrop(SIDE), 1), (v2.ColorJitter(0.3, 0.3, 0.3), 2), (v2.GaussianBlur(5), 0),
    (v2.RandomChoice([v2.RandomInvert(p=1), v2.RandomSolarize(128, p=0.5), v2.Identity()]), 0),
], ids=lambda value: type(value).__name__ if isinstance(value, v2.Transform) else "")  # fmt: skip
def test_a_batch_on_the_device_is_what_each_image_is_on_the_processor(image, transform, most):
    augmentation = TransformList(transforms=[transform])
    theirs = on_device(augmentation, image, draws(12)).astype(int)
    ours = [augmentation.apply(image, params).astype(int) for params in draws(12)]
    for our, their in zip(ours, theirs, strict=True):
        assert np.abs(our - their).max() <= most
    assert len({our.tobytes() for our in ours}) > 1


@pytest.mark.parametrize("transform", [v2.TrivialAugmentWide(), v2.RandAugment()], ids=lambda t: type(t).__name__)
def test_the_device_takes_the_same_operations_where_its_kernels_round_otherwise(image, transform):
    augmentation = TransformList(transforms=[transform])
    ours = np.stack([augmentation.apply(image, params) for params in draws(40)]).astype(int)
    apart = np.abs(ours - on_device(augmentation, image, draws(40)).astype(int)).mean((1, 2, 3))
    others = np.abs(ours - on_device(augmentation, image, draws(41)[1:]).astype(int)).mean((1, 2, 3))
    assert np.median(apart) < 0.5 and np.median(others) > 5  # gray levels


def tried(transform, image):
    """Return what a transform gives, or None where it refuses such an image."""
    torch.manual_seed(0)
    with contextlib.suppress(ValueError, TypeError, NotImplementedError):
        return transform(image)


def test_pillow_s_images_become_tensors_for_all_transforms_that_do_not_take_them():
    """By what they do: all of torchvision's that need no settings, and three that do."""
    settings = {v2.ToDtype: (torch.float32,), v2.Normalize: ([0.5] * 3, [0.5] * 3),
                v2.LinearTransformation: (torch.eye(1728), torch.zeros(1728))}  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    found = []
    for kind in (v for v in vars(v2).values() if isinstance(v, type) and issubclass(v, v2.Transform)):
        try:
            with warnings.catch_warnings(action="ignore"):  # some are deprecated
                transform = kind(*settings.get(kind, ()))
        except TypeError:
            continue
        of_tensor = next((x for x in (tried(transform, t) for t in (tensor, tensor.float())) if x is not None), None)
        of_image = tried(transform, Image.fromarray(image))
        refused = of_image is None and of_tensor is not None
        passed = (
            isinstance(of_image, Image.Image) and isinstance(of_tensor, torch.Tensor) and of_tensor.is_floating_point()
        )
        if refused or passed:
            found.append(kind)
    assert set(found) == set(ON_TENSORS)


def test_noise_and_what_is_nested_get_tensors(image):
    for transform in (v2.GaussianNoise(), v2.RandomApply([v2.Compose([v2.GaussianNoise()])], p=1)):
        noisy = TransformList(transforms=[v2.RandomHorizontalFlip(), transform]).apply(image, (1,))
        assert noisy.dtype == np.uint8 and 5 < np.abs(noisy.astype(int) - image).mean() < 60


@pytest.mark.parametrize(("transforms", "message"), [
    ([v2.Identity(), v2.Resize(32)], r"\[1\] \(torchvision.transforms.v2.Resize\): returns \(3, 32, 32\) uint8; an image of"),
    ([v2.Resize(32), v2.RandomHorizontalFlip()], r"\[0\] \(torchvision.transforms.v2.Resize\): returns \(3, 32, 32\)"),
    ([v2.Grayscale()], r"\[0\] \(.*Grayscale\): returns \(1, 48, 48\) uint8"),
    ([v2.ToDtype(torch.float32, scale=True)], r"\[0\] \(.*ToDtype\): returns \(3, 48, 48\) float32"),
    ([v2.Compose([v2.ToDtype(torch.float32)])], r"\[0\] \(.*Compose\): returns \(3, 48, 48\) float32"),
    ([v2.ToImage(), v2.Normalize([0.5] * 3, [0.5] * 3)], r"\[1\] \(.*Normalize\): raised TypeError: Input tensor should be"),
    ([v2.FiveCrop(24)], r"\[0\] \(.*FiveCrop\): returns a tuple"),
    ([lambda image: None], r"\[0\] \(.*<lambda>\): returns None"),
    ([np.asarray], r"\[0\] \(numpy.asarray\): returns a ndarray"),
    ([lambda image: image.convert("I")], r"\[0\] \(.*<lambda>\): returns \(1, 48, 48\) of Pillow's mode I;"),
    ([v2.Identity(), Fails(0.5)],
     r"\[1\] \(.*_list.Fails\): raised KeyError: 'no such\\ncolor' \(test_transform_list.py, line \d+\) \(given a Pillow"),
    ([v2.RandomApply([v2.Compose([Fails(1)])], p=1)], r"\[0\] \(.*RandomApply\): .* \(test_transform_list.py, line \d+\)"),
    ([functools.partial(fails, share=1)], r"\[0\] \(.*_list.fails\): .* \(test_transform_list.py, line \d+\)"),
], ids=lambda value: "" if isinstance(value, str) else type(value[-1]).__name__)  # fmt: skip
def test_what_gives_no_image_of_the_size_is_named_before_training(transforms, message):
    with pytest.raises(UserError, match=r"^augmentation\.transforms" + message) as caught:
        TransformList(transforms=transforms).check(SIDE, CPU)
    assert "\n" not in str(caught.value)


def test_the_line_is_the_user_s_also_where_the_environment_is_in_the_folder_of_the_package(tmp_path, monkeypatch):
    package, library = tmp_path / "own_cells" / "own_cells", tmp_path / "own_cells" / ".venv" / "library_of_cells"
    for folder, text in ((package, "import library_of_cells\n\n\nclass Flip:\n    def __call__(self, image):\n"
                          "        return library_of_cells.flip(image)\n"),
                         (library, "def flip(image):\n    raise ValueError(1)\n")):  # fmt: skip
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(folder.parent)
    flip = importlib.import_module("own_cells").Flip()
    with pytest.raises(UserError, match=r"\(own_cells\.Flip\): raised ValueError: 1 \(__init__\.py, line 6\)"):
        TransformList(transforms=[flip]).check(SIDE, CPU)


def test_other_sizes_and_types_may_be_on_the_way(image):
    steps = [v2.Resize(64), v2.RandomCrop(SIDE), v2.ToDtype(torch.float32, scale=True), v2.GaussianNoise(),
             v2.ToDtype(torch.uint8, scale=True)]  # fmt: skip
    augmentation = TransformList(transforms=steps)
    augmentation.check(SIDE, CPU)
    assert augmentation.apply(image, (0,)).shape == image.shape


def test_an_empty_list_changes_nothing(image):
    empty = TransformList(transforms=[])
    assert empty.changes_nothing and np.array_equal(empty.apply(image, (0,)), image)
    assert not TransformList(transforms=[v2.Identity()]).changes_nothing


def test_what_is_no_transform_is_refused():
    with pytest.raises(
        UserError, match=r"augmentation\.transforms\[1\]='flip': is not a transform; give it a _target_"
    ):
        TransformList(transforms=[v2.Identity(), "flip"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_the_draws_are_those_of_the_processor(image):
    augmentation = TransformList(transforms=[v2.RandomHorizontalFlip(), v2.RandomErasing(p=0.5)])
    batch = torch.from_numpy(np.stack([image] * 20)).permute(0, 3, 1, 2).cuda()
    state = torch.cuda.get_rng_state()
    theirs = (
        augmentation.apply_on_device(batch, torch.tensor(draws(20), device="cuda")).permute(0, 2, 3, 1).cpu().numpy()
    )
    assert torch.equal(state, torch.cuda.get_rng_state())
    assert np.array_equal(theirs, np.stack([augmentation.apply(image, params) for params in draws(20)]))


def test_generators_are_put_back_where_seeding_is_never_asked_for():
    before = torch.get_rng_state()
    with own_generators(CPU):
        torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
