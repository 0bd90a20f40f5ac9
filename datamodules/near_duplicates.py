"""Find images that are nearly the same: the same object brighter, recompressed, or slightly shifted, rotated or cropped.

The search has two stages. The first compares thumbnails of all images, normalized in brightness and contrast, and proposes
pairs. The second compares the texture of the proposed pairs. Images of one kind share their layout (bus bars of solar cells,
frames, corners), so only what remains after removing the layout shows whether two images show the same thing. Images from
a fixed camera share their texture too, so their scene is subtracted before both stages.

Both stages use image sizes of their own (`compared_look`), so runs with any image size have the same splits. The answers are
stored beside these cached pixels under the images' fingerprints. After images were added or removed, others may be the most
similar ones, so pairs are proposed again; textures are compared only for pairs without a stored answer.
"""

import contextlib
import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.atomic_io import write_bytes
from common.locks import one_at_a_time
from common.processor_time import own_cores
from common.progress import Progress
from datamodules.deep_pixels import ValueRange
from datamodules.nearest import SAMPLED, find_nearest
from datamodules.pixel_cache import Look, PixelCache

log = logging.getLogger(__name__)

LOOK = 7  # version of both stages; stored answers of other versions are not used
KEPT = "near.npz"  # file of the answers, beside the cached pixels
MOST_IMAGES = 1_500_000  # all are compared with each other, so the time grows with the square of their number
MOST_PAIRS = 50_000  # compared by texture, or a fifth of the number of images if that is more
PROPOSED = 20  # pairs per image
PROPOSED_FROM = 0.8  # correlation of thumbnails; shifts and crops of 1 to 3% stay above it
SAME_FROM = 0.45  # correlation of textures; few pairs of solar cells are near this value
SAME_FROM_FLAT = 0.95  # correlation of lines and edges, used if an image has no texture (drawings, digits)
COMPLETED = 100  # images: in groups up to this size, all pairs are compared
SIDE = 64  # pixels per side in the second stage
FROM = 256  # pixels per side of the image that is averaged down to SIDE: enlarging small files avoids chance matches of noise
SHIFT = 0.05  # share of a side, in each direction
BORDER = 0.1  # share of a side that is not compared: frames, and what a shift moves out
CHUNK = 256  # images or pairs per task
AT_ONCE = 2**28  # bytes of image features in memory at a time

# A fixed camera
SAMPLE = 400  # images that are searched for scenes
SCENE_FROM = 0.05  # share of the sample that near duplicates connect
SCENE_ALIKE = 0.6  # correlation of a thumbnail with the mean thumbnail of a scene
SCENE_IMAGES = 100  # a scene has at least this many; fewer are copies
SCENE_PROPOSED = 4  # pairs per image
SCENE_PROPOSED_FROM = 0.5  # correlation of thumbnails without the scene
SCENE_SAME_FROM = 0.9  # the same at SIDE pixels, with the frame moved back to align with the scene
SCENE_STRENGTH = 0.8  # ratio of the lengths of what remains of two frames: the change must be about as strong in both
STEPS = 300  # quantization of what remains of a frame, which has length 1, to one byte per pixel

# Texture, in pixels of the image of 64 x 64
FINE, COARSE = 0.75, 3.0  # standard deviations of the two Gaussians whose difference is the band
AROUND = 5  # side of the square that is masked around a pixel that stands out
RUN = 8  # length along a row or column over which a constant value counts as layout
STANDS_OUT = 2.5  # robust standard deviations of the band
CLIPPED = 3.0  # robust standard deviations of what remains
FLAT = 0.1  # gray levels of 255: an image with a robust standard deviation below this has no texture
LEAST_KEPT = 0.1  # share of unmasked pixels below which an image counts as one without texture


@dataclass
class NearDuplicates:
    """Hold which images are nearly the same, and what was not compared."""

    pairs: np.ndarray  # (pairs, 2) rows, each the first of its exact copies, the lower one first
    notes: list[str]
    unlike: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))  # similar, but not the same


