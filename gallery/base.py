"""Protocols that every backend implements.

A `Store` holds named galleries. It opens one as a `Gallery`, and builds or extends one with a `Build`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from gallery.spec import DEFAULT_PLACEMENT, Calibration, GallerySpec, Placement
from gallery.types import Changes, Entry, Hit, Query


def say_nothing(line: str) -> None:
    """Ignore a line for the user."""


class Gallery(Protocol):
    """An open version of a gallery. Several threads may search it at once.

    Every method that reads or writes entries may raise a StoreError, or a TooLateError once the deadline set by
    `gallery.deadline` has passed. If another process removes the version from a server, these methods raise
    GalleryNotFoundError.
    """

    @property
    def spec(self) -> GallerySpec:
        """The description of the version. Its count is the number of entries when the version was last published."""
        ...

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries, replacing those with the same keys. On return the entries survive a crash of this process.

        Raises:
            InvalidCodeError: A code is invalid; see `gallery.types.check_comparable`. No entry is stored.
        """
        ...

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first. Entries at the same distance come in any order.

        Raises:
            InvalidCodeError: The query's code is invalid; see `gallery.types.check_comparable`.
        """
        ...

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the order of the queries.

        Raises:
            InvalidCodeError: The code of a query is invalid; see `gallery.types.check_comparable`.
        """
        ...

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key, in the order of the keys; None for a key without an entry."""
        ...

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches of at most `batch_count` entries, in no particular order."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries with these keys. Keys without an entry are ignored."""
        ...

    def count(self) -> int:
        """Return the exact number of entries."""
        ...

    def changes(self) -> Changes:
        """Return how many entries services have changed since the search index was built.

        Entries that were changed repeatedly count each time. Both numbers are 0 if the store itself keeps its index up
        to date.
        """
        ...

    def close(self) -> None:
        """Release files and connections; the gallery can't be used afterwards. Closing it twice is harmless."""
        ...


