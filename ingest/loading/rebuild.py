"""The live version that a rebuild is about to replace.

The rebuild takes over its labels and key prefixes, and reports the images that the rebuilt version lacks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from gallery import Build, Gallery, GallerySpec, Store
from gallery.errors import EncoderMismatchError, LookalikeError, StoreLockedError
from gallery.journal import read_journal
from gallery.plurals import counted
from ingest.errors import RejectedError
from ingest.loading.ledger import FILE, Ledger, Row, Status
from ingest.sources import Source


class LiveVersion:
    """The version of a gallery that is live when a rebuild begins. Use `live_version` to open it.

    Attributes:
        ledger: A copy of its ledger. `refresh` reconciles the copy with changes by services and other machines.
    """

    def __init__(self, store: Store, name: str, ledger: Ledger, stack: ExitStack) -> None:
        """Use a store and the copy of the ledger. `stack` closes the gallery that `open` opens."""
        self.ledger = ledger
        self.folder = store.local_folder(name)
        self._store = store
        self._name = name
        self._stack = stack
        self._gallery: Gallery | None = None

    def open(self) -> None:
        """Open the version.

        Raises:
            StoreLockedError: Another process has the version open, and the store allows only one.
            LookalikeError: The version can't be read.
        """
        if self._gallery is None:
            self._gallery = self._stack.enter_context(closing(self._store.open(self._name)))

    def refresh(self) -> None:
        """Update the copy of the ledger with the images that services have added or deleted since it was made."""
        is_modified = self._is_live() and self._store.modified_by_service(self._name)
        if self._gallery is None and is_modified:
            with suppress(StoreLockedError):
                self.open()
        if self._gallery is None:
            self.ledger.match_keys(read_journal(self.folder))
        elif is_modified or self._gallery.count() != self.ledger.counts()[Status.OK]:
            self.ledger.match(self._gallery.scroll())

    def check_lost(self, rebuilt: Ledger, source: Source, *, most: bool) -> None:
        """Check that a rebuilt version has at least half of the images that this version has of a source.

        Args:
            rebuilt: The ledger of the rebuilt version.
            source: The source.
            most: Allow the loss of more than half of the images.

        Raises:
            RejectedError: The rebuilt version lacks more than half of the images, and `most` is False.
        """
        total = sum(map(len, self.ledger.stored(source, own=True)))
        lost = sum(map(len, self._missing(rebuilt, source, own=True)))
        if lost * 2 > total and not most:
            raise RejectedError(
                f"{source.name} no longer has {lost:,} of its {counted(total, 'image')} in the live version, which "
                "stays: if the source is complete, add --yes"
            )

    def count_left_out(self, rebuilt: Ledger, source: Source, say: Callable[[str], None], said: int = 0) -> int:
        """Count the images that a rebuilt version lacks although the live version has them, and report their number.

        Only images that were added by services or loaded from other sources count.

        Args:
            rebuilt: The ledger of the rebuilt version.
            source: The source of the rebuilt version.
            say: Prints a line for the user.
            said: The number in the previous report. Only a larger number is reported again.
        """
        batches = self._missing(rebuilt, source, own=False)
        first = next(batches, [])
        count = len(first) + sum(map(len, batches))
        if count > said:
            say(
                f"note: left out {counted(count, 'image')} added through a service or loaded from elsewhere (first: "
                f"{first[0][0].key!r}): to keep such images, add --keep-added"
            )
        return count

    def copy_left_out(self, build: Build, rebuilt: Ledger, source: Source) -> int:
        """Copy into the build the images that `count_left_out` counts, and return their number."""
        self.open()
        assert self._gallery
        count = 0
        for batch in self._missing(rebuilt, source, own=False):
            entries = [entry for entry in self._gallery.get([row.key for row, _ in batch]) if entry]
            build.gallery.upsert(entries)
            copied = {entry.key for entry in entries}
            rebuilt.take_over([(row, place) for row, place in batch if row.key in copied])
            count += len(entries)
        return count

    def _is_live(self) -> bool:
        return self._store.local_folder(self._name) == self.folder

    def _missing(self, rebuilt: Ledger, source: Source, *, own: bool) -> Iterator[list[tuple[Row, str]]]:
        """Yield the rows that a rebuilt version lacks, each with its source's place, in batches.

        With `own`, yield the rows of this source only, otherwise those of all other sources.
        """
        for batch in self.ledger.stored(source, own=own):
            known = rebuilt.look_up([row.key for row, _ in batch])
            if missing := [(row, place) for row, place in batch if row.key not in known]:
                yield missing


@contextmanager
def live_version(
    store: Store, spec: GallerySpec, say: Callable[[str], None], *, must_copy: bool
) -> Iterator[LiveVersion | None]:
    """Open the version that a rebuild of a gallery is about to replace.

    Args:
        store: The store of the gallery.
        spec: Description of the rebuilt version.
        say: Prints a note for the user.
        must_copy: Whether the rebuild will copy images from the live version.

    Yields:
        The live version; None if it can't be read and `must_copy` is False.

    Raises:
        EncoderMismatchError: `must_copy` is True, and another encoder made the live version.
        StoreLockedError: `must_copy` is True, and another process has the gallery open.
        LookalikeError: `must_copy` is True, and the live version can't be read.
    """
    with ExitStack() as stack:
        try:
            live = _open(store, spec, must_copy, stack)
        except LookalikeError as error:
            if must_copy:
                raise
            say(f"note: the live version can't be read, so its labels are not kept: {error}")
            live = None
        yield live


def _open(store: Store, spec: GallerySpec, must_copy: bool, stack: ExitStack) -> LiveVersion:
    live_spec = store.spec(spec.name)
    if must_copy and live_spec.fingerprint != spec.fingerprint:
        raise EncoderMismatchError(
            f"--keep-added: expected encoder {live_spec.encoder}, which made the live version, got {spec.encoder}: "
            "rebuild without --keep-added, then add the left-out images again"
        )
    folder = store.local_folder(spec.name)
    scratch = Path(stack.enter_context(TemporaryDirectory()))
    if (folder / FILE).exists():
        with closing(Ledger(folder)) as original:
            original.copy_to(scratch)
    live = LiveVersion(store, spec.name, stack.enter_context(closing(Ledger(scratch))), stack)
    if must_copy:
        live.open()
    elif live.ledger.counts()[Status.OK] != live_spec.count:
        with suppress(StoreLockedError), closing(store.open(spec.name)) as gallery:
            live.ledger.match(gallery.scroll())
    live.refresh()
    return live
