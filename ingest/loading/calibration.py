"""Calibration: measure the typical reconstruction errors and distances of a gallery's images, and of altered copies."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from encoder_service.encoder import Encoder
from encoder_service.images import THUMBNAIL_SIZE, decode, flatness, flattened
from encoder_service.limits import EXACT_DISTANCE
from gallery import Calibration, Entry, Gallery, Query, SearchOptions
from gallery.spec import usual_flatness

# Number of images per batch of searches.
_BATCH_COUNT = 1024
# Number of images whose distance to the nearest neighbour is measured. With fewer, the 99th percentile would be noise.
_SAMPLE_COUNT = 5 * _BATCH_COUNT
# Images that are altered and encoded again, five times each. This takes about 0.1 s with the shipped encoders.
_ALTERED_COUNT = 128
# Minimum number of thumbnails from which the range of flatness is taken. The range of fewer would exclude many other
# images of the same kind.
_MIN_FLATNESS_COUNT = 100
# Share of the images whose five nearest neighbours are similar.
_SIMILAR_SHARE = 0.99
# Smallest and largest share of the copies that the cut for the same picture may include. Some copies of digits are
# farther away than other digits.
_COPIES_SHARES = 0.25, 0.95
# Copies that are given up to exclude one nearest neighbour. With more, the duplicates in a gallery would hide
# themselves: with 5, the copies of a quarter of the images are no longer found. With 1, more of MNIST's digits are the
# same as another one.
_NEIGHBOUR_COST = 2


def calibrate(errors: Sequence[float], gallery: Gallery, encoder: Encoder) -> Calibration | None:
    """Measure the typical errors and distances of a gallery's images.

    Args:
        errors: Relative errors of the reconstructions of some of its images, 0 or more (see `relative_error`); empty if
            none have been measured, as for images that an earlier release loaded.
        gallery: The gallery, with its index built. A sample of its images is searched for.
        encoder: The encoder that made the gallery's codes. It encodes altered copies of a few thumbnails.

    Returns:
        The calibration; None if the gallery has fewer than two images, or neither errors nor an earlier calibration.
    """
    nearest: list[float] = []
    farthest: list[float] = []
    copies: list[float] = []
    shares: list[float] = []
    for sample in islice(gallery.scroll(_BATCH_COUNT), _SAMPLE_COUNT // _BATCH_COUNT):
        queries = [Query(entry.code, SearchOptions(exclude_keys=(entry.key,))) for entry in sample]
        for hits in filter(None, gallery.search_batch(queries)):
            nearest.append(hits[0].distance)
            farthest.append(hits[-1].distance)
        copies = copies or _copy_distances(sample[:_ALTERED_COUNT], encoder)
        shares += _flatness(sample, encoder)
    earlier = gallery.spec.calibration
    if not nearest or not (errors or earlier):
        return None
    calibration = Calibration.from_samples(errors or [0.0], nearest)
    if earlier and not (errors and earlier.is_relative):
        # images that an earlier release loaded have other errors, or none
        calibration = replace(calibration, errors=earlier.errors, is_relative=earlier.is_relative)
    if len(shares) >= _MIN_FLATNESS_COUNT:
        calibration = replace(calibration, flatness=usual_flatness(shares))
    if not copies:
        return calibration
    same = _same_distance(copies, calibration)
    similar = max(same, float(np.quantile(farthest, _SIMILAR_SHARE)))
    return replace(calibration, same_distance=same, similar_distance=similar)


def _same_distance(copies: Sequence[float], calibration: Calibration) -> float:
    """Return the cut that tells altered copies of an image from the image's nearest neighbour.

    Of the cuts that include 25 to 95 % of the copies, the best has the largest share of copies within it, less twice
    the share of images whose nearest neighbour is within it. Identical images in the gallery are within all cuts, so
    they make no difference. The lower bound keeps a gallery of many near duplicates from having no cut at all.

    Args:
        copies: Distances between images and their altered copies, at least one.
        calibration: Has the distances between the gallery's images and their nearest neighbours.
    """
    shares = np.linspace(*_COPIES_SHARES, 71)
    cuts = np.quantile(copies, shares)
    neighbours = [calibration.distance_percentile(cut) / 100 for cut in cuts]
    best = cuts[np.argmax(shares - _NEIGHBOUR_COST * np.array(neighbours))]
    return max(EXACT_DISTANCE, float(best))


def _copy_distances(entries: Sequence[Entry], encoder: Encoder) -> list[float]:
    """Alter the thumbnails of some images, and return the distances of their codes to the stored codes."""
    with_thumbnails = [entry for entry in entries if entry.thumbnail_png]
    copies = [copy for entry in with_thumbnails for copy in _altered(entry.thumbnail_png, encoder)]
    if not copies:
        return []
    stored: NDArray[np.float32] = np.stack([entry.code for entry in with_thumbnails])
    codes = encoder.encode_images(copies).reshape(len(stored), -1, encoder.spec.code_size)  # (n, copies, code_size)
    distances: list[float] = np.linalg.norm(codes - stored[:, None], axis=2).ravel().tolist()
    return distances


def _flatness(entries: Sequence[Entry], encoder: Encoder) -> list[float]:
    """Measure the flatness of some images on their thumbnails.

    Returns:
        The flatness of each image that has a thumbnail; an empty list if the encoder's inputs are larger than
        thumbnails, which would have too little detail.
    """
    thumbnails = [decode(entry.thumbnail_png) for entry in entries if entry.thumbnail_png]
    if not thumbnails or max(encoder.spec.input_shape[:2]) > THUMBNAIL_SIZE:
        return []
    shares: list[float] = flatness(encoder.normalise(thumbnails)).tolist()
    return shares


def _altered(thumbnail_png: bytes, encoder: Encoder) -> Iterator[Image.Image]:
    """Yield copies of a thumbnail with the small changes that a picture undergoes when it is passed on."""
    thumbnail = flattened(decode(thumbnail_png), encoder.spec.background, encoder.spec.input_shape[2])
    return (alter(thumbnail) for alter in _ALTERATIONS)


def _compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file)


def _resized(image: Image.Image) -> Image.Image:
    smaller = image.resize([max(1, side * 3 // 4) for side in image.size], Image.Resampling.BICUBIC)
    return smaller.resize(image.size, Image.Resampling.BICUBIC)


def _trimmed(image: Image.Image) -> Image.Image:
    """Cut off 2 % at each side."""
    right, bottom = (0.98 * side for side in image.size)
    box = (image.width - right, image.height - bottom, right, bottom)
    return image.resize(image.size, Image.Resampling.BICUBIC, box)


def _brighter(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.15)


def _darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.85)


_ALTERATIONS: tuple[Callable[[Image.Image], Image.Image], ...] = (_compressed, _resized, _trimmed, _brighter, _darker)