@dataclass
class Answers:
    """Hold which images were compared and which pairs are the same; fingerprints, as numbers, identify the images."""

    compared: np.ndarray  # (images,) uint64, sorted
    pairs: np.ndarray  # (pairs, 2) uint64
    same: np.ndarray  # (pairs,) bool
    in_scene: np.ndarray  # (images,) bool: which were compared after subtracting the scene of a fixed camera
    similar: np.ndarray  # (2,) int64: how many pairs were similar, and how many of these were compared

    @classmethod
    def none(cls) -> "Answers":
        images, pairs = np.zeros(0, np.uint64), np.zeros((0, 2), np.uint64)
        return cls(images, pairs, np.zeros(0, bool), np.zeros(0, bool), np.zeros(2, np.int64))

    @classmethod
    def load(cls, path: Path | None) -> "Answers":
        """Read what `save` wrote; return no answers if the file is missing, damaged or of another version."""
        none = cls.none()
        with (
            contextlib.suppress(Exception),
            (path or Path()).open("rb") as file,
            np.load(file, allow_pickle=False) as saved,
        ):
            kept = cls(**{name: saved[name] for name in vars(none)})  # a damaged file raises whatever it likes
            images, pairs = len(kept.compared), len(kept.pairs)
            shapes = {"compared": (images,), "pairs": (pairs, 2), "same": (pairs,), "in_scene": (images,)}
            shapes["similar"] = (2,)
            wanted = [(shapes[name], column.dtype) for name, column in vars(none).items()]
            is_whole = [(column.shape, column.dtype) for column in vars(kept).values()] == wanted
            is_sorted = (kept.compared[1:] > kept.compared[:-1]).all()
            if saved["look"] == LOOK and is_whole and is_sorted and np.isin(kept.pairs[kept.same], kept.compared).all():
                return kept
        return none

    def save(self, path: Path | None) -> None:
        """Write the answers to one file. If nothing is cached or the disk refuses it, the next run compares again."""
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, look=LOOK, **vars(self))
            with contextlib.suppress(OSError):
                write_bytes(path, buffer.getvalue())

    @property
    def notes(self) -> list[str]:
        similar, looked_at = self.similar.tolist()
        text = (
            f"of {similar:,} similar pairs, only the {looked_at:,} most similar were compared; if others show the same object, "
            "give a table with a column group, such as the object (datamodule.table=FILE)"
        )
        return [text] if looked_at < similar else []


def compared_look(value_range: ValueRange | Literal["own"] | None) -> Look:
    """Return how files become the pixels that are compared, independent of a run's size, fit and interpolation."""
    return Look(SIDE, value_range=value_range, gray_from=FROM)


def find_pairs(rows: np.ndarray, pixels: PixelCache, progress: Progress | None = None) -> NearDuplicates:
    """Return the pairs of near duplicates among `rows`, independent of the splits, which can then be drawn from them.

    Args:
        pixels: cached with `compared_look`.
        progress: shows how far the search is.
    """
    numbers = pixels.stats.fingerprints.numbers[rows]
    numbers, first = np.unique(numbers, return_index=True)
    if len(numbers) > MOST_IMAGES:
        return NearDuplicates(np.zeros((0, 2), np.int64), [
            f"not looked for, since {len(numbers):,} images are more than the {MOST_IMAGES:,} that are compared with each "
            "other; exact duplicates were looked for"
        ])  # fmt: skip
    path = getattr(pixels, "path", None)  # if nothing is cached, the answers are not stored
    path = path and path.with_name(KEPT)
    kept = Answers.load(path)
    with contextlib.ExitStack() as stack:
        if path and not np.array_equal(numbers, kept.compared):
            stack.enter_context(one_at_a_time(path.with_name("near.lock"), "comparing images"))
            kept = Answers.load(path)  # another process may have written them meanwhile
        if not np.array_equal(numbers, kept.compared):
            kept = Search(numbers, rows[first], pixels, kept, progress).run()
            kept.save(path)
    pairs = np.sort(rows[first][np.searchsorted(numbers, kept.pairs)].reshape(-1, 2), axis=1)
    order = np.lexsort(pairs.T[::-1])
    pairs, same = pairs[order], kept.same[order]
    return NearDuplicates(pairs[same], kept.notes, pairs[~same])


