"""A load's summary, and its batches on their way from the source to the gallery: one type for each stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ingest.loading.ledger import Row
from ingest.sources import Item

# A batch ends at this many images or bytes, whichever comes first. Each stage holds up to three batches, so the bytes
# bound a loader's memory. The images bound the work that a killed load has to repeat.
BATCH_COUNT = 1024
_BATCH_BYTES = 32 * 1024 * 1024
# Bytes of images that one thread prepares at a time. With fewer, threads that decode small images wait for each other.
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
        added: Images stored, either new or with other content.
        unchanged: Images stored before, with the same content and label.
        relabelled: Images stored before, with the same content and another label.
        duplicates: Images left out because the gallery has the same content under another key.
        rejected: Images that could not be read or decoded, in this load or an earlier one.
        pruned: Images removed because the source no longer has them.
        held: Images whose keys are stored with other content that has not, or not yet, been replaced.
        unpruned: Images that the source no longer has, kept because they are more than half of its images.
        kept: Images that a rebuild has taken over from the live version, though the source does not have them.
        left_out: Images of the live version that came in other ways, and that a rebuild has left out.
        kept_labels: Images whose labels a rebuild has taken over from the live version.
        stopped: The user stopped the load before the source's end.
        samples: SHA-256 and input, (h, w, c), of a few of the encoded images, by key, for the verification.
        notes: Lines on what the source left out or found.
        seconds: Time by stage: "read", "prepare", "encode", "store". The stages overlap.
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
        self.notes = other.notes  # every worker reads the whole source
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
        """Return the counts by name, in the order above."""
        return {name: getattr(self, name) for name in _COUNTS}

    @property
    def seen(self) -> int:
        """Number of images that the source had."""
        return self.added + self.unchanged + self.relabelled + self.duplicates + self.rejected + self.held

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to a stage."""
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class Read:
    """A batch as read, compared with the ledger.

    Attributes:
        keys: Keys of all its images.
        known: Rows of the images that the ledger has unchanged.
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
        known: Rows of the images that the ledger has unchanged.
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
        known: Rows of the images that the ledger has unchanged.
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
    """Yield the items in chunks for one thread each."""
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
