"""Verification: compare a gallery with its ledger and its sources.

Every version is verified before it goes live. `ingest check` verifies the live version at any time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import Encoder, load_encoder
from gallery import Gallery, Query, SearchOptions, Store
from gallery.errors import LookalikeError
from gallery.plurals import counted
from ingest.loading.keys import with_known_keys
from ingest.loading.ledger import Ledger, Status
from ingest.progress import Advance, Stages
from ingest.sources import open_source

# Largest rounding difference between two codes of the same image, relative to the code's norm. The rounding depends on
# the size of the batch and on the processor.
_ROUNDING = 1e-3
# Maximum fraction of the sampled codes that the index may fail to find. It searches approximately, and was seen to miss
# one of 64. A damaged index misses most.
_MISSED_SHARE = 0.1
# Maximum number of notes on changed images that are printed. The rest are only counted.
_NOTE_COUNT = 5


def count_problems(gallery: Gallery, ledger: Ledger) -> list[str]:
    """Compare the number of images in a gallery with the number in its ledger. Return a line if they differ."""
    count, expected = gallery.count(), ledger.counts()[Status.OK]
    return [] if count == expected else [f"expected {counted(expected, 'image')}, as in its ledger, got {count:,}"]


def code_problems(gallery: Gallery, encoder: Encoder, inputs: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """Encode inputs again, compare the codes with the stored ones, and search for each stored code.

    Args:
        gallery: The gallery with the stored codes.
        encoder: The encoder that made them.
        inputs: Inputs by key, (h, w, c) each.

    Returns:
        One line for each problem.
    """
    problems: list[str] = []
    if not inputs:
        return problems
    missed = 0
    keys = list(inputs)
    codes = encoder.encode(np.stack([inputs[key] for key in keys]))
    for key, code, entry in zip(keys, codes, gallery.get(keys), strict=True):
        if entry is None:
            problems.append(f"{key} is in the ledger, but not in the gallery")
            continue
        distance = float(np.linalg.norm(entry.code - code))
        if distance > _ROUNDING * max(1.0, float(np.linalg.norm(code))):
            problems.append(f"{key}: its code is {distance:.3g} away from the code of its image")
        if not finds_itself(gallery, entry.code, exact=False):
            missed += 1
            if not finds_itself(gallery, entry.code, exact=True):
                problems.append(f"{key}: a search for its own code does not find it")
    if missed > _MISSED_SHARE * len(keys):
        found = f"{len(keys) - missed} of {counted(len(keys), 'image')}"
        problems.append(f"the index finds only {found} by their own codes")
    return problems


def finds_itself(gallery: Gallery, code: NDArray[np.float32], *, exact: bool) -> bool:
    """Return whether a search for a stored code finds it, by comparing all codes or with the index."""
    hits = gallery.search(Query(code, SearchOptions(limit=1, exact=exact)))
    return bool(hits) and hits[0].distance <= _ROUNDING * max(1.0, float(np.linalg.norm(code)))


def check(store: Store, name: str, sample: int, stages: Stages) -> tuple[Sequence[str], int]:
    """Compare a gallery's live version with its manifest, its ledger, and a sample of its sources' images.

    Args:
        store: The store of the gallery.
        name: Name of the gallery.
        sample: Number of images to encode again.
        stages: Displays the progress.

    Returns:
        One line for each problem, and the number of codes that were compared.

    Raises:
        GalleryNotFoundError: No gallery has this name.
        EncoderMismatchError: The installed encoder with the recorded name has another fingerprint than the gallery's.
        StoreDamagedError: The gallery's files can't be read.
        StoreLockedError: Another process has the gallery open.
    """
    spec = store.spec(name)
    with stages.stage("files", None):
        problems = store.differences(name)
    if problems:
        return problems, 0
    encoder = load_encoder(spec.encoder, spec.fingerprint)
    spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
    with closing(store.open(name)) as gallery, _current_ledger(store, name, gallery, stages) as ledger:
        wrong_counts = count_problems(gallery, ledger)
        with stages.stage("images", None) as advance:
            inputs, notes = _sampled_inputs(ledger, sample, encoder, advance)
        for note in notes[:_NOTE_COUNT]:
            stages.say(f"note: {note}")
        if len(notes) > _NOTE_COUNT:
            stages.say(f"note: {counted(len(notes) - _NOTE_COUNT, 'more note')} like these")
        return wrong_counts + code_problems(gallery, encoder, inputs), len(inputs)


@contextmanager
def _current_ledger(store: Store, name: str, gallery: Gallery, stages: Stages) -> Iterator[Ledger]:
    """Yield the gallery's ledger, or a reconciled copy if a service or an interrupted load has modified the gallery."""
    with closing(Ledger(store.local_folder(name))) as ledger, TemporaryDirectory() as scratch:
        if not store.modified_by_service(name):
            yield ledger
            return
        stages.say(
            "note: a service or an interrupted load has added or deleted images; the next `ingest load` resumes the "
            "load, and brings the index up to date"
        )
        ledger.copy_to(Path(scratch))
        with closing(Ledger(Path(scratch))) as copied:
            copied.match(gallery.scroll())
            yield copied


def _sampled_inputs(
    ledger: Ledger, count: int, encoder: Encoder, advance: Advance
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Read the sampled images from their sources again, and normalise them.

    Args:
        ledger: The gallery's ledger, which names the images and their sources.
        count: Number of images to sample.
        encoder: Normalises the images.
        advance: Called for every image that is read.

    Returns:
        The inputs by key, and a line for each source or image that has disappeared or changed.
    """
    inputs: dict[str, NDArray[np.float32]] = {}
    notes: list[str] = []
    for place, rows in ledger.sample(count).items():
        rows_by_key = {row.key: row for row in rows}
        if not place:
            notes.append(f"{counted(len(rows_by_key), 'image')} of the sample can't be encoded again: no known source")
            continue
        try:
            source = with_known_keys(open_source(place, large_images=True), ledger)
            for item in source:
                advance(1, source.count)
                row = rows_by_key.pop(item.key, None)
                if row is None:
                    continue
                if item.sha256 == row.sha256:
                    inputs[item.key] = encoder.normalise([item.image()])[0]
                else:
                    notes.append(f"{item.key} has changed in {place} since it was loaded")
                if not rows_by_key:
                    break
        except LookalikeError as error:
            notes.append(f"images of {place} can't be encoded again: {error}")
            continue
        notes += [f"{key} is no longer in {place}" for key in rows_by_key]
    return inputs, notes
