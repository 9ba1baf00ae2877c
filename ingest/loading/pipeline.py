"""Source to gallery, batch by batch: reading, preparing, encoding and storing overlap. The parts are passed in."""

import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import Encoder
from encoder_service.errors import ImageError
from encoder_service.images import thumbnail_png
from gallery import Calibration, Entry, Gallery, Query, SearchOptions
from ingest.errors import SourceError
from ingest.loading.ledger import Ledger, Row, Status
from ingest.loading.prefetch import prefetch
from ingest.progress import Stages
from ingest.sources import Item, Source

# What waits between two stages is bounded in images and in bytes.
_BATCH = 1024
_BATCH_BYTES = 32 * 1024 * 1024
# Less than this is not worth a second thread: on small images, two would wait for each other.
_CHUNK_BYTES = 1024 * 1024
# So many of each batch are reconstructed, to learn how large an error is usual.
_SAMPLED = 128
# Fewer, and the 99th percentile is a matter of luck.
_NEIGHBOURS_SAMPLED = 5 * _BATCH
_VERIFIED = 64


@dataclass(slots=True)
class LoadSummary:
    """What a load did.

    Attributes:
        added: Images stored, new or changed.
        unchanged: Images that were there already, with the same content and label.
        duplicates: Images left out because the gallery has the same content under another key.
        rejected: Images that could not be read or decoded, now or before.
        pruned: Images removed because the source no longer has them.
        stopped: Whether the user stopped it before the source's end.
        samples: A few of the inputs that were encoded, by key, for `verify`.
        seconds: Time by stage: "read", "prepare", "encode", "store"; they overlap.
    """

    added: int = 0
    unchanged: int = 0
    duplicates: int = 0
    rejected: int = 0
    pruned: int = 0
    stopped: bool = False
    samples: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: "LoadSummary") -> None:
        """Add what another process did of the same load."""
        for name in ("added", "unchanged", "duplicates", "rejected", "pruned"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.stopped |= other.stopped
        self.samples |= other.samples
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = max(self.seconds.get(stage, 0.0), seconds)

    @property
    def seen(self) -> int:
        """How many images the source had."""
        return self.added + self.unchanged + self.duplicates + self.rejected

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to a stage."""
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


@dataclass(slots=True)
class Batch:
    """Images on their way, and what has been learned of them.

    Attributes:
        keys: All of them.
        new: Those to encode, with their hashes.
        known: The rows of those that the ledger has, unchanged.
        inputs: (n, h, w, c), those of `new` that could be decoded.
        rows: Their rows in the ledger.
        thumbnails: Their thumbnails.
        codes: (n, code_size), their codes.
        bad: Rows of those that could not be decoded.
    """

    keys: list[str]
    new: list[tuple[Item, str]]
    known: list[Row]
    inputs: NDArray[np.float32] | None = None
    rows: list[Row] = field(default_factory=list)
    thumbnails: list[bytes] = field(default_factory=list)
    codes: NDArray[np.float32] | None = None
    bad: list[Row] = field(default_factory=list)


def load(
    source: Source,
    encoder: Encoder,
    gallery: Gallery,
    ledger: Ledger,
    stages: Stages,
    *,
    dedupe: bool = False,
    prune: bool = False,
    stop: threading.Event | None = None,
) -> LoadSummary:
    """Bring a gallery up to date with a source: what is new or has changed is encoded and stored, no image twice.

    Args:
        source: Where the images come from.
        encoder: Makes the codes.
        gallery: Takes them.
        ledger: The gallery's own, in which the source has begun.
        stages: Shows how far it is.
        dedupe: Leave out images whose content is in the gallery under another key.
        prune: Remove the images that the source no longer has.
        stop: When set, the batches in hand are stored and the load ends.

    Raises:
        SourceError: The source has no image, or changed or went away while it was read.
        LookalikeError: A part failed. Batches stored before stay stored, and the next load goes on after them.
    """
    done = LoadSummary()
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="prepare") as pool:
        loading = Load(source, encoder, gallery, ledger, stages, dedupe, stop or threading.Event(), pool, done)
        loading.run(prune)
        _settle(loading, prune)
    return done


def _settle(loading: "Load", prune: bool) -> None:
    """After the pass through the source: remove what has left it, and see that no duplicate lost its original."""
    done = loading.done
    if not (done.seen or done.stopped):
        raise SourceError(f"{loading.source.name}: expected images, and found none")
    if done.stopped:
        return
    if prune:
        done.pruned += loading.ledger.prune(loading.gallery.delete)
    if loading.ledger.orphaned():
        # the images that these were duplicates of have changed or gone: go through the source for them alone
        added, done.unchanged, done.duplicates, done.rejected = done.added, 0, 0, 0
        loading.run(prune)
        done.unchanged -= added


@dataclass(slots=True)
class Load:
    """One pass through a source, as four steps that `run` lets overlap: read, prepare, encode, store.

    The attributes are what `load` was given, and what it returns.
    """

    source: Source
    encoder: Encoder
    gallery: Gallery
    ledger: Ledger
    stages: Stages
    dedupe: bool
    stop: threading.Event
    pool: ThreadPoolExecutor
    done: LoadSummary

    def run(self, prune: bool) -> None:
        """Go through the source once."""
        batches = prefetch(map(self.encode, prefetch(map(self.prepare, prefetch(self.read())))))
        with self.stages.stage("loading", self.source.count) as advance:
            for batch in batches:
                with self.done.timed("store"):
                    self.store(batch)
                    if prune:
                        self.ledger.see(batch.keys)
                advance(len(batch.keys), self.source.count)

    def read(self) -> Iterator[Batch]:
        """Read the source, and tell what is new from what the ledger has."""
        items = iter(self.source)
        while not self.stop.is_set():
            with self.done.timed("read"):
                taken, full = _take(items)
                batch = self._sorted(taken)
            if taken:
                yield batch
            if not full:
                return
        self.done.stopped = True

    def _sorted(self, items: list[Item]) -> Batch:
        """Tell what is new from what the ledger has."""
        rows = self.ledger.look_up([item.key for item in items])
        batch = Batch([item.key for item in items], [], [])
        originals = self.ledger.kept([row.sha256 for row in rows.values() if row.status is Status.DUPLICATE])
        for item in items:
            sha256, row = item.sha256, rows.get(item.key)
            if item.label is None:  # then an image keeps the label that it has
                item = replace(item, label=row.label if row else "")
            if row is None or self._is_to_do(item, sha256, row, sha256 in originals):
                batch.new.append((item, sha256))
            else:
                batch.known.append(row)
        return batch

    def _is_to_do(self, item: Item, sha256: str, row: Row, has_original: bool) -> bool:
        if not sha256 or (row.sha256, row.label) != (sha256, item.label):
            return True
        if row.status is Status.DUPLICATE:
            return not (self.dedupe and has_original)
        return row.status is Status.OK and bool(row.reason)

    def prepare(self, batch: Batch) -> Batch:
        """Decode, normalise and make thumbnails, on all processors."""
        with self.done.timed("prepare"):
            prepared = list(self.pool.map(self._prepare_chunk, _chunks(batch.new)))
            for _, rows, thumbnails, bad in prepared:
                batch.rows += rows
                batch.thumbnails += thumbnails
                batch.bad += bad
            whole = [inputs for inputs, *_ in prepared if len(inputs)]
            batch.inputs = np.concatenate(whole) if whole else None
            batch.new.clear()
        return batch

    def _prepare_chunk(
        self, items: Sequence[tuple[Item, str]]
    ) -> tuple[NDArray[np.float32], list[Row], list[bytes], list[Row]]:
        inputs, rows, thumbnails, bad = [], [], [], []
        for item, sha256 in items:
            try:
                image = item.image()
            except ImageError as error:
                bad.append(Row(item.key, Status.BAD, sha256, item.label or "", str(error)))
                continue
            # one at a time: a large picture is gone before the next is decoded
            inputs.append(self.encoder.normalise([image]))
            thumbnails.append(thumbnail_png(image))
            rows.append(Row(item.key, Status.OK, sha256, item.label or ""))
        return np.concatenate(inputs) if inputs else np.empty(0, np.float32), rows, thumbnails, bad

    def encode(self, batch: Batch) -> Batch:
        """Make the codes, and of some the reconstruction's error."""
        with self.done.timed("encode"):
            if batch.inputs is not None:
                batch.codes = self.encoder.encode(batch.inputs)
                errors = self.encoder.reconstruction_errors(batch.inputs[:_SAMPLED], batch.codes[:_SAMPLED])
                for index, error in enumerate(errors.tolist()):
                    batch.rows[index] = batch.rows[index]._replace(error=error)
                self._sample(batch)
                batch.inputs = None
        return batch

    def _sample(self, batch: Batch) -> None:
        """Keep the batch's first input, in place of an earlier one when there are enough."""
        samples = self.done.samples
        if len(samples) == _VERIFIED:
            samples.pop(random.choice(list(samples)))
        if batch.inputs is not None:
            samples[batch.rows[0].key] = batch.inputs[0].copy()

    def store(self, batch: Batch) -> None:
        """Store in the gallery, and when it has answered, in the ledger."""
        duplicates = self._duplicates(batch) if self.dedupe else {}
        entries, rows = [], []
        for index, (row, thumbnail) in enumerate(zip(batch.rows, batch.thumbnails, strict=True)):
            if row.key in duplicates:
                rows.append(row._replace(status=Status.DUPLICATE, reason=duplicates[row.key], error=None))
            else:
                assert batch.codes is not None
                entries.append(Entry(row.key, batch.codes[index], row.label, row.sha256, thumbnail))
                rows.append(row)
        left_out = [row for row in (*rows, *batch.bad) if row.status is not Status.OK]
        held = self.ledger.look_up([row.key for row in left_out])
        gone = []
        for row in left_out:
            before = held.get(row.key)
            if before is None or before.status is not Status.OK:
                continue
            if row.sha256:
                gone.append(row.key)
            else:  # it can't be read just now, and may be as it was
                rows.append(before._replace(reason=row.reason))
        self.gallery.delete(gone)
        self.gallery.upsert(entries)
        kept = {row.key for row in rows}
        self.ledger.record([*rows, *(row for row in batch.bad if row.key not in kept)])
        known = [row.status for row in batch.known]
        self.done.added += len(entries)
        self.done.unchanged += known.count(Status.OK)
        self.done.duplicates += len(duplicates) + known.count(Status.DUPLICATE)
        self.done.rejected += len(batch.bad) + known.count(Status.BAD)

    def _duplicates(self, batch: Batch) -> dict[str, str]:
        """Return, by key, of which other key an image of the batch is a duplicate."""
        first = self.ledger.kept([row.sha256 for row in batch.rows])
        duplicates = {}
        for row in batch.rows:
            original = first.setdefault(row.sha256, row.key)
            if original != row.key:
                duplicates[row.key] = original
        return duplicates


def _take(items: Iterator[Item]) -> tuple[list[Item], bool]:
    """Return the next batch, and whether there may be another."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.size
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            return batch, True
    return batch, False


def _chunks(items: list[tuple[Item, str]]) -> Iterator[list[tuple[Item, str]]]:
    """Yield the items in parts that are worth a thread each."""
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


def calibrate(errors: list[float], gallery: Gallery) -> Calibration | None:
    """Learn what is usual in a gallery, from sampled reconstruction errors and a sample of its nearest neighbours.

    Returns:
        None where the gallery has too few images to tell.
    """
    nearest: list[float] = []
    for sample in islice(gallery.scroll(_BATCH), _NEIGHBOURS_SAMPLED // _BATCH):
        queries = [Query(entry.code, SearchOptions(limit=1, exclude_keys=(entry.key,))) for entry in sample]
        nearest += [hits[0].distance for hits in gallery.search_batch(queries) if hits]
    return Calibration.from_samples(errors, nearest) if errors and nearest else None
