"""Evaluate a gallery.

Comparing labels measures the precision of its encoder. Comparing with exact search measures the recall of its index.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
from PIL import Image

from encoder_service.encoder import Encoder
from encoder_service.errors import ImageError
from encoder_service.images import thumbnail_png
from gallery import Entry, Gallery, Hit, Query, SearchOptions
from ingest.errors import SourceError
from ingest.progress import Stages
from ingest.sources import Item, Source

T = TypeVar("T")

# Number of hits per query: the k of precision@k, recall@k and mean average precision at k.
_NEIGHBOURS = 5
# Number of queries per batch of searches.
_BATCH = 64
# Number of queries shown in the report.
_WORST = 10


@dataclass(frozen=True, slots=True)
class Answered:
    """One query with its hits.

    Attributes:
        query: The query as an entry: key, code, label, thumbnail.
        hits: The nearest entries by exact search, nearest first.
        recall: Share of these hits that a search of the index finds too, 0 to 1.
    """

    query: Entry
    hits: list[Hit]
    recall: float

    @property
    def right(self) -> list[bool]:
        """True for each hit that has the query's label, in the order of the hits."""
        return [hit.label == self.query.label for hit in self.hits]

    @property
    def average_precision(self) -> float:
        """Mean of precision@k over the ranks k = 1 to 5, with 0 for each rank whose hit has another label."""
        right = self.right
        return sum(sum(right[: k + 1]) / (k + 1) for k in range(len(right)) if right[k]) / _NEIGHBOURS


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of an evaluation.

    The precisions come from exact search, so they measure the encoder alone. The recall measures the index: it is the
    share of the exact hits that a search of the index finds.

    Attributes:
        encoder: Name of the encoder.
        gallery_count: Number of images in the gallery.
        answered: Each query with its hits, without thumbnails.
        worst: The ten queries with the fewest hits of their own label, the worst first, with thumbnails. Of two queries
            with equally many such hits, the one whose first hit is nearer is worse.
    """

    encoder: str
    gallery_count: int
    answered: Sequence[Answered]
    worst: Sequence[Answered]

    def as_dict(self) -> dict[str, object]:
        """Return the figures as JSON-serialisable values."""
        by_label: dict[str, list[Answered]] = defaultdict(list)
        for answer in self.answered:
            by_label[answer.query.label].append(answer)
        index_recall = _mean(answer.recall for answer in self.answered)
        return {
            "precision_at_1": _mean(answer.right[:1] == [True] for answer in self.answered),
            "precision_at_5": _precision(self.answered),
            "map_at_5": _mean(answer.average_precision for answer in self.answered),
            "index_recall_at_5": index_recall,
            "recall_at_5": index_recall,  # the name in release 0.1
            "query_count": len(self.answered),
            "gallery_count": self.gallery_count,
            "encoder": self.encoder,
            "precision_at_5_by_label": {label: _precision(by_label[label]) for label in sorted(by_label)},
        }


def evaluate(
    gallery: Gallery, encoder: Encoder, queries: Source | None, sample: int | None, stages: Stages
) -> Evaluation:
    """Search a gallery for labelled images, and compare their labels with those of the hits.

    The entry with the query's own key is excluded from the hits.

    Args:
        gallery: The gallery to search.
        encoder: The encoder that made the gallery's codes.
        queries: Labelled images; None for the gallery's own images.
        sample: Maximum number of queries, spread evenly over the images; None for all images.
        stages: Displays the progress.

    Raises:
        SourceError: No query has a label, or the gallery is empty.
    """
    total = queries.count if queries is not None else gallery.count()
    if queries is not None:
        candidates = _from_source(_spread(queries, total, sample), encoder)
    else:
        candidates = _spread((entry for batch in gallery.scroll() for entry in batch), total, sample)
    answered: list[Answered] = []
    worst: list[Answered] = []
    count = min(sample, total or sample) if sample else total
    with stages.stage("searching", count, "query") as advance:
        entries = (entry for entry in candidates if entry.label)
        while batch := list(islice(entries, _BATCH)):
            found = _answer(gallery, batch)
            worst = sorted([*worst, *found], key=_goodness)[:_WORST]
            answered += map(_without_thumbnails, found)
            advance(len(batch))
    if not answered or not any(answer.hits for answer in answered):
        raise SourceError(
            "expected queries with labels and a gallery with images, got none: name labelled images with --queries"
        )
    return Evaluation(gallery.spec.encoder, gallery.count(), answered, worst)


def _spread(items: Iterable[T], total: int | None, sample: int | None) -> Iterator[T]:
    """Yield `sample` of the items, evenly spread over `total`; the first ones if `total` is unknown."""
    if sample is None or not total:
        yield from islice(items, sample)
        return
    for index, item in enumerate(islice(items, total)):
        if (index + 1) * sample // total > index * sample // total:
            yield item


def _from_source(items: Iterable[Item], encoder: Encoder) -> Iterator[Entry]:
    for item in items:
        try:
            image = item.image()
        except ImageError:
            continue
        yield Entry(item.key, encoder.encode_images([image])[0], item.label or "", item.sha256, thumbnail_png(image))


def _goodness(answer: Answered) -> tuple[int, float]:
    return sum(answer.right), answer.hits[0].distance if answer.hits else 0.0


def _without_thumbnails(answer: Answered) -> Answered:
    hits = [replace(hit, thumbnail_png=b"") for hit in answer.hits]
    return replace(answer, query=replace(answer.query, thumbnail_png=b""), hits=hits)


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
        Answered(entry, exact_hits, _recall(exact_hits, index_hits))
        for entry, exact_hits, index_hits in zip(batch, hits(exact=True), hits(exact=False), strict=True)
    ]


def _recall(exact_hits: list[Hit], index_hits: list[Hit]) -> float:
    """Return the share of the exact hits that the index found.

    Because ties come in any order, any hit that is not farther than the last exact hit counts as found.
    """
    if not exact_hits:
        return 1.0
    farthest = exact_hits[-1].distance * (1 + 1e-5) + 1e-6
    return sum(hit.distance <= farthest for hit in index_hits) / len(exact_hits)


def _precision(answered: Sequence[Answered]) -> float:
    return _mean(sum(answer.right) / _NEIGHBOURS for answer in answered)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def picture(entry: Entry) -> Image.Image | None:
    """Return an entry's thumbnail as an image; None if it has no thumbnail."""
    return Image.open(io.BytesIO(entry.thumbnail_png)) if entry.thumbnail_png else None
