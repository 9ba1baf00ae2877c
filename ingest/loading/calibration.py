"""Calibration: measure the typical reconstruction errors and neighbour distances of a gallery's images."""

from collections.abc import Sequence
from itertools import islice

from gallery import Calibration, Gallery, Query, SearchOptions

# Images per batch of searches.
_BATCH_COUNT = 1024
# Number of images whose distance to the nearest neighbour is measured. With fewer, the 99th percentile would be noise.
_SAMPLE_COUNT = 5 * _BATCH_COUNT


def calibrate(errors: Sequence[float], gallery: Gallery) -> Calibration | None:
    """Measure the typical errors and distances of a gallery's images.

    Args:
        errors: Reconstruction errors of a sample of its images, mean squared, 0 or more.
        gallery: The gallery, with its index built. The nearest neighbours of a sample of its images are searched for.

    Returns:
        The calibration; None if `errors` is empty or the gallery has fewer than two images.
    """
    distances: list[float] = []
    for sample in islice(gallery.scroll(_BATCH_COUNT), _SAMPLE_COUNT // _BATCH_COUNT):
        queries = [Query(entry.code, SearchOptions(limit=1, exclude_keys=(entry.key,))) for entry in sample]
        distances += [hits[0].distance for hits in gallery.search_batch(queries) if hits]
    return Calibration.from_samples(errors, distances) if errors and distances else None
