"""Resize like Pillow, bilinear or bicubic, with tensor operations that can be exported: bit for bit as `decode.resize`.

Pillow's src/libImaging/Resample.c works on integers, one direction after the other: each weight is rounded to 22 bits, each
sum to 8 bits, within 0 to 255. This does the same. B: batch, H x W: pixels before, S: pixels a side after, T: filter taps.
"""

import torch
from PIL import Image
from torch import Tensor

PRECISION_BITS = 32 - 8 - 2  # Resample.c: of a weight, so that a sum of 255 times all of them fits into 32 bits
TALL_FIRST_DOWN = int(Image.__version__.split(".")[0]) >= 13  # earlier, always across first (Pillow's #9549)


def resize_tensor(pixels: Tensor, size: int, fit: str, interpolation: str) -> Tensor:
    """Resize (B, H, W, C) uint8 to (B, S, S, C) uint8; B, H and W may be symbols of torch.export."""
    height, width = pixels.shape[1:3]
    used_height, used_width, filled_height, filled_width = height, width, size, size
    if fit == "crop":
        used_height = used_width = torch.sym_min(height, width)
    elif fit == "pad":
        longer = 2 * torch.sym_max(height, width)
        filled_height, filled_width = (
            torch.sym_max(1, (2 * size * length + longer // 2) // longer) for length in (height, width)
        )
    rows = taps(height, size, used_height, filled_height, interpolation)
    operands = (pixels, *rows, *taps(width, size, used_width, filled_width, interpolation))
    if not TALL_FIRST_DOWN:
        return _across_first(*operands)
    shrinks = height - filled_height
    down_first = (shrinks > 0) & (shrinks > 2 * (width - filled_width))
    if isinstance(down_first, bool):
        return (_down_first if down_first else _across_first)(*operands)
    return torch.cond(down_first, _down_first, _across_first, operands)


def taps(length: int, size: int, used: int, filled: int, interpolation: str) -> tuple[Tensor, Tensor]:
    """Return which of `length` pixels each of `size` pixels takes (S, T) int64, and their weights (S, T) int32.

    As precompute_coeffs and normalize_coeffs_8bpc of Resample.c. Taps past a filter's end have no weight.

    Args:
        length: pixels before.
        size: pixels after.
        used: central pixels before that become the `filled` ones.
        filled: central pixels after that they become; the others take none.
    """
    weigh, reach = FILTERS[interpolation]
    count = 2 * reach * ((used + filled - 1) // filled) + 1  # not -(-used // filled): ONNX divides towards zero
    scale = _number(used) / _number(filled)
    stretch = scale.clamp(min=1)
    support = reach * stretch
    places = torch.arange(size, dtype=torch.float64)[:, None] - (size - filled) // 2  # (S, 1)
    centers = _number(length - used) / 2 + (places + 0.5) * scale
    first = (centers - support + 0.5).floor().clamp(min=0)
    end = (centers + support + 0.5).floor().clamp(max=length)
    indices = first + torch.arange(count, dtype=torch.float64)  # (S, T)
    weights = weigh(((indices - centers + 0.5) * (1 / stretch)).abs()) * (indices < end)
    weights = weights / weights.sum(1, keepdim=True)
    weights = torch.where((places >= 0) & (places < filled), weights, 0.0)
    scaled = weights * 2**PRECISION_BITS
    rounded = torch.where(scaled < 0, (scaled - 0.5).ceil(), (scaled + 0.5).floor()).to(torch.int32)
    return indices.clamp(max=length - 1).to(torch.int64), rounded


def _triangle(distances: Tensor) -> Tensor:
    return (1 - distances).clamp(min=0)


def _cubic(distances: Tensor) -> Tensor:
    """Return Keys's cubic (1981, IEEE Trans. ASSP 29:1153-1160) in the order of Resample.c's operations."""
    a, x = -0.5, distances
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


# Filters of Resample.c: distances from the center -> weights, and the distance from which on these are 0
FILTERS = {"bilinear": (_triangle, 1), "bicubic": (_cubic, 2)}


def _number(value: int) -> Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


def _across_first(pixels: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor) -> Tensor:
    return _down(_across(pixels, columns, column_weights), rows, row_weights)


def _down_first(pixels: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor) -> Tensor:
    return _across(_down(pixels, rows, row_weights), columns, column_weights)


def _across(pixels: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    # Whole lines are gathered three times as fast as pixels of three bytes
    return _down(pixels.transpose(1, 2).contiguous(), indices, weights).transpose(1, 2).contiguous()


def _down(pixels: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    lines = pixels.flatten(2).index_select(1, indices.flatten()).unflatten(1, indices.shape)  # (B, S, T, W * C)
    total = torch.matmul(weights[:, None, :], lines.to(torch.int32))[:, :, 0]  # (B, S, W * C), exact in 32 bits
    rounded = (total.double() * 2.0**-PRECISION_BITS + 0.5).floor()
    return rounded.clamp(0, 255).to(torch.uint8).unflatten(2, (-1, pixels.shape[3]))
