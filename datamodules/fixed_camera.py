"""Images of a fixed camera: subtract the scene, which all of them share, so that their differences can be compared.

Frames differ by brightness, direction of light, small shifts or crops. To first order, each of these adds a multiple of the
scene, of its derivatives or of a gradient. What remains of a frame without them is what entered the scene, and noise.
"""

import numpy as np
import scipy

AT_MOST = 0.05  # share of a side by which a frame is moved back at most
BORDER = 1 / 16  # share of a side that is not compared
BLUR = 0.6  # pixels; moving a frame back blurs it by about as much


def normalize(gray: np.ndarray) -> np.ndarray:
    """Return (images, side, side) float32, slightly blurred, without brightness and contrast."""
    images = scipy.ndimage.gaussian_filter(gray.astype(np.float32), (0, BLUR, BLUR), mode="nearest")
    images -= images.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((images**2).sum(axis=(1, 2), keepdims=True))
    return images / np.maximum(length, 1e-6)


class Scene:
    """Hold what the frames of one camera share.

    Args:
        frames: (frames, side, side) from `normalize`; a sample is enough.
    """

    def __init__(self, frames: np.ndarray):
        mean = frames.mean(axis=0)
        self.side = len(mean)
        border = max(1, round(BORDER * self.side))
        self.inner = (slice(None), slice(border, -border), slice(border, -border))
        y, x = (np.mgrid[: self.side, : self.side] / self.side - 0.5).astype(np.float32)
        down, right = np.gradient(mean)
        moved = [right, x * right, y * right, down, x * down, y * down]  # shifted, turned, cropped
        lit = [np.ones_like(mean), x, y, x * mean, y * mean, mean**2]
        basis = np.stack([mean, *moved, *lit]).astype(np.float32)
        self._orthonormal, self._triangle = np.linalg.qr(basis[self.inner].reshape(len(basis), -1).T)

    def take_out(self, frames: np.ndarray, move_back: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return what remains of frames without the scene, (frames, inner pixels) of length 1, and its length before (frames,).

        Args:
            move_back: whether to align frames with the scene first.
        """
        flat = frames[self.inner].reshape(len(frames), -1)
        shares = np.einsum("ip,pb->ib", flat, self._orthonormal)  # not by BLAS, whose threads would compete with ours
        if move_back:
            factors = np.linalg.solve(self._triangle, shares.T).T
            return self.take_out(self._moved_back(frames, factors[:, 1:7] / np.maximum(factors[:, :1], 1e-3)))
        left = flat - np.einsum("ib,pb->ip", shares, self._orthonormal)
        length = np.linalg.norm(left, axis=1)
        return left / np.maximum(length, 1e-6)[:, None], length

    def _moved_back(self, frames: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Return frames resampled by an affine map, six numbers for each frame; linear between pixels."""
        moved, middle = np.empty_like(frames), self.side / 2
        by = by.reshape(-1, 2, 3)[:, ::-1].clip(-AT_MOST * self.side, AT_MOST * self.side)  # down, right: 1, x, y
        for frame, into, ((down, down_x, down_y), (right, right_x, right_y)) in zip(frames, moved, by, strict=True):
            matrix = np.eye(2) - np.array([[down_y, down_x], [right_y, right_x]]) / self.side
            offset = np.array([middle - down, middle - right]) - matrix @ [middle, middle]
            scipy.ndimage.affine_transform(frame, matrix, offset, output=into, order=1, mode="nearest")
        return moved
