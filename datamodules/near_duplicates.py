"""Which images are nearly the same: brighter, compressed again, shifted, turned or cropped a little, but no other object.

Two looks. The first compares thumbnails of all images, without their brightness and contrast, and proposes pairs. The second
compares the texture of the proposed pairs: images of one kind share their layout (bus bars of solar cells, frames, corners),
and only what is left of an image without it tells whether two show the same thing.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy import fft

from common.atomic_io import write_bytes
from datamodules.pixel_cache import PixelCache

LOOK = 1  # version of the second look, whose answers are kept
MOST_IMAGES = 20_000  # compared all with all
MOST_PAIRS = 50_000  # looked at a second time
PROPOSED = 10  # pairs an image with images of train, and as many with those of val and test
PROPOSED_FROM = 0.8  # correlation of thumbnails; shifts and crops of 1 to 3% stay above it
SAME_FROM = 0.45  # correlation of textures: of solar cells few pairs lie around it
SAME_FROM_FLAT = 0.95  # of lines and edges, where one has no texture (drawings, digits)
SIDE = 64  # pixels of the second look
SMALLEST = 8  # side of an image, below which there is no texture
SHIFT = 0.05  # of a side, in each direction
BORDER = 0.1  # of a side, not compared: frames, and what a shift pushes out
CHUNK = 256  # pairs, or rows of a product, at once

# Of the texture, in pixels of 64
FINE, COARSE = 0.75, 3.0  # standard deviations of the two Gaussians whose difference is the band
AROUND = 5  # left out around what stands out of the band
RUN = 8  # what is constant along a row or column over so many is layout
STANDS_OUT = 2.5  # robust standard deviations
CLIPPED = 3.0  # likewise, of what is left
FLAT = 0.1  # gray levels of 255: the robust standard deviation of no texture
LEAST_KEPT = 0.1  # share of the pixels; below it likewise


def propose_pairs(thumbnails: np.ndarray, in_train: np.ndarray) -> np.ndarray:
    """Return pairs of images whose thumbnails correlate, the most correlated first.

    Each image is paired with those most like it in train and outside, so that many copies in train hide none in test.

    Args:
        thumbnails: (images, side, side) uint8; the outermost pixels, mostly frames, are not compared.
        in_train: (images,) bool.

    Returns:
        (pairs, 2) int, of each pair the lower index first.
    """
    inner = thumbnails[:, 1:-1, 1:-1].reshape(len(thumbnails), -1).astype(np.float32)
    inner -= inner.mean(axis=1, keepdims=True)
    length = np.linalg.norm(inner, axis=1, keepdims=True)
    inner /= np.where(length > 0, length, 1)  # constant images correlate with none
    found: dict[tuple[int, int], float] = {}
    for others in (np.flatnonzero(in_train), np.flatnonzero(~in_train)):
        for begin in range(0, len(inner) if len(others) else 0, CHUNK):
            product = inner[begin : begin + CHUNK] @ inner[others].T
            rows = np.arange(begin, begin + len(product))
            product[rows[:, None] == others] = -1  # an image with itself
            most = min(PROPOSED, len(others))
            best = np.argpartition(-product, most - 1, axis=1)[:, :most]
            values = np.take_along_axis(product, best, axis=1)
            for at, column in np.argwhere(values >= PROPOSED_FROM):
                a, b = int(rows[at]), int(others[best[at, column]])
                found[min(a, b), max(a, b)] = float(values[at, column])
    ordered = sorted(found, key=lambda pair: (-found[pair], pair))
    return np.array(ordered, np.int64).reshape(-1, 2)


def confirm_pairs(pairs: np.ndarray, rows: np.ndarray, pixels: PixelCache) -> np.ndarray:
    """Return (pairs,) bool: whether the two images have the same texture, at the best of small shifts.

    The answer is kept beside the cached pixels, so that only the first run on some images looks at them.

    Args:
        pairs: (pairs, 2), indices of `rows`.
        rows: of the images in `pixels`.
    """
    path = getattr(pixels, "path", None)
    if path is None:  # nothing is cached here
        return _look_again(pairs, rows, pixels)
    digest = hashlib.blake2b(f"{LOOK} {pairs.shape}".encode() + rows[pairs].tobytes(), digest_size=8).hexdigest()
    kept = path.with_name(f"near-{digest}.npy")
    with contextlib.suppress(OSError, ValueError, EOFError):
        same = np.load(kept, allow_pickle=False)
        if same.shape == (len(pairs),) and same.dtype == bool:
            return same
    same, buffer = _look_again(pairs, rows, pixels), io.BytesIO()
    np.save(buffer, same)
    with contextlib.suppress(OSError):  # a full or read-only disk: the next run looks again
        write_bytes(kept, buffer.getvalue())
    return same


def _look_again(pairs: np.ndarray, rows: np.ndarray, pixels: PixelCache) -> np.ndarray:
    used, positions = np.unique(pairs, return_inverse=True)
    positions = positions.reshape(pairs.shape)
    side = min(SIDE, pixels.image_size)
    textures = np.zeros((len(used), side, side), np.float16)
    bands = np.zeros_like(textures)
    flat = np.zeros(len(used), bool)
    for begin in range(0, len(used), CHUNK):
        part = slice(begin, begin + CHUNK)
        gray = [_gray(pixels[int(row)], side) for row in rows[used[part]]]
        textures[part], bands[part], flat[part] = split_texture(np.stack(gray))
    same = np.zeros(len(pairs), bool)
    for begin in range(0, len(pairs), CHUNK):
        part = slice(begin, begin + CHUNK)
        a, b = positions[part].T
        without = flat[a] | flat[b]
        alike = correlate(textures[a], textures[b]) >= SAME_FROM
        alike[without] = correlate(bands[a[without]], bands[b[without]]) >= SAME_FROM_FLAT
        same[part] = alike
    return same


def _gray(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BOX))


def split_texture(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the texture of images without their layout, the two together, and whether there is hardly any texture.

    Out go: brightness and gradients (a difference of two Gaussians is the band that is left), strong lines and edges, where the
    band stands out of its robust standard deviation, with their surroundings, and what is constant along rows and columns.

    Args:
        gray: (images, side, side) uint8.

    Returns:
        texture and band, (images, side, side) float32 around 1 in size, 0 where an image is not compared; (images,) bool.
    """
    from scipy import ndimage  # late, as in _blur: where the answer is kept nothing is looked at

    images, scale, border = gray.astype(np.float32), gray.shape[1] / SIDE, max(1, round(BORDER * gray.shape[1]))
    inner = (slice(None), slice(border, -border), slice(border, -border))
    band = _blur(images, FINE * scale) - _blur(images, COARSE * scale)
    around = max(1, round(AROUND * scale))
    stands_out = np.abs(band) > STANDS_OUT * _robust_sd(band[inner])
    kept = (~ndimage.maximum_filter(stands_out, (1, around, around))).astype(np.float32)
    left = _blur(images, FINE * scale, kept) - _blur(images, COARSE * scale, kept)
    along = max(3, round(RUN * scale))
    for axis in (2, 1):
        level = ndimage.uniform_filter1d(left * kept, along, axis)
        left = left - level / np.maximum(ndimage.uniform_filter1d(kept, along, axis), 0.1)
    left *= kept
    texture, whole = np.zeros_like(left), np.zeros_like(left)
    is_kept = kept[inner] > 0
    remains = _robust_sd(left[inner], is_kept)
    texture[inner] = (left[inner] / np.maximum(remains, 0.001)).clip(-CLIPPED, CLIPPED)
    whole[inner] = band[inner] / np.maximum(band[inner].std(axis=(1, 2), keepdims=True), 0.001)
    return texture, whole, (remains.ravel() < FLAT) | (is_kept.mean(axis=(1, 2)) < LEAST_KEPT)


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (pairs,): the highest normalized cross-correlation of textures over shifts, of what both have in common.

    Args:
        a, b: (pairs, side, side) of `split_texture`; their empty borders are wider than a shift, so that nothing comes round.
    """
    side = a.shape[1]
    most = int(SHIFT * side)
    shifts = np.r_[0 : most + 1, -most:0]
    a, b = a.astype(np.float32), b.astype(np.float32)

    def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        spectrum = np.conj(fft.rfft2(left)) * fft.rfft2(right)
        return fft.irfft2(spectrum, s=(side, side))[:, shifts][:, :, shifts]

    in_a, in_b = (a != 0).astype(np.float32), (b != 0).astype(np.float32)
    energy = product(a * a, in_b) * product(in_a, b * b)
    return (product(a, b) / np.sqrt(np.maximum(energy, 1e-6))).max(axis=(1, 2))


def _blur(images: np.ndarray, sd: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Return each image blurred; with weights, from the pixels that have one."""
    from scipy import ndimage

    if weights is None:
        return ndimage.gaussian_filter(images, (0, sd, sd), mode="nearest")
    return _blur(images * weights, sd) / np.maximum(_blur(weights, sd), 0.01)


def _robust_sd(values: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """Return (images, 1, 1): 1.4826 times the median size of what is kept, the standard deviation if normal."""
    sizes = np.abs(values)
    if kept is not None:
        sizes = np.where(kept, sizes, np.nan)
        sizes[~kept.any(axis=(1, 2))] = 0
    return 1.4826 * np.nanmedian(sizes, axis=(1, 2), keepdims=True)


def connected(pairs: list[tuple[int, int]]) -> Iterator[list[int]]:
    """Yield the sets of rows that pairs connect, sorted."""
    partners: dict[int, set[int]] = {}
    for a, b in pairs:
        partners.setdefault(a, set()).add(b)
        partners.setdefault(b, set()).add(a)
    seen: set[int] = set()
    for start in sorted(partners):
        waiting, group = [start], []
        while waiting:
            row = waiting.pop()
            if row not in seen:
                seen.add(row)
                group.append(row)
                waiting += partners[row]
        if group:
            yield sorted(group)
