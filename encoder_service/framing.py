"""Bring pictures of digits to the form of MNIST's images, which the digits' encoders were trained on.

MNIST's digits are light on black, scaled so that their ink fits into 20 × 20 pixels, and placed so that the ink's
centre of mass is the centre of 28 × 28 pixels (LeCun et al., "Gradient-Based Learning Applied to Document Recognition",
1998). Photographs and scans of digits are dark on light, of any size, and anywhere in the picture.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

_Plane = NDArray[np.float32]

# Pixels of the picture's side, and of the longer side of the ink.
_SIDE, _BOX = 28, 20
# Bounds of an image in MNIST's form. In MNIST's 70,000 images, the centre of mass is at most 0.53 pixels from the
# centre, the ink's longer side has 14 to 20 pixels, more than a tenth of the ink's pixels are brighter than 205, and
# the strokes are 1.14 to 8.3 pixels wide on average.
_INK, _BRIGHT, _BRIGHT_PART = 64, 200, 0.1
_OFF_CENTRE, _SHORTEST, _LONGEST, _THINNEST = 2.0, 13, 22, 1.1
# Strokes of a reframed digit thinner than the first value, in pixels, are widened to the second. MNIST's median is
# 2.5, and 5 % are below 1.7.
_THIN, _WIDENED = 1.7, 2.1
# Longest side in pixels at which ink is looked for, and at which the digit that was found is cut out.
_OVERVIEW, _DETAIL = 256, 160
# Minimum density at which ink counts toward the digit's bounding box.
_FAINTEST = 0.2
# A ground is uniform if at least this share of the pixels is within this many grey levels of its brightness.
_EVEN, _EVEN_PART = 4.0, 0.2
# Minimum contrast of ink, in grey levels and in standard deviations of the ground's noise.
_CONTRAST, _NOISE = 30.0, 6.0
# Ink is either darker or lighter than the ground. On the other side may be this share of it.
_STRAY_PART = 0.1
# Maximum share of the ink that may lie more than two pixels (of 20 by 20) from its edge. Strokes have less. Clothes and
# most objects in photographs have more.
_SOLID_PART = 0.1


class _Ink(NamedTuple):
    """Ink on a picture: (height, width), 0 for the ground and 1 for full ink, and the contrast in grey levels."""

    density: _Plane
    contrast: float
    is_dark: bool


def frame_digit(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Bring a picture to MNIST's form if it plainly shows a digit in another form.

    Args:
        image: Mode L, of any size.

    Returns:
        An image of mode L and 28 × 28 pixels, and the steps applied: "inverted", "centred", "brightened", "thickened".
        If the picture already has MNIST's form, or shows no strokes on an even ground, the image itself and no steps.
    """
    if abs(image.width - image.height) * 10 <= max(image.size):
        form = image if image.size == (_SIDE, _SIDE) else ImageOps.fit(image, (_SIDE, _SIDE))
        if _is_in_form(np.asarray(form)):
            return image, ()
        if _is_in_form(255 - np.asarray(form)):
            return ImageOps.invert(form), ("inverted",)
    return _reframed(image) or (image, ())


def _is_in_form(pixels: NDArray[np.uint8]) -> bool:
    """Return whether 28 × 28 pixels look like an image of MNIST."""
    ink = pixels >= _INK
    if np.count_nonzero(pixels >= _BRIGHT) <= np.count_nonzero(ink) * _BRIGHT_PART:
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
    if scale > 1:  # look again at a larger scale: the ink may be a small part of the picture
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
    """Return whether 20 × 20 pixels show strokes, of which little remains after eroding two pixels from each side."""
    padded = np.pad(digit, 2)
    least = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).min((2, 3))
    return bool(least.sum() <= _SOLID_PART * digit.sum())


