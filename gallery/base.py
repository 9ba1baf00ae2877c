"""Protocols that every backend implements. A `Store` opens a `Gallery` by name, or builds one with a `Build`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from gallery.spec import DEFAULT_PLACEMENT, Calibration, GallerySpec, Placement
from gallery.types import Entry, Hit, Query


class Gallery(Protocol):
    """One version of a gallery, open. Safe to search from several threads at once.

    Every method that reads or writes entries may raise UnavailableError: a StoreError, or TooLateError once the
    caller's `deadline` has passed. On a server it may also raise GalleryNotFoundError, once the version is removed.
    """

    @property
    def spec(self) -> GallerySpec:
        """The description of the version. Its count is that of the last publication."""
        ...

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries, replacing those with the same keys. On return they are kept, even if the process dies.

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
        """Yield all entries in batches of at most `batch_count`, in no particular order."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries with these keys. Keys without an entry are ignored."""
        ...

    def count(self) -> int:
        """Return the exact number of entries."""
        ...

    def close(self) -> None:
        """Release files and connections; the gallery can't be used afterwards. Closing it twice is harmless."""
        ...


class Build(Protocol):
    """A version of a gallery being built. Searches don't see it before `publish`. Always close it."""

    @property
    def gallery(self) -> Gallery:
        """The gallery to fill."""
        ...

    @property
    def local_folder(self) -> Path:
        """A folder on this machine for other files of the version, such as its ledger."""
        ...

    @property
    def reopen(self) -> Callable[[], Gallery] | None:
        """A picklable function that opens the gallery in another process; None if only one process may open it."""
        ...

    @property
    def modified_by_service(self) -> bool:
        """True if entries have been added or deleted outside of loads; see `Store.modified_by_service`."""
        ...

    def index(self) -> None:
        """Build the search index over the stored entries. May take minutes."""
        ...

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Record the count and the calibration, and make this the live version in one atomic step."""
        ...

    def close(self) -> None:
        """Release the build. Entries of an unpublished build are kept, so that the next build can resume it.

        A live version that was being extended stays live, in the state in which the build left it.
        """
        ...


class Store(Protocol):
    """Galleries by name. A name points at exactly one version, the live one.

    Every method may raise UnavailableError: StoreError for a store that can't be used, NewerFormatError for a gallery
    that a newer release wrote.
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
        """Return the descriptions of all live galleries, by name. Unreadable ones are logged and left out."""
        ...

    def spec(self, name: str) -> GallerySpec:
        """Return the description of a gallery's live version, without opening it.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: The description is missing or unreadable.
        """
        ...

    def live_version(self, name: str) -> int:
        """Return the number of a gallery's live version. This is faster than reading its description.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: No version is known to be live.
        """
        ...

    def open(self, name: str) -> Gallery:
        """Open a gallery's live version, to search and to modify.

        If this process may not write the version's files, the gallery can only be searched.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: The version's files are missing or unreadable.
            StoreLockedError: Another process has the gallery open, and only one may.
        """
        ...

    def build(self, spec: GallerySpec, *, rebuild: bool = False, placement: Placement = DEFAULT_PLACEMENT) -> Build:
        """Begin a gallery, or extend its live version; with `rebuild`, begin the next version beside the live one.

        An interrupted build of an identical spec is resumed. An interrupted build of any other spec is discarded.

        Args:
            spec: The gallery to build. Its version and count are filled in.
            rebuild: Build a new version even though the gallery exists.
            placement: Distribution of a new version over a cluster.

        Raises:
            EncoderMismatchError: The live version was made by another encoder.
            StoreDamagedError: The live version's files have been altered.
            StoreLockedError: Another process is building the gallery or has it open.
            InvalidQueryError: The store has no cluster, and `placement` asks for one; or the name is not free.
        """
        ...

    def local_folder(self, name: str) -> Path:
        """Return the folder on this machine for other files of a gallery's live version, such as its ledger.

        Raises:
            GalleryNotFoundError: No gallery has this name.
        """
        ...

    def modified_by_service(self, name: str) -> bool:
        """Return whether entries of the live version have been added or deleted since it was published.

        Services do so. So does a load that has ended before it could publish.

        On a server the answer stays true after the next publication, because a service may still have the version
        open, and because other machines have ledgers of their own.

        Raises:
            GalleryNotFoundError: No gallery has this name.
        """
        ...

    def differences(self, name: str) -> Sequence[str]:
        """Compare the live version's files with its manifest.

        If a process has died while it modified the version, the manifest is written first.

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
        """Write a gallery's live version into one file. A service may have it open, but not modify it meanwhile.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreLockedError: Another process is building or modifying the gallery.
            StoreDamagedError: The version has no manifest, or files have been lost.
            BackupError: The file can't be written, the version has been altered, or the store has no backups.
        """
        ...

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Unpack a backup and make it the live version of a gallery, beside the previous one.

        Args:
            file: The backup.
            name: Name for the gallery; empty for the name it had.

        Raises:
            BackupError: The file is not a backup, is incomplete or has been altered. Nothing has changed.
            NewerFormatError: A newer release made the backup. Nothing has changed.
            StoreFullError: The store's disk has no space for the files that the backup announces. Nothing has changed.
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
