"""One place that opens a store: galleries by name, their versions, the atomic swap between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from gallery.base import Gallery
from gallery.errors import InvalidQueryError
from gallery.types import ANYWHERE, Calibration, GallerySpec, Placement


class Build(Protocol):
    """A version of a gallery being built; searches don't see it before `publish`. Close it in any case."""

    @property
    def gallery(self) -> Gallery:
        """The gallery to fill."""
        ...

    @property
    def folder(self) -> Path:
        """A folder of this machine for what else belongs to the version, such as its ledger."""
        ...

    @property
    def opened_elsewhere(self) -> Callable[[], Gallery] | None:
        """Opens the gallery in another process, and can be sent there; None where only one process may have it."""
        ...

    @property
    def grown(self) -> bool:
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

    def build(self, spec: GallerySpec, *, rebuild: bool = False, placement: Placement = ANYWHERE) -> Build:
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

    def folder(self, name: str) -> Path:
        """Return the folder of this machine with what else belongs to the live version of a gallery.

        Raises:
            GalleryNotFoundError: There is none.
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


def open_store(url: str) -> Store:
    """Open a store by its URL.

    Args:
        url: `edge:DIR` for Qdrant Edge in a folder, `http(s)://HOST:6333` for a Qdrant server or cluster, `exact:`
            for this process's memory.

    Raises:
        InvalidQueryError: The URL is of no known kind.
        StoreError: The store can't be used.
    """
    kind, _, place = url.partition(":")
    if kind not in _KINDS or (kind != "exact" and not place):
        raise InvalidQueryError(f"store {url!r}: expected edge:DIR, http://HOST:6333 or https://HOST:6333")
    return _KINDS[kind](url)


def _edge(url: str) -> Store:
    from gallery.edge_store import EdgeStore

    return EdgeStore(Path(url.removeprefix("edge:")).expanduser().absolute())


def _server(url: str) -> Store:
    from gallery.remote import Server
    from gallery.remote_store import RemoteStore

    return RemoteStore(Server.connect(url))


def _exact(url: str) -> Store:
    from gallery.exact import ExactStore

    return ExactStore()


_KINDS = {"edge": _edge, "http": _server, "https": _server, "exact": _exact}
