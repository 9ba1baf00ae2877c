"""Calibration: measure the typical reconstruction errors and distances of a gallery's images, and of altered copies."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from encoder_service.encoder import Encoder
from encoder_service.images import decode, flattened
from encoder_service.limits import EXACT_DISTANCE
from gallery import Calibration, Entry, Gallery, Query, SearchOptions

# Images per batch of searches.
_BATCH_COUNT = 1024
# Images whose distance to the nearest neighbour is measured. With fewer, the 99th percentile would be noise.
_SAMPLE_COUNT = 5 * _BATCH_COUNT
# Images that are altered and encoded again, five times each. This takes about 0.1 s with the shipped encoders.
_ALTERED_COUNT = 128
# Share of the altered copies that the cut for the same picture may include at most. The rest are altered too much.
_COPIES_SHARE = 0.95


def calibrate(errors: Sequence[float], gallery: Gallery, encoder: Encoder) -> Calibration | None:
    """Measure the typical errors and distances of a gallery's images.

    Args:
        errors: Reconstruction errors of a sample of its images, mean squared, 0 or more.
        gallery: The gallery, with its index built. The nearest neighbours of a sample of its images are searched for.
        encoder: The encoder that made the gallery's codes. It encodes altered copies of a few thumbnails.

    Returns:
        The calibration; None if `errors` is empty or the gallery has fewer than two images.
    """
    distances: list[float] = []
    copies: list[float] = []
    for sample in islice(gallery.scroll(_BATCH_COUNT), _SAMPLE_COUNT // _BATCH_COUNT):
        queries = [Query(entry.code, SearchOptions(limit=1, exclude_keys=(entry.key,))) for entry in sample]
        distances += [hits[0].distance for hits in gallery.search_batch(queries) if hits]
        copies = copies or _copy_distances(sample[:_ALTERED_COUNT], encoder)
    if not (errors and distances):
        return None
    calibration = Calibration.from_samples(errors, distances)
    return replace(calibration, same_distance=_same_distance(copies, calibration)) if copies else calibration


def _same_distance(copies: Sequence[float], calibration: Calibration) -> float:
    """Return the distance that best tells altered copies of an image from the image's nearest neighbour.

    At this distance, the share of copies within it exceeds the share of nearest neighbours within it by the most
    (Youden's index). It includes at most 95 % of the copies. Duplicates in the gallery add to both shares alike, so
    they do not move the cut.

    Args:
        copies: Distances between images and their altered copies, at least one.
        calibration: Knows the distances between the gallery's images and their nearest neighbours.
    """
    cuts = np.quantile(copies, np.linspace(0, _COPIES_SHARE, round(100 * _COPIES_SHARE) + 1))
    excess = [percent - calibration.distance_percentile(cut) for percent, cut in enumerate(cuts)]
    return max(EXACT_DISTANCE, float(cuts[np.argmax(excess)]))


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
