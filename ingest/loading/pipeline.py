"""The pipeline of a load. Four stages, `read`, `prepare`, `encode` and `store`, run at the same time.

Each stage works on another batch.
"""

import os
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import Encoder
from encoder_service.errors import ImageError
from encoder_service.images import flatness, thumbnail_png
from encoder_service.limits import LIMITS
from gallery import Entry, Gallery
from gallery.deadline import waits_end_with
from gallery.spec import relative_error
from ingest.loading.batches import Encoded, LoadSummary, Prepared, Read, chunks, take_batch
from ingest.loading.ledger import Ledger, Row, Status
from ingest.loading.prefetch import prefetch
from ingest.loading.staging import Staging
from ingest.progress import Stages
from ingest.sources import Item, Source

# Number of codes per batch that are decoded to measure the reconstruction error.
_RECONSTRUCTED_COUNT = 128
# Number of inputs kept for the verification of the version, which encodes them again.
_SAMPLE_COUNT = 64


def load(
    source: Source,
    encoder: Encoder,
    gallery: Gallery,
    ledger: Ledger,
    stages: Stages,
    *,
    staging: Staging | None = None,
    live: Ledger | None = None,
    stop: threading.Event | None = None,
) -> LoadSummary:
    """Encode and store the images of a source that are new or have changed, in one pass.

    Args:
        source: The images.
        encoder: Encodes them.
        gallery: Stores the codes.
        ledger: The gallery's ledger.
        stages: Displays the progress.
        staging: Holds changed images until `LoadPass.replace_staged`; None to replace the stored images at once.
        live: Ledger of the version that a rebuild replaces, whose labels are kept; None if there is no such version.
        stop: When this is set, the load stores the batches in flight and ends. It no longer waits for a server that
            can't be reached.

    Raises:
        SourceError: The source changed or disappeared while it was read.
        LookalikeError: The source, the encoder or the gallery failed. Stored batches stay stored, and the next load
            resumes after them.
    """
    stop = stop or threading.Event()
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="prepare") as pool, waits_end_with(stop):
        return LoadPass(source, encoder, gallery, ledger, stages, pool, False, stop, staging, live).run()


