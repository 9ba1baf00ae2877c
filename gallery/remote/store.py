"""Galleries on a Qdrant server: version 2 is the collection `NAME@v2`, and the alias `NAME` points to the live version.

The description of a version, its `GallerySpec`, is in the collection's metadata. Files that stay on this machine, such
as a version's ledger, are in the user's data folder.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from gallery.base import Gallery, say_nothing
from gallery.errors import (
    BackupError,
    GalleryNotFoundError,
    InvalidQueryError,
    NewerFormatError,
    StoreDamagedError,
    StoreUnusableError,
)
from gallery.files import Lock, user_data_folder
from gallery.memory import node_segment_mb
from gallery.profiles import find_profile
from gallery.remote.collection import RemoteGallery
from gallery.remote.connection import QdrantConnection
from gallery.remote.layout import create_collection, index_payload, limit_segments, placement_of
from gallery.spec import DEFAULT_PLACEMENT, Calibration, GallerySpec, Placement, check_name

_log = logging.getLogger(__name__)

_LOADING = "LOADING"
# Name of the file that marks a version as being loaded from this machine. It stays if the load ends without publishing.
_UNPUBLISHED = "UNPUBLISHED"
# Keys of a collection's metadata: the gallery's description, and whether a service has ever modified the collection.
_SPEC = "lookalike"
_GROWN = "lookalike_grown"


class RemoteStore:
    """The galleries of one server."""

    def __init__(self, connection: QdrantConnection, folder: Path | None = None) -> None:
        """Use a connection to the server.

        Args:
            connection: Connection to the server.
            folder: Folder for files that stay on this machine; a subfolder of the user's data folder if None.
        """
        self.url = connection.url
        self._place = f"store {self.url}"
        self._connection = connection
        folder_name = re.sub(r"[^A-Za-z0-9.-]+", "_", self.url)
        self._folder = folder or user_data_folder() / "servers" / folder_name

    def check(self) -> None:
        """Check that the server answers, accepts the configured API key and is recent enough."""
        self._connection.check()

    def names(self) -> Sequence[str]:
        """Return the names of all galleries, whether or not they can be read.

        A gallery's name is an alias of the collection of its live version. The server's other aliases are ignored.
        """
        return sorted(name for name, collection in self._connection.aliases().items() if _version(name, collection))

    def list(self) -> list[GallerySpec]:
        """Return the description of each gallery's live version, sorted by name. Log and skip unreadable galleries."""
        specs = []
        for name, collection in sorted(self._connection.aliases().items()):
            if _version(name, collection):
                try:
                    specs.append(self._spec(collection))
                except (StoreDamagedError, StoreUnusableError, NewerFormatError, GalleryNotFoundError) as error:
                    _log.warning("gallery '%s' is left out: %s", name, error)
        return specs

    def spec(self, name: str) -> GallerySpec:
        """Return the description of a gallery's live version."""
        return self._spec(self._live(name))

    def live_version(self, name: str) -> int:
        """Return the number of a gallery's live version."""
        return _version(name, self._live(name))

    def open(self, name: str) -> Gallery:
        """Open a gallery's live version. Any number of processes may open it."""
        collection = self._live(name)

        def mark_modified() -> None:
            self._connection.update_metadata(collection, {_GROWN: True})

        folder = self._folder / name / f"v{_version(name, collection)}"
        return RemoteGallery(self._connection, collection, self._spec(collection), mark_modified, folder)

    def open_for_reading(self, name: str) -> Gallery:
        """Open a gallery's live version; see `open`."""
        return self.open(name)

    def build(
        self,
        spec: GallerySpec,
        *,
        rebuild: bool = False,
        placement: Placement = DEFAULT_PLACEMENT,
        memory_bytes: int | None = None,
        say: Callable[[str], None] = say_nothing,
    ) -> RemoteBuild:
        """Begin a gallery or its next version, extend the live one, or resume an interrupted build."""
        segment_mb = memory_bytes and node_segment_mb(memory_bytes, find_profile(spec.profile))
        lock = self._loading_lock(spec.name)
        try:
            collection, spec = self._begin(spec, rebuild, placement)
            if segment_mb:
                limit_segments(self._connection, collection, segment_mb)
            folder = self._version_folder(spec.name, spec.version)
            gallery = RemoteGallery(self._connection, collection, spec, local_folder=folder)
            return RemoteBuild(self._connection, gallery, folder, lock)
        except BaseException:
            lock.close()
            raise

    def compaction(self, gallery: Gallery) -> None:
        """Return None: the server indexes new entries and removes deleted ones by itself."""

    def local_folder(self, name: str) -> Path:
        """Return the folder on this machine for files that loads keep with a gallery's live version."""
        return self._version_folder(name, self.live_version(name))

    def modified_by_service(self, name: str) -> bool:
        """Return whether a service has ever modified the live version, or a load of this machine was interrupted."""
        if (self.local_folder(name) / _UNPUBLISHED).exists():
            return True
        return _modified_by_service(self._connection, self._live(name))

    def differences(self, name: str) -> Sequence[str]:
        """Return no differences: the server checks its files itself."""
        self._live(name)
        return []

    def clean(self, name: str) -> Sequence[int]:
        """Remove the versions that are not live, even if a service has one open.

        Services switch to a new live version within two seconds.
        """
        live = self.live_version(name)
        with closing(self._loading_lock(name)):
            old = [version for version in self._versions(name) if version != live]
            for version in old:
                self._connection.remove_collection(_collection(name, version))
                shutil.rmtree(self._home(name) / f"v{version}", ignore_errors=True)
        return old

    def backup(self, name: str, file: Path) -> GallerySpec:
        """Reject every call, because the gallery's files are on the server."""
        raise BackupError(
            f"gallery '{name}' is on a server: copy it with `ingest copy {name} --from http://HOST:6333 --to edge:DIR` "
            "and back that up, or take a snapshot on the server",
            place=self._place,
        )

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Reject every call, because a backup consists of Qdrant Edge's files."""
        raise BackupError(
            "can't be restored on a server: restore it into --store edge:DIR, then run "
            "`ingest copy NAME --from edge:DIR --to http://HOST:6333`",
            place=f"backup {file}",
        )

    def drop(self, name: str) -> None:
        """Remove a gallery with all its versions, whether or not they can be read."""
        self._live(name)
        with closing(self._loading_lock(name)):
            self._connection.remove_alias(name)
            for version in self._versions(name):
                self._connection.remove_collection(_collection(name, version))
        shutil.rmtree(self._home(name))

    def _begin(self, spec: GallerySpec, rebuild: bool, placement: Placement) -> tuple[str, GallerySpec]:
        live = self._connection.aliases().get(spec.name, "")
        live_version = _version(spec.name, live)
        collections = self._connection.collections()
        if spec.name in collections or (live and not live_version):
            raise InvalidQueryError(
                f"gallery name '{spec.name}': expected a free name, got the name of another program's collection or "
                "alias: choose another with --gallery",
                place=self._place,
            )
        if live:
            current = placement_of(self._connection, live)
            placement = placement.filled_from(current)
            if not rebuild:
                if placement != current:
                    raise InvalidQueryError(
                        f"gallery '{spec.name}' has {current.shards} shards, {current.replicas} replicas and write "
                        f"consistency {current.write_consistency}: expected --rebuild to change them",
                        place=self._place,
                    )
                return live, self._spec(live).extended_by(spec)
        spec = replace(spec, version=live_version + 1)
        collection = _collection(spec.name, spec.version)
        if not (collection in collections and self._can_resume(collection, spec)):
            if collection in collections:
                self._connection.remove_collection(collection)
            shutil.rmtree(self._version_folder(spec.name, spec.version))
            create_collection(self._connection, collection, spec, placement, {_SPEC: spec.to_json()})
        index_payload(self._connection, collection, spec)
        return collection, spec

    def _can_resume(self, collection: str, spec: GallerySpec) -> bool:
        try:
            return self._spec(collection) == spec
        except (StoreDamagedError, NewerFormatError):
            return False

    def _live(self, name: str) -> str:
        """Return the collection of a gallery's live version."""
        check_name(name)
        aliases = self._connection.aliases()
        collection = aliases.get(name, "")
        if not _version(name, collection):
            names = ", ".join(self.names())
            hint = f"there are: {names}" if names else "build one with `ingest load mnist`"
            raise GalleryNotFoundError(f"no gallery '{name}': {hint}", place=self._place)
        return collection

    def _spec(self, collection: str) -> GallerySpec:
        """Return the description of a version. Its name and number are those in the collection's name.

        If the collection is a copy, its metadata may have the name and the number of the original.
        """
        content = self._connection.metadata(collection).get(_SPEC)
        spec = GallerySpec.from_json(content, f"collection {collection} in {self.url}")
        name = collection.rpartition("@v")[0]
        return replace(spec, name=name, version=_version(name, collection))

    def _versions(self, name: str) -> Sequence[int]:
        return sorted(filter(None, (_version(name, collection) for collection in self._connection.collections())))

    def _loading_lock(self, name: str) -> Lock:
        """Take the lock that keeps other processes on this machine from building a gallery."""
        return Lock(self._home(name) / _LOADING, f"gallery '{name}'")

    def _home(self, name: str) -> Path:
        home = self._folder / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _version_folder(self, name: str, version: int) -> Path:
        folder = self._home(name) / f"v{version}"
        folder.mkdir(exist_ok=True)
        return folder