def _find_ink(grey: _Plane, is_dark: bool | None = None) -> _Ink | None:
    """Separate ink from ground by brightness; None if there is no even ground, or no ink on it.

    Args:
        grey: (height, width), 0 to 255.
        is_dark: Whether the ink is darker than the ground; None to find out.
    """
    ground, noise = _ground(grey)
    difference = grey - ground
    if is_dark is None:
        beyond = max(_CONTRAST / 2, 4 * noise)
        darker, lighter = (float(np.maximum(side - beyond, 0).sum()) for side in (-difference, difference))
        if min(darker, lighter) > _STRAY_PART * max(darker, lighter):
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
    """Return the ground's brightness, as a number or per pixel, and the standard deviation of its noise."""
    low, high = np.percentile(grey, (1, 99))
    rim = (grey[0].mean() + grey[-1].mean() + grey[:, 0].mean() + grey[:, -1].mean()) / 4
    level = float(low if rim < (low + high) / 2 else high)
    if np.mean(np.abs(grey - level) <= _EVEN) >= _EVEN_PART:
        return level, _EVEN / 2
    values = np.sort(grey, None)
    half = len(values) // 2
    widths = values[half:] - values[: len(values) - half]
    start = int(widths.argmin())
    if widths[start] <= 2 * _EVEN:
        # in a normal distribution, half lies within 0.67 standard deviations
        return float(values[start + half // 2]), float(widths[start]) / 1.35
    # for uneven light, fit a paraboloid to the best-fitting 60 % of the pixels
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
    # in a normal distribution, 60 % lie within 0.84 standard deviations
    return (terms @ fit).reshape(grey.shape), float(distances[nearest[-1]] / 0.84)


def _reduced(image: Image.Image, longest: int) -> Image.Image:
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BOX, reducing_gap=2.0)


def _bounds(mask: NDArray[np.generic]) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) around the true pixels, at least one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centre(density: _Plane) -> tuple[float, float]:
    """Return the centre of mass as (row, column)."""
    rows, columns = density.sum(1), density.sum(0)
    total = rows.sum()
    return float(rows @ np.arange(len(rows)) / total), float(columns @ np.arange(len(columns)) / total)


def _stroke(density: _Plane) -> float:
    """Return the mean width of the strokes in pixels: twice their area over their outline."""
    steps = np.abs(density[1:] - density[:-1]).sum() + np.abs(density[:, 1:] - density[:, :-1]).sum()
    edges = density[0].sum() + density[-1].sum() + density[:, 0].sum() + density[:, -1].sum()
    # steps along rows and columns count a slanted outline 4/π times on average
    return float(2 * density.sum() / ((steps + edges) * np.pi / 4))


def _scaled(density: _Plane, longer: int) -> _Plane:
    """Scale so that the longer side has a given length."""
    factor = longer / max(density.shape)
    height, width = (max(1, round(side * factor)) for side in density.shape)
    image = Image.fromarray(density).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 1)


def _widened(density: _Plane, by: float) -> _Plane:
    """Widen strokes by a number of pixels on the 20 × 20 scale, and return them scaled to 20 × 20."""
    fine = _scaled(density, 5 * _BOX)
    radius = max(1, round(by / 2 * 5))
    image = ImageOps.expand(Image.fromarray((fine * 255).astype(np.uint8)), radius)
    return _scaled(np.asarray(image.filter(ImageFilter.MaxFilter(2 * radius + 1)), np.float32) / np.float32(255), _BOX)


def _placed(digit: _Plane) -> Image.Image:
    """Place the centre of mass of 20 × 20 pixels in the centre of 28 × 28."""
    top, left = (
        min(max(round(_SIDE / 2 - centre), 0), _SIDE - side)
        for centre, side in zip(_centre(digit), digit.shape, strict=True)
    )
    framed = np.zeros((_SIDE, _SIDE), np.uint8)
    framed[top : top + digit.shape[0], left : left + digit.shape[1]] = np.rint(digit * 255)
    return Image.fromarray(framed)
