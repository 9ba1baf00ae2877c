"""The summary of a load, and the batches that its stages hand on: `Read`, then `Prepared`, then `Encoded`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ingest.loading.ledger import Row
from ingest.sources import Item

# Largest size of a batch, in images and in bytes. The limit on images bounds the work that a killed load has to repeat.
# The limit on bytes bounds the memory of a load, in which each stage holds up to three batches.
BATCH_COUNT = 1024
_BATCH_BYTES = 32 * 1024 * 1024
# Bytes of images in a chunk, which one thread prepares. With smaller chunks, threads that decode small images would
# often wait for each other.
_CHUNK_BYTES = 1024 * 1024

_COUNTS = (
    "added",
    "unchanged",
    "relabelled",
    "duplicates",
    "rejected",
    "pruned",
    "held",
    "unpruned",
    "kept",
    "left_out",
)


@dataclass(slots=True)
class LoadSummary:
    """Counts and times of a load.

    Attributes:
        added: Number of images stored, either new or with other content.
        unchanged: Number of images stored before, with the same content and label.
        relabelled: Number of images stored before, with the same content and another label.
        duplicates: Number of images left out because the gallery has the same content under another key.
        rejected: Number of images that could not be read or decoded.
        pruned: Number of images removed because the source no longer has them.
        held: Number of changed images that have not replaced the stored ones, because too many images were bad, the
            load was stopped, or a service keeps the stored ones.
        unpruned: Number of images that the source no longer has, kept because they are more than half of its images.
        kept: Number of images, added by services or loaded from other sources, that a rebuild has copied from the live
            version.
        left_out: Number of images, added by services or loaded from other sources, that the rebuilt version lacks.
        kept_labels: Number of images whose labels a rebuild has taken over from the live version.
        stopped: Whether the user stopped the load before the source's end.
        samples: SHA-256 and input, (h, w, c), of a few of the encoded images, by key, for the verification.
        notes: Lines for the user; see `Source.notes`.
        seconds: Seconds by stage: "read", "prepare", "encode", "store". The stages overlap.
    """

    added: int = 0
    unchanged: int = 0
    relabelled: int = 0
    duplicates: int = 0
    rejected: int = 0
    pruned: int = 0
    held: int = 0
    unpruned: int = 0
    kept: int = 0
    left_out: int = 0
    kept_labels: int = 0
    stopped: bool = False
    samples: dict[str, tuple[str, NDArray[np.float32]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add_share(self, other: "LoadSummary") -> None:
        """Add the summary of a worker that loaded another share of the source at the same time."""
        for name in (*_COUNTS, "kept_labels"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.notes = other.notes  # the same for all workers, as each reads the whole source
        self.stopped |= other.stopped
        self.samples |= other.samples
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = max(self.seconds.get(stage, 0.0), seconds)

    def add_second_pass(self, other: "LoadSummary") -> None:
        """Add the summary of a second pass through the same source, which has stored some of the duplicates."""
        self.added += other.added
        self.duplicates = max(0, self.duplicates - other.added)
        self.stopped |= other.stopped
        self.samples |= other.samples
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def counts(self) -> dict[str, int]:
        """Return all counts except `kept_labels`, by name."""
        return {name: getattr(self, name) for name in _COUNTS}

    @property
    def seen(self) -> int:
        """Number of images that the source had."""
        return self.added + self.unchanged + self.relabelled + self.duplicates + self.rejected + self.held

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure the duration of the block, and add it to the seconds of a stage."""
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class Read:
    """A batch as read, compared with the ledger.

    Attributes:
        keys: Keys of all its images.
        known: Rows of the images that are unchanged since the ledger recorded them.
        new: The other images, each with the SHA-256 of its content.
    """

    keys: list[str]
    known: list[Row]
    new: list[tuple[Item, str]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch whose new images have been decoded.

    Attributes:
        keys: Keys of all its images.
        known: Rows of the images that are unchanged since the ledger recorded them.
        bad: Rows of the images that could not be decoded.
        rows: Rows of the n images that were decoded.
        inputs: (n, h, w, c), their inputs, values in [0, 1].
        thumbnails: Their thumbnails, as PNG.
    """

    keys: list[str]
    known: list[Row]
    bad: list[Row]
    rows: list[Row]
    inputs: NDArray[np.float32]
    thumbnails: list[bytes]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch whose new images have been encoded.

    Attributes:
        keys: Keys of all its images.
        known: Rows of the images that are unchanged since the ledger recorded them.
        bad: Rows of the images that could not be decoded.
        rows: Rows of the n images that were encoded, some with their reconstruction error.
        codes: (n, code_size), their codes.
        thumbnails: Their thumbnails, as PNG.
    """

    keys: list[str]
    known: list[Row]
    bad: list[Row]
    rows: list[Row]
    codes: NDArray[np.float32]
    thumbnails: list[bytes]


def take_batch(items: Iterator[Item]) -> tuple[list[Item], bool]:
    """Return the next batch of items, and whether there may be another one."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.size
        if len(batch) == BATCH_COUNT or size >= _BATCH_BYTES:
            return batch, True
    return batch, False


def chunks(items: list[tuple[Item, str]]) -> Iterator[list[tuple[Item, str]]]:
    """Yield the items in chunks, each for one thread."""
    chunk: list[tuple[Item, str]] = []
    size = 0
    for item, sha256 in items:
        chunk.append((item, sha256))
        size += item.size
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
