"""Convert pictures of digits to the style of MNIST's images, on which the encoders for digits were trained.

MNIST's digits are light on black, scaled so that their ink fits into 20 × 20 pixels, and placed so that the ink's
centre of mass is the centre of 28 × 28 pixels (LeCun et al., "Gradient-Based Learning Applied to Document Recognition",
1998). In photographs and scans, a digit is usually dark on light, and may have any size and position.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

_Plane = NDArray[np.float32]

# Side of a picture in MNIST's style, and the longer side of its ink, in pixels.
_SIDE, _BOX = 28, 20
# A picture has MNIST's style already if it is within the following bounds. All 70,000 images of MNIST are.
#
# Minimum grey level of a pixel of ink and of a bright pixel, and the minimum share of the ink that is bright. In every
# MNIST image, more than a tenth of the ink is brighter than 205.
_INK, _BRIGHT, _BRIGHT_SHARE = 64, 200, 0.1
# Maximum distance of the ink's centre of mass from the picture's centre, in pixels. MNIST's maximum is 0.53.
_OFF_CENTRE = 2.0
# Minimum and maximum of the ink's longer side, in pixels. In MNIST, it has 14 to 20.
_SHORTEST, _LONGEST = 13, 22
# Minimum mean width of the strokes, in pixels. In MNIST, it is 1.14 to 8.3.
_THINNEST = 1.1
# Strokes of a converted digit that are thinner than the first width, in pixels, are widened to the second. MNIST's
# median is 2.5, and 5 % of its images are below 1.7.
_THIN, _WIDENED = 1.7, 2.1
# The ink is found in a copy of the picture whose longer side has the first number of pixels. The part with the digit is
# then cut from the original and scaled to the second.
_OVERVIEW, _DETAIL = 256, 160
# Minimum density of ink that counts toward the digit's bounding box.
_FAINTEST = 0.2
# The background is uniform if at least this share of the pixels is within this many grey levels of its brightness.
_EVEN, _EVEN_SHARE = 4.0, 0.2
# Minimum contrast between ink and background, in grey levels and in standard deviations of the background's noise.
_CONTRAST, _NOISE = 30.0, 6.0
# A picture shows ink if its ink is either all darker or all lighter than the background. Deviations of the opposite
# sign may amount to this share of the ink.
_STRAY_SHARE = 0.1
# Maximum share of a digit's ink that is more than two pixels from the ink's edge, at 20 by 20 pixels. Strokes have
# less. Clothes and most objects in photographs have more.
_SOLID_SHARE = 0.1


class _Ink(NamedTuple):
    """The ink of a picture.

    Attributes:
        density: (height, width), from 0 for background to 1 for full ink.
        contrast: Difference between ink and background, in grey levels.
        is_dark: Whether the ink is darker than the background.
    """

    density: _Plane
    contrast: float
    is_dark: bool


def frame_digit(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert a picture that clearly shows a digit to MNIST's style.

    Args:
        image: Mode L, of any size.

    Returns:
        An image of mode L and 28 × 28 pixels, and the steps applied: "inverted", "centred", "brightened", "thickened".
        If the picture has MNIST's style already, or shows no strokes on an even background: the image itself and an
        empty tuple.
    """
    if abs(image.width - image.height) * 10 <= max(image.size):
        small = image if image.size == (_SIDE, _SIDE) else ImageOps.fit(image, (_SIDE, _SIDE))
        if _has_style(np.asarray(small)):
            return image, ()
        if _has_style(255 - np.asarray(small)):
            return ImageOps.invert(small), ("inverted",)
    return _reframed(image) or (image, ())


def _has_style(pixels: NDArray[np.uint8]) -> bool:
    """Return whether an image of 28 × 28 pixels has MNIST's style."""
    ink = pixels >= _INK
    if np.count_nonzero(pixels >= _BRIGHT) <= np.count_nonzero(ink) * _BRIGHT_SHARE:
        return False
    left, top, right, bottom = _bounds(ink)
    if not _SHORTEST <= max(right - left, bottom - top) <= _LONGEST:
        return False
    density = pixels.astype(np.float32)
    row, column = _centre(density)
    return np.hypot(row - _SIDE // 2, column - _SIDE // 2) <= _OFF_CENTRE and _stroke(density) >= _THINNEST


def _reframed(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]] | None:
    overview = _reduced(image, _OVERVIEW)
    ink = _find_ink(np.asarray(overview, np.float32))
    if ink is None:
        return None
    scale = image.width / overview.width
    if scale > 1:  # cut the digit from the original picture, because the overview may show it very small
        left, top, right, bottom = _bounds(ink.density >= _FAINTEST)
        margin = max(right - left, bottom - top) // 4 + 2
        box = (max(left - margin, 0), max(top - margin, 0), right + margin, bottom + margin)
        left, top, right, bottom = (round(edge * scale) for edge in box)
        closer = image.crop((left, top, min(right, image.width), min(bottom, image.height)))
        ink = _find_ink(np.asarray(_reduced(closer, _DETAIL), np.float32), ink.is_dark) or ink
    left, top, right, bottom = _bounds(ink.density >= _FAINTEST)
    digit = _scaled(ink.density[top:bottom, left:right], _BOX)
    if not _is_drawn(digit):
        return None
    words = ["inverted"] * ink.is_dark + ["centred"] + ["brightened"] * (ink.contrast < _BRIGHT)
    stroke = _stroke(digit)
    if stroke < _THIN:
        digit = _widened(ink.density[top:bottom, left:right], _WIDENED - stroke)
        words.append("thickened")
    return _placed(digit), tuple(words)