class RemoteBuild:
    """A version being built on a server. Until `publish`, searches see the previous version, if there is one."""

    def __init__(self, connection: QdrantConnection, gallery: RemoteGallery, local_folder: Path, lock: Lock) -> None:
        """Take ownership of the loading lock, and mark the version before the first change."""
        self.gallery = gallery
        self.local_folder = local_folder
        self._connection = connection
        self._lock = lock
        (local_folder / _UNPUBLISHED).touch()

    @property
    def reopen(self) -> Callable[[], Gallery]:
        """A picklable function that opens the gallery in another process, over a connection of its own."""
        connection = self._connection
        return partial(
            open_collection,
            connection.url,
            connection.patience_s,
            self.gallery.collection,
            self.gallery.spec,
            self.local_folder,
        )

    @property
    def modified_by_service(self) -> bool:
        """True if a service has ever modified the version."""
        return _modified_by_service(self._connection, self.gallery.collection)

    def check_space(self, new_count: int) -> None:
        """Do nothing: the disk is the server's."""

    def index(self) -> None:
        """Make the server build the graph, and wait until it is complete."""
        self.gallery.index()

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Save the gallery's description in the collection, and point the gallery's alias at this collection."""
        spec = self.gallery.spec.published(self.gallery.count(), calibration)
        self._connection.update_metadata(self.gallery.collection, {_SPEC: spec.to_json()})
        self._connection.swap(spec.name, self.gallery.collection)
        (self.local_folder / _UNPUBLISHED).unlink(missing_ok=True)
        return spec

    def close(self) -> None:
        """Release the lock, so that other processes on this machine can build the gallery."""
        self._lock.close()


def open_collection(url: str, patience_s: float, collection: str, spec: GallerySpec, local_folder: Path) -> Gallery:
    """Connect to a server and open the gallery in one of its collections."""
    return RemoteGallery(QdrantConnection.connect(url, patience_s), collection, spec, local_folder=local_folder)


def _modified_by_service(connection: QdrantConnection, collection: str) -> bool:
    return bool(connection.metadata(collection).get(_GROWN))


def _collection(name: str, version: int) -> str:
    return f"{name}@v{version}"


def _version(name: str, collection: str) -> int:
    """Return the number of the gallery's version in a collection, 0 if the collection is not a version of it."""
    lead, _, digits = collection.rpartition("@v")
    return int(digits) if lead == name and digits.isdecimal() else 0