class Search:
    """Search for near duplicates among images with different pixels, without comparing textures again whose answer is known.

    Args:
        numbers: (images,) uint64, the images' fingerprints, sorted.
        rows: (images,) rows of `pixels`.
        kept: answers of an earlier search.
        progress: shows how far the first stage is.
    """

    def __init__(
        self,
        numbers: np.ndarray,
        rows: np.ndarray,
        pixels: PixelCache,
        kept: Answers,
        progress: Progress | None = None,
    ):
        self.numbers, self.rows, self.pixels, self.progress = numbers, rows, pixels, progress
        self.pairs, self.same = np.zeros((0, 2), np.int64), np.zeros(0, bool)  # of indices, the lower one first
        by_texture = ~np.isin(kept.pairs, kept.compared[kept.in_scene]).all(axis=1)
        here = by_texture & np.isin(kept.pairs, numbers).all(axis=1)
        known = self._keys(np.searchsorted(numbers, kept.pairs[here]).reshape(-1, 2))
        order = np.argsort(known)
        self.known, self.known_same = known[order], kept.same[here][order]  # textures

    def run(self) -> Answers:
        """Compare the images. What pairs are compared depends on the images only, not on what is known already."""
        scene_of = self._find_scenes()
        for scene in range(scene_of.max() + 1):
            self._look_at_scene(np.flatnonzero(scene_of == scene))
        is_plain = scene_of < 0
        plain = np.flatnonzero(is_plain)
        nearest = find_nearest(
            lambda some: self._inner(plain[some]), len(plain), PROPOSED, PROPOSED_FROM, self.progress
        )
        proposed = _pairs_of(plain, nearest)
        most = max(MOST_PAIRS, len(self.numbers) // 5)
        if self.progress:
            self.progress.set(f"comparing {min(len(proposed), most):,} similar pairs of images")
        self._ask(proposed[:most], self._same_texture)
        for group in connected(self.pairs[self.same & is_plain[self.pairs].all(axis=1)]):
            if 2 < len(group) <= COMPLETED:
                self._ask(np.array(group)[np.column_stack(np.triu_indices(len(group), 1))], self._same_texture)
        similar = np.array([len(proposed), min(len(proposed), most)])
        return Answers(self.numbers, self.numbers[self.pairs], self.same, ~is_plain, similar)

    def _keys(self, pairs: np.ndarray) -> np.ndarray:
        """Return (pairs,) numbers that identify the pairs."""
        return pairs[:, 0] * len(self.numbers) + pairs[:, 1]

    def _ask(self, pairs: np.ndarray, look: Callable[[np.ndarray], np.ndarray]) -> None:
        """Add the answers of `look`, (pairs,) bool, for the pairs that were not asked yet."""
        pairs = pairs[~np.isin(self._keys(pairs), self._keys(self.pairs))]
        if len(pairs):
            self.pairs, self.same = np.concatenate([self.pairs, pairs]), np.concatenate([self.same, look(pairs)])

    def _thumbnails(self, images: np.ndarray) -> np.ndarray:
        return self.pixels.stats.thumbnails[self.rows[images]]

    def _inner(self, images: np.ndarray) -> np.ndarray:
        """Return thumbnails as float16 vectors (images, pixels) of mean 0 and length 1, without the outermost pixels (frames).

        Constant images have length 0, so they correlate with none.
        """
        thumbnails = self._thumbnails(images)
        inner = thumbnails[:, 1:-1, 1:-1].reshape(len(images), (thumbnails.shape[1] - 2) ** 2).astype(np.float32)
        inner -= inner.mean(axis=1, keepdims=True)
        length = np.linalg.norm(inner, axis=1, keepdims=True)
        return (inner / np.where(length > 0, length, 1)).astype(np.float16)

    def _find_scenes(self) -> np.ndarray:
        """Return (images,): the number of the fixed-camera scene that an image shows, or -1.

        Near duplicates are searched for in a sample. If they connect a large part of it, they are a scene, not copies.
        """
        count = len(self.numbers)
        scene_of = np.full(count, -1)
        sample = np.arange(min(SAMPLE, count))  # in the order of fingerprints: random, and always the same
        if count < SCENE_IMAGES:
            return scene_of
        nearest = find_nearest(self._inner, len(sample), PROPOSED, PROPOSED_FROM)
        self._ask(_pairs_of(sample, nearest), self._same_texture)
        least = max(SCENE_FROM, SCENE_IMAGES / count) * len(sample)
        best = np.full(count, SCENE_ALIKE, np.float32)
        for group in connected(self.pairs[self.same]):
            if len(group) >= least:
                mean = self._inner(np.array(group)).mean(axis=0, dtype=np.float32)
                mean /= np.linalg.norm(mean)
                blocks = np.array_split(np.arange(count), -(-count // SAMPLED))
                alike = np.concatenate([self._inner(block).astype(np.float32) @ mean for block in blocks])
                scene_of[alike > best] = scene_of.max() + 1
                best = np.maximum(best, alike)
        asked_again = (scene_of[self.pairs] >= 0).any(axis=1)
        self.pairs, self.same = self.pairs[~asked_again], self.same[~asked_again]
        shown = np.bincount(scene_of + 1)[1:]
        for count in shown[shown > 0]:
            log.info(
                "%s images show one scene, such as that of a fixed camera: they are compared by how they differ from it",
                f"{count:,}",
            )
        return scene_of

    def _look_at_scene(self, images: np.ndarray) -> None:
        """Compare the images of one scene, after subtracting the scene."""
        from datamodules.fixed_camera import Scene, normalize

        scene = Scene(normalize(self._thumbnails(images[:SAMPLE])))
        left = _chunked(lambda part: scene.take_out(normalize(self._thumbnails(part))), images)[0]
        nearest = find_nearest(left.__getitem__, len(images), SCENE_PROPOSED, SCENE_PROPOSED_FROM)
        pairs = _pairs_of(images, nearest)
        del left
        larger = Scene(normalize(self._gray(images[:SAMPLE])))

        def features(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            left, length = larger.take_out(normalize(self._gray(part)), move_back=True)
            return (left * STEPS).round().clip(-127, 127).astype(np.int8), length

        def alike(left: tuple[np.ndarray, ...], right: tuple[np.ndarray, ...]) -> np.ndarray:
            same = np.einsum("ij,ij->i", left[0], right[0], dtype=np.int32) >= SCENE_SAME_FROM * STEPS**2
            as_strong = np.minimum(left[1], right[1]) >= SCENE_STRENGTH * np.maximum(left[1], right[1])
            return same & as_strong

        self._ask(pairs, lambda pairs: _compare(pairs, features, alike))

    def _same_texture(self, pairs: np.ndarray) -> np.ndarray:
        """Return (pairs,) bool: whether the two images have the same texture at the best small shift."""

        def features(images: np.ndarray) -> tuple[np.ndarray, ...]:
            texture, band, flat = split_texture(self._gray(images))
            return texture.astype(np.float16), band.astype(np.float16), flat

        def alike(left: tuple[np.ndarray, ...], right: tuple[np.ndarray, ...]) -> np.ndarray:
            same, without = correlate(left[0], right[0]) >= SAME_FROM, left[2] | right[2]
            same[without] = correlate(left[1][without], right[1][without]) >= SAME_FROM_FLAT
            return same

        keys, same = self._keys(pairs), np.empty(len(pairs), bool)
        is_known = np.isin(keys, self.known)
        same[is_known] = self.known_same[np.searchsorted(self.known, keys[is_known])]
        same[~is_known] = _compare(pairs[~is_known], features, alike)
        return same

    def _gray(self, images: np.ndarray) -> np.ndarray:
        return np.stack([self.pixels[int(row)][..., 0] for row in self.rows[images]])  # all channels are the same


def _pairs_of(images: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return (pairs, 2) of `images`, each pair once with the lower image first, the most similar pairs first."""
    pairs = np.sort(images[nearest[:, :2].astype(np.int64)].reshape(-1, 2), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    return pairs[np.argsort(-nearest[first, 2], kind="stable")]


def _chunked(features: Callable[[np.ndarray], tuple[np.ndarray, ...]], images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the features of images, computed in threads chunk by chunk: most of the work releases Python's lock."""
    whole = None
    with ThreadPoolExecutor(len(own_cores())) as pool:
        chunks = [slice(begin, begin + CHUNK) for begin in range(0, len(images), CHUNK)]
        for chunk, made in zip(chunks, pool.map(lambda chunk: features(images[chunk]), chunks), strict=True):
            whole = whole or tuple(np.empty((len(images), *column.shape[1:]), column.dtype) for column in made)
            for column, part in zip(whole, made, strict=True):
                column[chunk] = part
    return whole


def _compare(
    pairs: np.ndarray,
    features: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    alike: Callable[[tuple[np.ndarray, ...], tuple[np.ndarray, ...]], np.ndarray],
) -> np.ndarray:
    """Return (pairs,) bool from the features of both images, keeping at most AT_ONCE bytes of features in memory."""
    if not len(pairs):
        return np.zeros(0, bool)
    most = AT_ONCE // sum(column.nbytes for column in features(pairs[0, :1]))
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    same, begin = np.zeros(len(pairs), bool), 0
    while begin < len(pairs):
        end = len(pairs)
        while len(np.unique(pairs[order[begin:end]])) > most:
            end = begin + (end - begin) // 2
        block = order[begin:end]
        used, positions = np.unique(pairs[block], return_inverse=True)
        made, positions = _chunked(features, used), positions.reshape(-1, 2)

        def alike_of(part: np.ndarray, made=made, positions=positions) -> tuple[np.ndarray]:
            left, right = (tuple(column[positions[part, side]] for column in made) for side in (0, 1))
            return (alike(left, right),)

        same[block] = _chunked(alike_of, np.arange(len(block)))[0]
        begin = end
    return same


def split_texture(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the texture of images without their layout, texture and layout together, and whether they have hardly any texture.

    Three things are removed: brightness and gradients (the difference of two Gaussians is the band that remains); strong lines
    and edges with their surroundings, where the band exceeds its robust standard deviation by far; and what is constant along
    rows and columns.

    Args:
        gray: (images, SIDE, SIDE) uint8.

    Returns:
        texture and band, (images, SIDE, SIDE) float32 with values of size about 1, or 0 where an image is not compared;
        (images,) bool.
    """
    from scipy import ndimage  # late, as in _blur: not needed if all answers are stored

    images, border = gray.astype(np.float32), round(BORDER * SIDE)
    inner = (slice(None), slice(border, -border), slice(border, -border))
    band = _blur(images, FINE) - _blur(images, COARSE)
    stands_out = np.abs(band) > STANDS_OUT * _robust_sd(band[inner])
    kept = (~ndimage.maximum_filter(stands_out, (1, AROUND, AROUND))).astype(np.float32)
    left = _blur(images, FINE, kept) - _blur(images, COARSE, kept)
    for axis in (2, 1):
        level = ndimage.uniform_filter1d(left * kept, RUN, axis)
        left = left - level / np.maximum(ndimage.uniform_filter1d(kept, RUN, axis), 0.1)
    left *= kept
    texture, whole = np.zeros_like(left), np.zeros_like(left)
    is_kept = kept[inner] > 0
    remains = _robust_sd(left[inner], is_kept)
    texture[inner] = (left[inner] / np.maximum(remains, 0.001)).clip(-CLIPPED, CLIPPED)
    whole[inner] = band[inner] / np.maximum(band[inner].std(axis=(1, 2), keepdims=True), 0.001)
    return texture, whole, (remains.ravel() < FLAT) | (is_kept.mean(axis=(1, 2)) < LEAST_KEPT)


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (pairs,): the highest normalized cross-correlation of two textures over all shifts, where both are compared.

    Args:
        a, b: (pairs, side, side) from `split_texture`; their empty borders are wider than a shift, so nothing wraps around.
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
    """Return (images, 1, 1): 1.4826 times the median absolute value of what is kept, the standard deviation if normal."""
    sizes = np.abs(values)
    if kept is not None:
        sizes = np.where(kept, sizes, np.nan)
        sizes[~kept.any(axis=(1, 2))] = 0
    return 1.4826 * np.nanmedian(sizes, axis=(1, 2), keepdims=True)


def connected(pairs: np.ndarray | list[tuple[int, int]]) -> list[list[int]]:
    """Return the sets of rows that pairs connect, each sorted."""
    if not len(pairs):
        return []
    rows, ends = np.unique(pairs, return_inverse=True)
    graph = coo_array((np.ones(len(pairs)), ends.reshape(-1, 2).T), (len(rows), len(rows)))
    _, numbers = connected_components(graph, directed=False)  # numbered in the order of their first rows
    order = np.argsort(numbers, kind="stable")
    return [group.tolist() for group in np.split(rows[order], np.flatnonzero(np.diff(numbers[order])) + 1)]
