"""A gallery from one store to another, codes and all: nothing is encoded again."""

from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np

from gallery import Entry, Gallery, GallerySpec, Query, Store
from gallery.errors import StoreDamagedError
from ingest.loading.ledger import FILE, Ledger
from ingest.progress import Stages

_BATCH = 1024
_VERIFIED = 64
# Another index, or another processor, may round a distance.
_ROUNDING = 1e-4


def copy(source: Store, target: Store, name: str, stages: Stages, profile: str = "") -> tuple[GallerySpec, int]:
    """Copy a gallery's live version, and make the copy the live one of its name when it has been verified.

    A copy that was cut off is gone on with.

    Args:
        source: Where the gallery is.
        target: Where it is to be; a gallery of that name there is replaced, as by a rebuild.
        name: The gallery.
        stages: Shows how far it is.
        profile: How it is to be stored; empty for as it is.

    Returns:
        The copy, and how many entries had to be written.

    Raises:
        GalleryNotFoundError: There is no such gallery.
        StoreDamagedError: The copy is not like the original; it does not go live.
    """
    spec = source.spec(name)
    wanted = replace(spec, version=0, count=0, calibration=None, profile=profile or spec.profile)
    with closing(source.open(name)) as original, closing(target.build(wanted, rebuild=True)) as build:
        with stages.stage("copying", original.count()) as advance:
            written = 0
            resumed = build.gallery.count() > 0
            for batch in original.scroll(_BATCH):
                new = _missing(batch, build.gallery) if resumed else batch
                build.gallery.upsert(new)
                written += len(new)
                advance(len(batch))
        if build.gallery.count() != original.count():
            _remove_strangers(original, build.gallery)
        with stages.stage("indexing", None):
            build.index()
        with stages.stage("verifying", None):
            _verify(original, build.gallery)
        if (source.local_folder(name) / FILE).exists():
            with closing(Ledger(source.local_folder(name))) as ledger:
                ledger.copy_to(build.local_folder)
        return build.publish(spec.calibration), written


def _missing(batch: list[Entry], there: Gallery) -> list[Entry]:
    found = there.get([entry.key for entry in batch])
    return [entry for entry, other in zip(batch, found, strict=True) if not (other and _same(entry, other))]


def _same(one: Entry, other: Entry) -> bool:
    return (one.sha256, one.label) == (other.sha256, other.label) and np.array_equal(one.code, other.code)


def _remove_strangers(original: Gallery, copied: Gallery) -> None:
    """Remove what a copy that was cut off had taken over and the original has lost since."""
    for batch in list(copied.scroll(_BATCH)):
        keys = [entry.key for entry in batch]
        copied.delete([key for key, found in zip(keys, original.get(keys), strict=True) if found is None])


def _verify(original: Gallery, copied: Gallery) -> None:
    """Compare the counts and a sample of the entries, and search for each of those."""
    name = original.spec.name
    if copied.count() != original.count():
        raise StoreDamagedError(
            f"the copy of '{name}' has {copied.count():,} images, and the original {original.count():,}: copy again"
        )
    for batch in islice(original.scroll(_VERIFIED), 1):
        for entry, other in zip(batch, copied.get([entry.key for entry in batch]), strict=True):
            hits = copied.search(Query(entry.code))
            if other is None or not _same(entry, other) or hits[0].distance > _ROUNDING * np.linalg.norm(entry.code):
                raise StoreDamagedError(f"the copy of '{name}' does not have {entry.key} as it was: copy again")
