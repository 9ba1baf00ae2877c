"""Interpret an array as images: find the order of its axes, and the value that is white."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

_CHANNELS = (1, 3, 4)
# Minimum width, in pixels, of a square image that is stored as one flat row. Shorter rows are more likely features or
# one-hot labels.
_MIN_FLAT_SIDE = 8
# Possible values of white in arrays of integers: 1 for masks, and the largest values of 8, 10, 12, 14 and 16 bits.
_INTEGER_SCALES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
# Tolerance for rounding: values may lie outside 0…1 or 0…255 by this fraction of the range. Values further outside
# are rejected, not clipped.
_ROUNDING = 0.01
# An array of floats counts as one with values from 0 to 255 only if its largest value is at least this. Otherwise, all
# of its images would be almost black.
_TOO_DARK = 16.0


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of an array of images.

    Attributes:
        count: Number of images.
        shape: Shape of one image as it is in the array.
        axes: The axes of `shape` in the order (h, w) or (h, w, channels).
    """

    count: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of values in one image."""
        return prod(self.shape)

    def arrange(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return one image, (h, w) or (h, w, channels), from its values in the order of the array."""
        return values.reshape(self.shape).transpose(self.axes)


def layout_of(shape: tuple[int, ...]) -> Layout | None:
    """Return the layout of an array of images. An array of shape (h, w, channels) counts as one image.

    Args:
        shape: (n, h, w), (n, h, w, channels), (n, channels, h, w), (h, w, channels), or (n, h·w) or (n, channels·h·w)
            with square images; 1, 3 or 4 channels.

    Returns:
        The layout; None if an array of this shape has no images.
    """
    count, *rest = shape or (0,)
    match rest:
        case [height, width, channels] if channels in _CHANNELS:
            return Layout(count, (height, width, channels), (0, 1, 2))
        case [channels, height, width] if channels in _CHANNELS:
            return Layout(count, (channels, height, width), (1, 2, 0))
        case [width, channels] if channels in _CHANNELS:
            return Layout(1, shape, (0, 1, 2))
        case [height, width]:
            return Layout(count, (height, width), (0, 1))
        case [length]:
            for channels in _CHANNELS:
                side = isqrt(length // channels)
                if channels * side * side == length and side >= _MIN_FLAT_SIDE:
                    return Layout(count, (channels, side, side), (1, 2, 0))
    return None


def full_scale(values: Iterator[NDArray[np.generic]], dtype: np.dtype[np.generic]) -> float:
    """Return the value that is white in an array. Black is 0.

    Args:
        values: All values of the array, in parts of any shape.
        dtype: Type of the values.

    Returns:
        255 for bytes, 1 for booleans, and 1 or 255 for floats. For other integers, the smallest of `_INTEGER_SCALES`
        that no value exceeds.

    Raises:
        ValueError: The values can't be pixels. The message describes them.
    """
    if dtype == np.uint8:
        return 255.0
    if dtype == np.bool_:
        return 1.0
    low, high = np.inf, -np.inf
    for part in values:
        if not np.isfinite(part).all():
            raise ValueError("floats that are not finite: expected 0 to 1 or 0 to 255")
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low > high:
        return 255.0
    if dtype.kind in "iu":
        if low >= 0 and high <= _INTEGER_SCALES[-1]:
            return next(scale for scale in _INTEGER_SCALES if high <= scale)
        raise ValueError(f"integers from {low:g} to {high:g}: expected 0 to 255 or 0 to 65535")
    for scale, smallest in ((1.0, 0.0), (255.0, _TOO_DARK)):
        if -_ROUNDING * scale <= low and smallest <= high <= (1 + _ROUNDING) * scale:
            return scale
    raise ValueError(f"floats from {low:g} to {high:g}: expected 0 to 1 or 0 to 255")


def to_uint8(values: NDArray[np.generic], scale: float) -> NDArray[np.uint8]:
    """Return 8-bit pixels from values in which `scale` is white."""
    if values.dtype == np.uint8:
        return values  # type: ignore[return-value]
    return np.rint(values.astype(np.float64) * (255 / scale)).clip(0, 255).astype(np.uint8)
