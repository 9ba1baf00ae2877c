"""Source to gallery, batch by batch. The parts are passed in."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from encoder_service.encoder import Encoder
from encoder_service.images import thumbnail_png
from gallery import Calibration, Entry, Gallery, Query, SearchOptions
from ingest.progress import Stages
from ingest.sources import Item, Source

_BATCH = 1024
# So many of each batch are reconstructed, to learn how large an error is usual.
_SAMPLED = 128
_NEIGHBOURS_SAMPLED = 1000


@dataclass(slots=True)
class Loaded:
    """What a load did.

    Attributes:
        added: Images stored, new or changed.
        unchanged: Images that were there already, with the same content and label.
        errors: Reconstruction errors of a sample of the images.
        seconds: Time by stage: "read", "encode", "store".
    """

    added: int = 0
    unchanged: int = 0
    errors: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to a stage."""
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


def load(source: Source, encoder: Encoder, gallery: Gallery, stages: Stages) -> Loaded:
    """Read, encode and store what the gallery does not hold yet.

    Raises:
        LookalikeError: A part failed; whole batches stored before stay stored.
    """
    done = Loaded()
    items = iter(source)
    with stages.stage("encoding", len(source)) as encoded, stages.stage("storing", len(source)) as stored:
        while True:
            with done.timed("read"):
                batch = list(islice(items, _BATCH))
            if not batch:
                return done
            with done.timed("store"):
                new = _new_items(batch, gallery)
            with done.timed("encode"):
                entries = _entries(new, encoder)
                done.errors += _errors(batch[:_SAMPLED], encoder)
            encoded(len(batch))
            with done.timed("store"):
                gallery.upsert(entries)
            stored(len(batch))
            done.added += len(new)
            done.unchanged += len(batch) - len(new)


def _new_items(batch: list[Item], gallery: Gallery) -> list[Item]:
    held = gallery.get([item.key for item in batch])
    return [
        item
        for item, entry in zip(batch, held, strict=True)
        if entry is None or (entry.sha256, entry.label) != (item.sha256, item.label)
    ]


def _entries(items: list[Item], encoder: Encoder) -> list[Entry]:
    codes = encoder.encode_images([item.image for item in items])
    return [
        Entry(item.key, code, item.label, item.sha256, thumbnail_png(item.image))
        for item, code in zip(items, codes, strict=True)
    ]


def _errors(items: list[Item], encoder: Encoder) -> list[float]:
    inputs = encoder.normalise([item.image for item in items])
    errors: list[float] = encoder.reconstruction_errors(inputs, encoder.encode(inputs)).tolist()
    return errors


def calibrate(errors: list[float], gallery: Gallery) -> Calibration | None:
    """Learn what is usual in a gallery, from sampled reconstruction errors and a sample of its nearest neighbours.

    Returns:
        None where the gallery has too few images to tell.
    """
    sample = next(gallery.scroll(_NEIGHBOURS_SAMPLED), [])
    queries = [Query(entry.code, SearchOptions(limit=1, exclude_keys=(entry.key,))) for entry in sample]
    nearest = [hits[0].distance for hits in gallery.search_batch(queries) if hits]
    return Calibration.of(errors, nearest) if errors and nearest else None