@dataclass(frozen=True, slots=True)
class LoadPass:
    """One pass through a source. `run` runs the stages `read`, `prepare`, `encode` and `store` at the same time.

    Attributes:
        source, encoder, gallery, ledger, stages, stop, staging, live: The arguments of `load`.
        pool: Threads that prepare images.
        dedupe: Leave out images whose content the gallery has under another key.
        summary: Counts and times of the pass so far.
    """

    source: Source
    encoder: Encoder
    gallery: Gallery
    ledger: Ledger
    stages: Stages
    pool: ThreadPoolExecutor
    dedupe: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    staging: Staging | None = None
    live: Ledger | None = None
    summary: LoadSummary = field(default_factory=LoadSummary)

    def run(self, *, mark_seen: bool = False) -> LoadSummary:
        """Load the new and changed images of the source.

        Args:
            mark_seen: Pass all keys of the source to `Ledger.see`, so that `Ledger.prune` can remove all other images.
        """
        batches = prefetch(map(self.encode, prefetch(map(self.prepare, prefetch(self.read())))))
        adopt = self.ledger.has_unknown_source()
        with self.stages.stage("loading", self.source.count) as advance:
            for batch in batches:
                with self.summary.timed("store"):
                    self.store(batch)
                    if adopt:
                        self.ledger.adopt(batch.keys, self.source)
                    if mark_seen:
                        self.ledger.see(batch.keys)
                advance(len(batch.keys), self.source.count)
        self.summary.notes = list(self.source.notes)
        return self.summary

    def read(self) -> Iterator[Read]:
        """Read the source, and compare it with the ledger."""
        items = iter(self.source)
        while not self.stop.is_set():
            with self.summary.timed("read"):
                batch, may_have_more = take_batch(items)
                compared = self._compare(batch)
            if batch:
                yield compared
            if not may_have_more:
                return
        self.summary.stopped = True

    def _compare(self, items: list[Item]) -> Read:
        """Separate images that are new or have changed from those that are unchanged since the ledger recorded them."""
        keys = [item.key for item in items]
        rows = self.ledger.look_up(keys)
        live_rows = self.live.look_up([key for key in keys if key not in rows]) if self.live else {}
        originals = self.ledger.originals([row.sha256 for row in rows.values() if row.status is Status.DUPLICATE])
        known: list[Row] = []
        new: list[tuple[Item, str]] = []
        for item in items:
            sha256, row = item.sha256, rows.get(item.key)
            if item.label is None:  # the source has no labels: keep the stored label
                stored = row or live_rows.get(item.key)
                item = replace(item, label=stored.label if stored else "")
                self.summary.kept_labels += bool(item.label and not row)
            if row is None or self._must_load(item, sha256, row, sha256 in originals):
                new.append((item, sha256))
            else:
                known.append(row)
        return Read(keys, known, new)

    def _must_load(self, item: Item, sha256: str, row: Row, has_original: bool) -> bool:
        if not sha256 or (row.sha256, row.label) != (sha256, item.label):
            return True
        if row.status is Status.DUPLICATE:
            return not (self.dedupe and has_original)
        # a bad image may be good now, with another option or an extra that has been installed
        return row.status is Status.BAD or bool(row.reason)

    def prepare(self, batch: Read) -> Prepared:
        """Decode and normalise the images and make their thumbnails, on all processors."""
        with self.summary.timed("prepare"):
            inputs, rows, thumbnails, bad = [np.empty((0, *self.encoder.spec.input_shape), np.float32)], [], [], []
            for part in self.pool.map(self._prepare_chunk, chunks(batch.new)):
                inputs += part[0]
                rows += part[1]
                thumbnails += part[2]
                bad += part[3]
            return Prepared(batch.keys, batch.known, bad, rows, np.concatenate(inputs), thumbnails)

    def _prepare_chunk(
        self, items: Sequence[tuple[Item, str]]
    ) -> tuple[list[NDArray[np.float32]], list[Row], list[bytes], list[Row]]:
        """Return inputs, (1, h, w, c) each, rows and thumbnails of the good images, and rows of the bad ones."""
        inputs, rows, thumbnails, bad = [], [], [], []
        for item, sha256 in items:
            try:
                _check_names(item)
                image = item.image()
            except ImageError as error:
                bad.append(Row.bad(item.key, str(error), sha256, item.label or ""))
                continue
            # normalise each image alone, so that a large one is freed before the next one is decoded
            inputs.append(self.encoder.normalise([image]))
            thumbnails.append(thumbnail_png(image))
            rows.append(Row(item.key, Status.OK, sha256, item.label or ""))
        return inputs, rows, thumbnails, bad

    def encode(self, batch: Prepared) -> Encoded:
        """Encode the inputs, and measure the reconstruction errors of some of them."""
        rows = list(batch.rows)
        codes = np.empty((0, self.encoder.spec.code_size), np.float32)
        with self.summary.timed("encode"):
            if rows:
                codes = self.encoder.encode(batch.inputs)
                inputs = batch.inputs[:_RECONSTRUCTED_COUNT]
                errors = self.encoder.reconstruction_errors(inputs, codes[:_RECONSTRUCTED_COUNT])
                for index, measured in enumerate(zip(errors.tolist(), flatness(inputs).tolist(), strict=True)):
                    rows[index] = rows[index]._replace(error=relative_error(*measured))
                self._sample(rows[0], batch.inputs[0])
        return Encoded(batch.keys, batch.known, batch.bad, rows, codes, batch.thumbnails)

    def _sample(self, row: Row, values: NDArray[np.float32]) -> None:
        """Keep an input for the verification. If `_SAMPLE_COUNT` inputs are kept already, drop a random one first."""
        samples = self.summary.samples
        if len(samples) == _SAMPLE_COUNT:
            samples.pop(random.choice(list(samples)))
        samples[row.key] = (row.sha256, values.copy())

    def store(self, batch: Encoded) -> None:
        """Store the new images, stage the changed ones, and record the bad ones.

        If the file of a stored image has become bad, the stored image stays.
        """
        rows = self.ledger.look_up([row.key for row in (*batch.rows, *batch.bad)])
        stored = {row.key: row for row in rows.values() if row.status is Status.OK}
        changed = [bool(self.staging) and row.key in stored for row in batch.rows]
        unchanged = [not value for value in changed]
        if self.staging:
            self.staging.add(
                *(list(compress(values, changed)) for values in (batch.rows, batch.codes, batch.thumbnails))
            )
            self.summary.held += sum(changed)
        self._store(*(list(compress(values, unchanged)) for values in (batch.rows, batch.codes, batch.thumbnails)))
        self.ledger.record(
            (stored[row.key]._replace(reason=row.reason) if row.key in stored else row for row in batch.bad),
            self.source,
        )
        known = [row.status for row in batch.known]
        self.summary.unchanged += known.count(Status.OK)
        self.summary.duplicates += known.count(Status.DUPLICATE)
        self.summary.rejected += len(batch.bad)

    def replace_staged(self) -> None:
        """Replace the stored images by the staged ones."""
        if self.staging and self.summary.held:
            with self.stages.stage("replacing", self.summary.held) as advance, self.summary.timed("store"):
                for rows, codes, thumbnails in self.staging.batches():
                    self._store(rows, codes, thumbnails)
                    advance(len(rows))
            self.staging.clear()
            self.summary.held = 0

    def _store(self, rows: Sequence[Row], codes: Iterable[NDArray[np.float32]], thumbnails: Iterable[bytes]) -> None:
        """Store images in the gallery, and record them in the ledger once the gallery has acknowledged them."""
        duplicates = self._duplicates(rows) if self.dedupe else {}
        entries, recorded = [], []
        for row, code, thumbnail in zip(rows, codes, thumbnails, strict=True):
            if row.key in duplicates:
                recorded.append(row._replace(status=Status.DUPLICATE, reason=duplicates[row.key], error=None))
            else:
                entries.append(Entry(row.key, code, row.label, row.sha256, thumbnail))
                recorded.append(row)
        known = self.ledger.look_up([row.key for row in rows])
        stored = {key: row for key, row in known.items() if row.status is Status.OK}
        self.gallery.delete([key for key in duplicates if key in stored])
        self.gallery.upsert(entries)
        self.ledger.record(recorded, self.source)
        relabelled = sum(entry.key in stored and _is_relabelled(stored[entry.key], entry) for entry in entries)
        self.summary.added += len(entries) - relabelled
        self.summary.relabelled += relabelled
        self.summary.duplicates += len(duplicates)

    def _duplicates(self, rows: Sequence[Row]) -> dict[str, str]:
        """Return the keys of images that are duplicates, each with the key of its original."""
        originals = self.ledger.originals([row.sha256 for row in rows])
        duplicates = {}
        for row in rows:
            original = originals.setdefault(row.sha256, row.key)
            if original != row.key:
                duplicates[row.key] = original
        return duplicates


def _is_relabelled(stored: Row, entry: Entry) -> bool:
    return stored.sha256 == entry.sha256 and stored.label != entry.label


def _check_names(item: Item) -> None:
    """Reject a key or a label that is longer than the service accepts.

    Raises:
        ImageError: The key or the label is too long.
    """
    for name, value in (("key", item.key), ("label", item.label or "")):
        if len(value) > LIMITS.max_key_length:
            raise ImageError(f"{name}: expected at most {LIMITS.max_key_length:,} characters, got {len(value):,}")
