"""How well a gallery answers: its encoder's part by labels, its index's part against exact search."""

import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from encoder_service.encoder import Encoder
from encoder_service.errors import ImageError
from encoder_service.images import thumbnail_png
from gallery import Entry, Gallery, Hit, Query, SearchOptions
from ingest.errors import SourceError
from ingest.progress import Stages
from ingest.sources import Source

_NEIGHBOURS = 5
_BATCH = 64
_WORST = 10


@dataclass(frozen=True, slots=True)
class Answered:
    """One query with its hits.

    Attributes:
        query: The query as an entry: key, code, label, thumbnail.
        hits: Its nearest, by exact search.
        recall: Which part of them the index found.
    """

    query: Entry
    hits: list[Hit]
    recall: float

    @property
    def right(self) -> list[bool]:
        """Which hits have the query's label."""
        return [hit.label == self.query.label for hit in self.hits]

    @property
    def average_precision(self) -> float:
        """Mean of precision@k over the ranks k, 1 to 5, that hold a right hit; a wrong rank counts 0."""
        right = self.right
        return sum(sum(right[: k + 1]) / (k + 1) for k in range(len(right)) if right[k]) / _NEIGHBOURS


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    The precisions and the average precision are the encoder's doing: they are of exact search. The recall is the
    index's: which part of the exact hits it finds.

    Attributes:
        encoder: Name of the encoder.
        gallery_count: Images in the gallery.
        answered: Each query with its hits.
    """

    encoder: str
    gallery_count: int
    answered: Sequence[Answered]

    def as_dict(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        by_label: dict[str, list[Answered]] = defaultdict(list)
        for one in self.answered:
            by_label[one.query.label].append(one)
        return {
            "precision_at_1": _mean(one.right[:1] == [True] for one in self.answered),
            "precision_at_5": _precision(self.answered),
            "map_at_5": _mean(one.average_precision for one in self.answered),
            "recall_at_5": _mean(one.recall for one in self.answered),
            "query_count": len(self.answered),
            "gallery_count": self.gallery_count,
            "encoder": self.encoder,
            "precision_at_5_by_label": {label: _precision(by_label[label]) for label in sorted(by_label)},
        }

    def worst(self) -> list[Answered]:
        """Return the queries with the fewest right hits, the nearest wrong ones first."""
        ranked = sorted(self.answered, key=lambda one: (sum(one.right), one.hits[0].distance if one.hits else 0.0))
        return ranked[:_WORST]


def evaluate(
    gallery: Gallery, encoder: Encoder, queries: Source | None, sample: int | None, stages: Stages
) -> Evaluation:
    """Search a gallery for labelled images and compare what comes back.

    A query that the gallery holds under the same key never answers itself.

    Args:
        gallery: What to search.
        encoder: The one that made the gallery's codes.
        queries: Labelled images; None takes them from the gallery itself.
        sample: At most so many queries, spread evenly; None for all.
        stages: Shows how far it is.

    Raises:
        SourceError: No query has a label, or the gallery is empty.
    """
    total = (queries.count or 0) if queries is not None else gallery.count()
    step = max(1, total // sample) if sample else 1
    every = _from_source(queries, encoder, step) if queries is not None else _from_gallery(gallery, step)
    answered: list[Answered] = []
    wanted = -(-total // step) if sample is None else min(sample, total or sample)
    with stages.stage("searching", wanted or None, "queries") as advance:
        entries = islice((entry for entry in every if entry.label), wanted or None)
        while batch := list(islice(entries, _BATCH)):
            answered += _answer(gallery, batch)
            advance(len(batch))
    if not answered or not any(one.hits for one in answered):
        raise SourceError("expected queries with labels and a gallery with images, got none: name some with --queries")
    return Evaluation(gallery.spec.encoder, gallery.count(), answered)


def _from_source(source: Source, encoder: Encoder, step: int) -> Iterable[Entry]:
    for item in islice(source, 0, None, step):
        try:
            image = item.image()
        except ImageError:
            continue  # a query that is no image asks nothing
        yield Entry(item.key, encoder.encode_images([image])[0], item.label or "", item.sha256, thumbnail_png(image))


def _from_gallery(gallery: Gallery, step: int) -> Iterable[Entry]:
    return islice((entry for batch in gallery.scroll() for entry in batch), 0, None, step)


def _answer(gallery: Gallery, batch: list[Entry]) -> list[Answered]:
    def hits(exact: bool) -> list[list[Hit]]:
        return gallery.search_batch(
            [
                Query(
                    entry.code,
                    SearchOptions(limit=_NEIGHBOURS, exclude_keys=(entry.key,), exact=exact, with_thumbnails=exact),
                )
                for entry in batch
            ]
        )

    return [
        Answered(entry, truth, _recall(truth, found))
        for entry, truth, found in zip(batch, hits(exact=True), hits(exact=False), strict=True)
    ]


def _recall(truth: list[Hit], found: list[Hit]) -> float:
    """Return which part of the exact hits was found; one as near as the farthest of them is as good."""
    if not truth:
        return 1.0
    farthest = truth[-1].distance * (1 + 1e-5) + 1e-6
    return sum(hit.distance <= farthest for hit in found) / len(truth)


def _precision(answered: Sequence[Answered]) -> float:
    return _mean(sum(one.right) / _NEIGHBOURS for one in answered)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def picture(entry: Entry) -> Image.Image | None:
    """Return an entry's thumbnail as an image; None where it has none."""
    return Image.open(io.BytesIO(entry.thumbnail_png)) if entry.thumbnail_png else None
