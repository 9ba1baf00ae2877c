"""Lay a gallery's codes out in the plane by t-SNE, so that similar images are close together."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from gallery import Entry, Gallery
from gallery.errors import InvalidInputError
from gallery.map import MAX_PLACE, GalleryMap
from ingest.progress import Stages

SAMPLE_COUNT = 100_000
"""Maximum number of images that t-SNE lays out. It bounds the time and the memory."""
# Images per batch that is read.
_BATCH_COUNT = 4096
# Neighbours of each image that attract it, all with the same weight. The layout is nearly that of a perplexity of 30,
# which needs 90 neighbours (Böhm, Berens and Kobak 2022, arXiv 2007.08902).
_ATTRACTING_COUNT = 15
# An image outside of the sample gets the mean place of this many images.
_PLACING_COUNT = 5
# Steps with stronger attraction, which form the groups, and steps that spread them out. Both are openTSNE's defaults.
_GATHERING_STEPS, _SPREADING_STEPS = 250, 500
_GATHERING_EXAGGERATION = 12
# Steps between two reports of progress.
_REPORT_STEPS = 10
_SEED = 0
# Minimum images of a map. Each needs a neighbour.
_LEAST_COUNT = 2

Place = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Returns a place, (n, 2), for each code, (n, code_size)."""


def lay_out(gallery: Gallery, stages: Stages, sample_count: int = SAMPLE_COUNT) -> GalleryMap:
    """Give each image of a gallery a place in the plane.

    t-SNE lays out a sample of the images. Each other image gets the mean place of the images of the sample that are
    nearest to it. The same codes always get the same places on the same processor.

    Args:
        gallery: The gallery.
        stages: Displays the progress.
        sample_count: Maximum number of images of the sample, about. Memory holds the codes of the sample alone.

    Raises:
        InvalidInputError: The gallery has fewer than two images.
    """
    count = gallery.count()
    if count < _LEAST_COUNT:
        raise InvalidInputError(
            f"gallery '{gallery.spec.name}': expected at least {_LEAST_COUNT} images for a map, got {count}"
        )
    share = sample_count / count
    with stages.stage("reading", count) as advance:
        sample = sorted(
            (entry for entry in _entries(gallery, advance) if share >= 1 or _is_sampled(entry.key, share)),
            key=lambda entry: entry.key,
        )
    codes = np.array([entry.code for entry in sample], np.float32)  # (n, code_size)
    places, place_others = _layout(codes, stages)
    keys = [entry.key for entry in sample]
    labels = [entry.label for entry in sample]
    if share < 1:
        known = set(keys)
        others = [places]
        with stages.stage("placing", count - len(sample)) as advance:
            for batch in gallery.scroll(_BATCH_COUNT):
                new = [entry for entry in batch if entry.key not in known]
                if new:
                    others.append(place_others(np.array([entry.code for entry in new], np.float32)))
                    keys += [entry.key for entry in new]
                    labels += [entry.label for entry in new]
                advance(len(new))
        places = np.concatenate(others)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return GalleryMap([keys[i] for i in order], [labels[i] for i in order], _scaled(places[order]))


def _entries(gallery: Gallery, advance: Callable[[int], None]) -> Iterator[Entry]:
    """Yield the entries without their thumbnails, which would fill memory."""
    for batch in gallery.scroll(_BATCH_COUNT):
        for entry in batch:
            yield Entry(entry.key, entry.code, entry.label)
        advance(len(batch))


def _is_sampled(key: str, share: float) -> bool:
    """Return whether an image belongs to the sample. This depends on its key alone, not on the order of the images."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _layout(codes: NDArray[np.float32], stages: Stages) -> tuple[NDArray[np.float64], Place]:
    """Lay codes, (n, code_size), out by t-SNE.

    Returns:
        The places, (n, 2), and a function that places further codes.
    """
    # imported here, because it takes seconds and most commands do not need it
    from openTSNE import TSNEEmbedding, affinity, initialization

    count = len(codes)
    with stages.stage("finding neighbours", None):
        affinities = affinity.Uniform(
            codes,
            k_neighbors=min(_ATTRACTING_COUNT, count - 1),
            # openTSNE's own seeded index, which also finds the neighbours of the images outside of the sample. The
            # gallery's index could not search the sample alone.
            method="annoy",
            n_jobs=1,
            random_state=_SEED,
        )
        start = initialization.pca(codes, random_state=_SEED)
    embedding = TSNEEmbedding(
        start, affinities, n_jobs=1, random_state=_SEED, negative_gradient_method="fft" if count > 1000 else "bh"
    )
    with stages.stage("laying out", _GATHERING_STEPS + _SPREADING_STEPS, "step") as advance:

        def report(step: int, error: float, places: object) -> None:
            advance(_REPORT_STEPS)

        for steps, exaggeration, momentum in (
            (_GATHERING_STEPS, _GATHERING_EXAGGERATION, 0.5),
            (_SPREADING_STEPS, 1, 0.8),
        ):
            embedding.optimize(
                steps,
                exaggeration=exaggeration,
                momentum=momentum,
                learning_rate="auto",
                inplace=True,
                callbacks=report,
                callbacks_every_iters=_REPORT_STEPS,
            )
    places = np.asarray(embedding, np.float64)

    def place(others: NDArray[np.float32]) -> NDArray[np.float64]:
        indexes, distances = affinities.knn_index.query(others, k=min(_PLACING_COUNT, count))  # (n, k) each
        weights = 1 / np.maximum(distances, 1e-6)
        total = weights.sum(axis=1, keepdims=True)
        return np.asarray((places[indexes] * (weights / total)[:, :, None]).sum(axis=1))

    return places, place


def _scaled(places: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Scale places, (n, 2), to the square of a map, and centre them. Proportions are kept."""
    low, high = places.min(axis=0), places.max(axis=0)
    size = max(float((high - low).max()), 1e-9)
    centred = (places - (low + high) / 2) / size + 0.5
    scaled: NDArray[np.uint16] = np.rint(centred * MAX_PLACE).clip(0, MAX_PLACE).astype(np.uint16)
    return scaled
