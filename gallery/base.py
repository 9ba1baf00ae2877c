"""The contracts of every backend: `Gallery`, an open version; `Build`, one being made; `Store`, all by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from gallery.types import DEFAULT_PLACEMENT, Calibration, Entry, GallerySpec, Hit, Placement, Query


class Gallery(Protocol):
    """One version of a gallery, open. Safe to search from several threads at once."""

    @property
    def spec(self) -> GallerySpec:
        """What the gallery is; its count is the one recorded when it was last built."""
        ...

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries, replacing those of the same keys. On return they are kept, even if the process dies.

        Raises:
            InvalidCodeError: A code has NaN, infinity or a wrong size; then none is stored.
        """
        ...

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first; of equal distances, any order.

        Raises:
            InvalidCodeError: The query's code has NaN, infinity or a wrong size.
        """
        ...

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the same order. Errors as for `search`."""
        ...

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key, in the same order; None where there is none."""
        ...

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches of at most `batch_count`, in no order that means anything."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries of these keys; keys that are not there are no error."""
        ...

    def count(self) -> int:
        """Count the entries, exactly."""
        ...

    def close(self) -> None:
        """Let go of files and connections. The gallery can't be used any more; closing twice is fine."""
        ...


class Build(Protocol):
    """A version of a gallery being built; searches don't see it before `publish`. Close it in any case."""

    @property
    def gallery(self) -> Gallery:
        """The gallery to fill."""
        ...

    @property
    def local_folder(self) -> Path:
        """A folder of this machine for what else belongs to the version, such as its ledger."""
        ...

    @property
    def reopen(self) -> Callable[[], Gallery] | None:
        """Opens the gallery in another process, and can be sent there; None where only one process may have it."""
        ...

    @property
    def modified_by_service(self) -> bool:
        """Whether others than a load, such as a service, have changed the version since it went live."""
        ...

    def index(self) -> None:
        """Build the search index over what has been stored. May take minutes."""
        ...

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Record the count and the calibration, and make this the live version in one step."""
        ...

    def close(self) -> None:
        """Let go of the build. What was stored and not published stays for the next build to go on with."""
        ...


class Store(Protocol):
    """Galleries by name. A name points at exactly one version."""

    url: str

    def check(self) -> None:
        """See that the store answers.

        Raises:
            UnavailableError: It does not; the kind and the message say why.
        """
        ...

    def list(self) -> list[GallerySpec]:
        """Return what the live galleries are, by name."""
        ...

    def spec(self, name: str) -> GallerySpec:
        """Return what the live version of a gallery is, without opening it.

        Raises:
            GalleryNotFoundError: There is none.
        """
        ...

    def open(self, name: str) -> Gallery:
        """Open the live version of a gallery.

        Raises:
            GalleryNotFoundError: There is none.
            StoreLockedError: Another process has it open, where only one may.
        """
        ...

    def build(self, spec: GallerySpec, *, rebuild: bool = False, placement: Placement = DEFAULT_PLACEMENT) -> Build:
        """Begin a gallery, or extend the live one; with `rebuild`, begin the next version beside it.

        Args:
            spec: What to make, from what; version and count are filled in. A build of the very same that was cut
                off is gone on with; one of anything else makes way.
            rebuild: Make a new version even though there is one.
            placement: How a new version is spread over a cluster.

        Raises:
            EncoderMismatchError: The live gallery was made by another encoder.
            StoreLockedError: Another process is building this gallery, or has it open.
            InvalidQueryError: The store has no cluster to spread over.
        """
        ...

    def local_folder(self, name: str) -> Path:
        """Return the folder of this machine with what else belongs to the live version of a gallery.

        Raises:
            GalleryNotFoundError: There is none.
        """
        ...

    def modified_by_service(self, name: str) -> bool:
        """Tell whether a service has added or deleted images in the live version since it was published.

        Raises:
            GalleryNotFoundError: No gallery has this name.
        """
        ...

    def differences(self, name: str) -> Sequence[str]:
        """Compare the live version's files with its manifest.

        Returns:
            One line for each difference.

        Raises:
            GalleryNotFoundError: There is none.
            StoreDamagedError: It has no manifest, as after a load into it that was cut off.
        """
        ...

    def clean(self, name: str) -> Sequence[int]:
        """Remove the versions of a gallery that are not live, nor open anywhere.

        Returns:
            The versions that were removed.

        Raises:
            GalleryNotFoundError: There is none.
            StoreLockedError: Another process is building this gallery.
        """
        ...

    def backup(self, name: str, file: Path) -> GallerySpec:
        """Write the live version of a gallery into one file. A service may have it open meanwhile.

        Raises:
            GalleryNotFoundError: There is none.
            StoreLockedError: Another process is building this gallery.
            BackupError: The file can't be written, or the version is not worth it.
        """
        ...

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Make what a backup holds the live version of a gallery, beside the one before.

        Args:
            file: The backup.
            name: The gallery's name; empty for that which it had.

        Raises:
            BackupError: The file is no backup, cut off or altered; then nothing has changed.
            StoreLockedError: Another process is building this gallery.
        """
        ...

    def drop(self, name: str) -> None:
        """Remove a gallery with all its versions.

        Raises:
            GalleryNotFoundError: There is none.
            StoreLockedError: Another process has it open.
        """
        ...