def _is_drawn(digit: _Plane) -> bool:
    """Return whether a digit of 20 × 20 pixels consists of strokes: eroding two pixels from each side leaves little."""
    padded = np.pad(digit, 2)
    least = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).min((2, 3))
    return bool(least.sum() <= _SOLID_SHARE * digit.sum())


def _find_ink(grey: _Plane, is_dark: bool | None = None) -> _Ink | None:
    """Separate ink from background by brightness. Return None if the background is uneven or has no ink on it.

    Args:
        grey: (height, width), 0 to 255.
        is_dark: Whether the ink is darker than the background; None to find out.
    """
    ground, noise = _ground(grey)
    difference = grey - ground
    if is_dark is None:
        beyond = max(_CONTRAST / 2, 4 * noise)
        darker, lighter = (float(np.maximum(excess - beyond, 0).sum()) for excess in (-difference, difference))
        if min(darker, lighter) > _STRAY_SHARE * max(darker, lighter):
            return None
        is_dark = darker > lighter
    if is_dark:
        difference = -difference
    strongest = np.partition(difference, -8, None)[-8:].mean() if difference.size >= 8 else difference.max()
    if strongest < max(_CONTRAST, _NOISE * noise):
        return None
    contrast = float(np.percentile(difference[difference > strongest / 2], 75))
    floor = min(0.4, 3 * noise / contrast)
    density = ((difference / contrast - floor) / (1 - 2 * floor)).clip(0, 1)
    return _Ink(density.astype(np.float32), contrast, is_dark)


def _ground(grey: _Plane) -> tuple[_Plane | float, float]:
    """Return the background's brightness, one number or one per pixel, and the standard deviation of its noise."""
    low, high = np.percentile(grey, (1, 99))
    rim = (grey[0].mean() + grey[-1].mean() + grey[:, 0].mean() + grey[:, -1].mean()) / 4
    level = float(low if rim < (low + high) / 2 else high)
    if np.mean(np.abs(grey - level) <= _EVEN) >= _EVEN_SHARE:
        return level, _EVEN / 2
    values = np.sort(grey, None)
    half = len(values) // 2
    widths = values[half:] - values[: len(values) - half]
    start = int(widths.argmin())
    if widths[start] <= 2 * _EVEN:
        # half of a normal distribution lies within 0.67 standard deviations of its mean
        return float(values[start + half // 2]), float(widths[start]) / 1.35
    # the light is uneven: fit a paraboloid to the 60 % of the pixels that it fits best
    height, width = grey.shape
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
    flat = grey.ravel()
    step = max(1, len(flat) // 4000)
    sample, sampled = terms[::step], flat[::step]
    nearest = np.abs(sampled - np.median(sampled)).argsort()[: len(sampled) * 6 // 10]
    for _ in range(6):
        kept = sample[nearest]
        fit = np.linalg.lstsq(kept.T @ kept, kept.T @ sampled[nearest], rcond=None)[0]
        distances = np.abs(sampled - sample @ fit)
        nearest = distances.argsort()[: len(sampled) * 6 // 10]
    # 60 % of a normal distribution lie within 0.84 standard deviations of its mean
    return (terms @ fit).reshape(grey.shape), float(distances[nearest[-1]] / 0.84)


def _reduced(image: Image.Image, longest: int) -> Image.Image:
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BOX, reducing_gap=2.0)


def _bounds(mask: NDArray[np.generic]) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) around the true pixels. At least one pixel must be true."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centre(density: _Plane) -> tuple[float, float]:
    """Return the centre of mass as (row, column)."""
    rows, columns = density.sum(1), density.sum(0)
    total = rows.sum()
    return float(rows @ np.arange(len(rows)) / total), float(columns @ np.arange(len(columns)) / total)


def _stroke(density: _Plane) -> float:
    """Return the mean width of the strokes in pixels: twice their area divided by the length of their outline."""
    steps = np.abs(density[1:] - density[:-1]).sum() + np.abs(density[:, 1:] - density[:, :-1]).sum()
    edges = density[0].sum() + density[-1].sum() + density[:, 0].sum() + density[:, -1].sum()
    # steps along rows and columns overestimate a slanted outline by 4/π on average
    return float(2 * density.sum() / ((steps + edges) * np.pi / 4))


def _scaled(density: _Plane, longer: int) -> _Plane:
    """Scale a digit so that its longer side has a given number of pixels."""
    factor = longer / max(density.shape)
    height, width = (max(1, round(side * factor)) for side in density.shape)
    image = Image.fromarray(density).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 1)


def _widened(density: _Plane, by: float) -> _Plane:
    """Scale a digit to 20 × 20 pixels, with its strokes widened by a number of those pixels."""
    fine = _scaled(density, 5 * _BOX)
    radius = max(1, round(by / 2 * 5))
    image = ImageOps.expand(Image.fromarray((fine * 255).astype(np.uint8)), radius)
    return _scaled(np.asarray(image.filter(ImageFilter.MaxFilter(2 * radius + 1)), np.float32) / np.float32(255), _BOX)


def _placed(digit: _Plane) -> Image.Image:
    """Place a digit of 20 × 20 pixels in a picture of 28 × 28, with its centre of mass in the picture's centre."""
    top, left = (
        min(max(round(_SIDE / 2 - centre), 0), _SIDE - side)
        for centre, side in zip(_centre(digit), digit.shape, strict=True)
    )
    framed = np.zeros((_SIDE, _SIDE), np.uint8)
    framed[top : top + digit.shape[0], left : left + digit.shape[1]] = np.rint(digit * 255)
    return Image.fromarray(framed)
