"""Copy a gallery from one store to another, without encoding its images again."""

from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np

from gallery import Entry, Gallery, GallerySpec, Store
from gallery.errors import StoreDamagedError
from gallery.files import replace_file
from gallery.findings import FINDINGS
from gallery.map import MAP
from gallery.plurals import counted
from ingest.loading.ledger import FILE, Ledger
from ingest.loading.verify import finds_itself
from ingest.progress import Stages

# Number of entries that are read and written at a time.
_BATCH = 1024
# Number of entries of the copy that are compared with the original and searched for, before the copy goes live.
_VERIFIED = 64


def copy(
    source: Store, target: Store, name: str, stages: Stages, profile: str = "", memory_bytes: int | None = None
) -> tuple[GallerySpec, int]:
    """Copy a gallery's live version, verify the copy and make it live.

    An interrupted copy is resumed.

    Args:
        source: The store that has the gallery.
        target: The store that receives the copy. A gallery of this name is replaced, as by a rebuild.
        name: Name of the gallery.
        stages: Displays the progress.
        profile: Storage profile of the copy; "" for the original's.
        memory_bytes: Memory to build the copy in; see `Store.build`.

    Returns:
        The description of the copy, and the number of entries that had to be written.

    Raises:
        GalleryNotFoundError: The source has no gallery of this name.
        StoreDamagedError: The copy differs from the original. It does not go live.
        StoreFullError: The target's disk has no space for the copy.
    """
    spec = source.spec(name)
    copy_spec = replace(spec, version=0, count=0, calibration=None, profile=profile or spec.profile)
    with (
        closing(source.open(name)) as original,
        closing(target.build(copy_spec, rebuild=True, memory_bytes=memory_bytes, say=stages.say)) as build,
    ):
        build.check_space(max(0, original.count() - build.gallery.count()))
        with stages.stage("copying", original.count()) as advance:
            written = 0
            resumed = build.gallery.count() > 0
            for batch in original.scroll(_BATCH):
                new = _missing(batch, build.gallery) if resumed else batch
                build.gallery.upsert(new)
                written += len(new)
                advance(len(batch))
        if build.gallery.count() != original.count():
            _remove_extra(original, build.gallery)
        with stages.stage("indexing", None):
            build.index()
        with stages.stage("verifying", None):
            _verify(original, build.gallery)
        if (source.local_folder(name) / FILE).exists():
            with closing(Ledger(source.local_folder(name))) as ledger:
                ledger.copy_to(build.local_folder)
            if source.modified_by_service(name):
                with closing(Ledger(build.local_folder)) as copied_ledger:
                    copied_ledger.match(build.gallery.scroll())
        for file in (MAP, FINDINGS):
            if (source.local_folder(name) / file).exists():
                replace_file(build.local_folder / file, (source.local_folder(name) / file).read_bytes())
        return build.publish(spec.calibration), written


def _missing(batch: list[Entry], copied: Gallery) -> list[Entry]:
    """Return the entries of a batch that the copy lacks or has with another content, label or code."""
    copies = copied.get([entry.key for entry in batch])
    return [entry for entry, other in zip(batch, copies, strict=True) if not (other and _same(entry, other))]


def _same(entry: Entry, other: Entry) -> bool:
    return (entry.sha256, entry.label) == (other.sha256, other.label) and np.array_equal(entry.code, other.code)


def _remove_extra(original: Gallery, copied: Gallery) -> None:
    """Remove entries from the copy that were deleted from the original after an interrupted copy had written them."""
    for batch in list(copied.scroll(_BATCH)):
        keys = [entry.key for entry in batch]
        copied.delete([key for key, entry in zip(keys, original.get(keys), strict=True) if entry is None])


def _verify(original: Gallery, copied: Gallery) -> None:
    """Compare the copy's number of entries, and a sample of them, with the original's. Search the copy for the sample.

    Raises:
        StoreDamagedError: They differ, or a search does not find an entry of the sample.
    """
    name = original.spec.name
    if copied.count() != original.count():
        raise StoreDamagedError(
            f"the copy of '{name}': expected {counted(original.count(), 'image')}, got {copied.count():,}: "
            "copy it again"
        )
    for batch in islice(original.scroll(_VERIFIED), 1):
        for entry, other in zip(batch, copied.get([entry.key for entry in batch]), strict=True):
            if other is None or not _same(entry, other):
                raise StoreDamagedError(f"the copy of '{name}' differs from the original in {entry.key}: copy it again")
            # the index is approximate, and may miss an entry
            if not (finds_itself(copied, entry.code, exact=False) or finds_itself(copied, entry.code, exact=True)):
                raise StoreDamagedError(
                    f"the copy of '{name}': a search for the code of {entry.key} does not find it: copy it again"
                )