class Build(Protocol):
    """A version of a gallery that is being built or extended. `publish` makes it live. Always call `close`."""

    @property
    def gallery(self) -> Gallery:
        """The gallery to fill."""
        ...

    @property
    def local_folder(self) -> Path:
        """A folder on this machine for files that a load keeps with the version, such as the ledger of its images."""
        ...

    @property
    def reopen(self) -> Callable[[], Gallery] | None:
        """A picklable function that opens the gallery in another process; None if only one process may open it."""
        ...

    @property
    def modified_by_service(self) -> bool:
        """True if entries have been added or deleted since the publication; see `Store.modified_by_service`."""
        ...

    def check_space(self, new_count: int) -> None:
        """Check that the disk has space for that many more entries with small thumbnails, and for their index.

        On a server, this checks nothing.

        Raises:
            StoreFullError: The disk has less space.
        """
        ...

    def index(self) -> None:
        """Build the search index over the stored entries. May take minutes."""
        ...

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Record the number of entries and the calibration, then atomically make this the live version."""
        ...

    def close(self) -> None:
        """Release files and locks. The entries of an unpublished build are kept, so that `Store.build` can resume it.

        If the build extends the live version, that version stays live and has the entries stored so far.
        """
        ...


class Compaction(Protocol):
    """The next version of a live gallery, with the same entries and a new index. Always call `close`.

    The live version stays searchable and modifiable meanwhile. Call `copy`, `index` and `go_live`, in this order. Each
    may raise a StoreError. The live version then stays as it is.
    """

    def copy(self, advance: Callable[[int], None]) -> None:
        """Copy the entries of the live version.

        Args:
            advance: Called with the number of entries of each batch that has been copied. An exception that it raises
                ends the copying.
        """
        ...

    def index(self, keep_waiting: Callable[[], None]) -> None:
        """Build the search index, then repeat the changes that were made to the live version meanwhile.

        Args:
            keep_waiting: Called several times a second. An exception that it raises ends the indexing.
        """
        ...

    def go_live(self) -> Gallery:
        """Make the new version the live one in one atomic step, and return it.

        Writes to the old version wait meanwhile. Afterwards they are possible, but lost.
        """
        ...

    def close(self) -> None:
        """Remove the version that is not live: the old one after `go_live`, otherwise the new one.

        Close the old version's `Gallery` first. If a version is still open, the next `Store.open` removes it.
        """
        ...


class Store(Protocol):
    """A store of named galleries. A gallery may have several versions, of which searches use only one, the live one.

    Every method may raise StoreError if the store can't be used, and NewerFormatError if a newer release wrote the
    gallery's files.
    """

    url: str

    def check(self) -> None:
        """Check that the store answers.

        Raises:
            UnavailableError: The store does not answer or can't be used.
        """
        ...

    def names(self) -> Sequence[str]:
        """Return the names of all galleries, sorted, whether or not they can be read."""
        ...

    def list(self) -> list[GallerySpec]:
        """Return the description of each gallery's live version, sorted by name. Log and skip unreadable galleries."""
        ...

    def spec(self, name: str) -> GallerySpec:
        """Return the description of a gallery's live version, without opening it.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: The description is missing or unreadable.
        """
        ...

    def live_version(self, name: str) -> int:
        """Return the number of a gallery's live version. This is faster than `spec`.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: The store's record of which version is live is missing or unreadable.
        """
        ...

    def open(self, name: str) -> Gallery:
        """Open a gallery's live version, to search and to modify.

        If this process may not write the version's files, the gallery can only be searched.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: The version's files are missing or unreadable.
            StoreLockedError: Another process has the gallery open, and the store allows only one.
        """
        ...

    def open_for_reading(self, name: str) -> Gallery:
        """Open a gallery's live version only to read it. This works even while a service has it open.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: The version's files are missing or unreadable.
            StoreLockedError: Another process is modifying the gallery, or a service has modified it since it started,
                and the store allows only one process.
        """
        ...

    def build(
        self,
        spec: GallerySpec,
        *,
        rebuild: bool = False,
        placement: Placement = DEFAULT_PLACEMENT,
        memory_bytes: int | None = None,
        say: Callable[[str], None] = say_nothing,
    ) -> Build:
        """Begin a new gallery, or extend the live version of an existing one.

        With `rebuild`, begin the next version of an existing gallery. The live one stays searchable meanwhile.

        An interrupted build of an identical spec is resumed. An interrupted build of any other spec is discarded.

        Args:
            spec: The gallery to build. The store sets its version and count, whatever they are in `spec`.
            rebuild: Build a new version even though the gallery exists.
            placement: Distribution of a new version over a cluster. A rebuild keeps the live version's settings where
                this has None.
            memory_bytes: Memory to build the gallery in. In a local store, it includes the processes that build, and
                None stands for the memory that is available. On a server, it is the memory of a node, and None leaves
                the largest size of a segment to the storage profile.
            say: Prints a line for the user when a long step begins while entries are stored.

        Raises:
            InvalidInputError: `memory_bytes` is too small for any gallery.
            EncoderMismatchError: The live version was made by another encoder.
            StoreDamagedError: The live version's files have been altered.
            StoreLockedError: Another process is building the gallery or has it open.
            InvalidQueryError: `placement` has settings and the store is not on a server, or they differ from those of
                the live version and `rebuild` is False. Or the server uses the gallery's name for something else.
        """
        ...

    def compaction(self, gallery: Gallery) -> Compaction | None:
        """Begin to index a gallery anew, from its stored entries.

        Args:
            gallery: The live version, from `open`. The process that has it open must be this one.

        Returns:
            The new version; None if the store itself keeps its index up to date.

        Raises:
            StoreLockedError: Another process is building the gallery.
            StoreFullError: The store's disk has too little space for a second version and its index.
            StoreUnusableError: An interrupted load has left an unfinished version, or this process may not write the
                gallery's files.
        """
        ...

    def local_folder(self, name: str) -> Path:
        """Return the folder on this machine for files that loads keep with a gallery's live version.

        Raises:
            GalleryNotFoundError: No gallery has this name.
        """
        ...

    def modified_by_service(self, name: str) -> bool:
        """Return whether entries of the live version have been added or deleted since it was published.

        Services add and delete entries, and so do loads that end before they publish. The version's ledger may lack
        these changes.

        On a server, the answer stays True even after a load publishes the version again. A service may still have
        the version open and modify it, and the ledgers on other machines lack the earlier changes.

        Raises:
            GalleryNotFoundError: No gallery has this name.
        """
        ...

    def differences(self, name: str) -> Sequence[str]:
        """Compare the live version's files with its manifest.

        If a process died while it modified the version, the manifest is missing. Then a new one is written first.

        Returns:
            One line for each difference.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: The manifest is missing or unreadable, or files have been lost.
            StoreLockedError: Another process is modifying the version.
        """
        ...

    def clean(self, name: str) -> Sequence[int]:
        """Remove the versions of a gallery that are neither live nor open anywhere.

        Returns:
            The numbers of the removed versions.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreLockedError: Another process is building the gallery.
        """
        ...

    def backup(self, name: str, file: Path) -> GallerySpec:
        """Write a gallery's live version into one file.

        A service may have the version open, but the backup fails if the service modifies it.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreLockedError: Another process is building or modifying the gallery.
            StoreDamagedError: The version has no manifest, or files have been lost.
            BackupError: The file can't be written, the version has been altered, or the store can't make backups.
        """
        ...

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Unpack a backup and make it a gallery's live version. The previous version stays until `clean`.

        Args:
            file: The backup.
            name: Name for the gallery; empty for the name in the backup.

        Raises:
            BackupError: The file is not a backup, is incomplete or has been altered. The store is unchanged.
            NewerFormatError: A newer release made the backup. The store is unchanged.
            StoreFullError: The store's disk has no space for the files in the backup. The store is unchanged.
            StoreLockedError: Another process is building the gallery.
        """
        ...

    def drop(self, name: str) -> None:
        """Remove a gallery with all its versions, whether or not they can be read.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreLockedError: Another process has the gallery open.
        """
        ...
