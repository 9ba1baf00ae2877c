"""Galleries by name on a Qdrant server: each version a collection `NAME@v2`, the live one behind the alias `NAME`.

What a gallery is, its `GallerySpec`, is in the collection's metadata. What belongs to this machine, a version's
ledger, is in a folder of the user's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from gallery.base import Gallery
from gallery.errors import BackupError, GalleryNotFoundError, InvalidQueryError, StoreDamagedError
from gallery.files import Lock, user_data_folder
from gallery.remote.server import QdrantConnection, RemoteGallery
from gallery.types import DEFAULT_PLACEMENT, Calibration, GallerySpec, Placement, check_name

_FACTS = "lookalike"
_GROWN = "lookalike_grown"


class RemoteStore:
    """The galleries of one server."""

    def __init__(self, server: QdrantConnection, folder: Path | None = None) -> None:
        """Take a server.

        Args:
            server: Where the galleries are.
            folder: Keeps what belongs to this machine; one of the user's if not given.
        """
        self.url = server.url
        self._server = server
        place = re.sub(r"[^A-Za-z0-9.-]+", "_", server.url)
        self._folder = folder or user_data_folder() / "servers" / place

    def check(self) -> None:
        """See that the server answers and that this client suits it."""
        self._server.check()

    def list(self) -> list[GallerySpec]:
        """Return what the live galleries are, by name. Other aliases and collections are passed over."""
        live = {name: collection for name, collection in self._server.aliases().items() if _number(name, collection)}
        return [self._spec(name, live[name]) for name in sorted(live)]

    def spec(self, name: str) -> GallerySpec:
        """Return what the live version of a gallery is."""
        return self._spec(name, self._live(name))

    def open(self, name: str) -> Gallery:
        """Open the live version of a gallery, which any number of processes may."""
        collection = self._live(name)
        return self._server.gallery(collection, self._spec(name, collection), lambda: self._grown(collection))

    def _grown(self, collection: str) -> None:
        """Note for good that others than loads write to a version: their ledger then has to ask what it holds."""
        self._server.note(collection, {_GROWN: True})

    def build(
        self, spec: GallerySpec, *, rebuild: bool = False, placement: Placement = DEFAULT_PLACEMENT
    ) -> RemoteBuild:
        """Begin a gallery or its next version, extend the live one, or go on with a build that was cut off."""
        home = self._folder / spec.name
        home.mkdir(parents=True, exist_ok=True)
        lock = Lock(home / "LOADING", f"gallery '{spec.name}'")
        try:
            collection, wanted = self._begin(spec, rebuild, placement)
            return RemoteBuild(
                self._server, self._server.gallery(collection, wanted), self._version_folder(wanted), lock
            )
        except BaseException:
            lock.close()
            raise

    def local_folder(self, name: str) -> Path:
        """Return this machine's folder for the live version."""
        return self._version_folder(self.spec(name))

    def modified_by_service(self, name: str) -> bool:
        """Tell whether a service has changed the live version."""
        return bool(self._server.facts(self._live(name)).get(_GROWN))

    def differences(self, name: str) -> Sequence[str]:
        """Do nothing: the files are the server's own."""
        return []

    def clean(self, name: str) -> Sequence[int]:
        """Remove the versions that are not live. Services move to the live one within two seconds of a swap."""
        live = _number(name, self._live(name))
        with closing(Lock(self._folder_of(name) / "LOADING", f"gallery '{name}'")):
            old = [version for version in self._versions(name) if version != live]
            for version in old:
                self._server.remove(_collection(name, version))
                shutil.rmtree(self._folder_of(name) / f"v{version}", ignore_errors=True)
        return old

    def backup(self, name: str, file: Path) -> GallerySpec:
        """Refuse: the files are on another machine."""
        raise BackupError(
            f"gallery '{name}' is on a server: copy it with `ingest copy {name} --from {self.url} --to edge:DIR` and "
            "back that up, or take a snapshot on the server"
        )

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Refuse: a backup holds files of Qdrant Edge."""
        raise BackupError(
            f"backup {file}: a server can't take its files: restore it into --store edge:DIR, then "
            f"`ingest copy NAME --from edge:DIR --to {self.url}`"
        )

    def drop(self, name: str) -> None:
        """Remove a gallery with all its versions."""
        self._live(name)
        with closing(Lock(self._folder_of(name) / "LOADING", f"gallery '{name}'")):
            self._server.remove_alias(name)
            for version in self._versions(name):
                self._server.remove(_collection(name, version))
        shutil.rmtree(self._folder / name)

    def _begin(self, spec: GallerySpec, rebuild: bool, placement: Placement) -> tuple[str, GallerySpec]:
        collection = self._server.aliases().get(spec.name, "")
        live = _number(spec.name, collection)
        if spec.name in self._server.collections() or (collection and not live):
            raise InvalidQueryError(
                f"store {self.url}: the name '{spec.name}' is a collection's or an alias's of others: expected one "
                "that is free: name the gallery with --name"
            )
        if live and not rebuild:
            return collection, self._spec(spec.name, collection).extended_by(spec)
        wanted = replace(spec, version=live + 1)
        collection = _collection(spec.name, wanted.version)
        there = self._server.collections()
        if not (collection in there and self._is(collection, wanted)):
            if collection in there:
                self._server.remove(collection)
            shutil.rmtree(self._version_folder(wanted))
            self._server.create(collection, wanted, placement, {_FACTS: asdict(wanted)})
        self._server.index_fields(collection, wanted)
        return collection, wanted

    def _is(self, collection: str, wanted: GallerySpec) -> bool:
        try:
            return self._spec(wanted.name, collection) == wanted
        except StoreDamagedError:
            return False

    def _live(self, name: str) -> str:
        check_name(name)
        aliases = self._server.aliases()
        if not _number(name, aliases.get(name, "")):
            names = ", ".join(sorted(alias for alias, collection in aliases.items() if _number(alias, collection)))
            hint = f"there are: {names}" if names else "build one with `ingest load mnist`"
            raise GalleryNotFoundError(f"no gallery '{name}' in {self.url}: {hint}")
        return aliases[name]

    def _spec(self, name: str, collection: str) -> GallerySpec:
        return GallerySpec.from_json(
            self._server.facts(collection).get(_FACTS), f"collection {collection} in {self.url}"
        )

    def _versions(self, name: str) -> Sequence[int]:
        return sorted(filter(None, (_number(name, collection) for collection in self._server.collections())))

    def _folder_of(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _version_folder(self, spec: GallerySpec) -> Path:
        folder = self._folder_of(spec.name) / f"v{spec.version}"
        folder.mkdir(exist_ok=True)
        return folder


class RemoteBuild:
    """A version being built on a server. Until `publish`, searches see the version before it, or none."""

    def __init__(self, server: QdrantConnection, gallery: RemoteGallery, local_folder: Path, lock: Lock) -> None:
        """Take over the lock."""
        self.gallery = gallery
        self.local_folder = local_folder
        self._server = server
        self._lock = lock

    @property
    def reopen(self) -> Callable[[], Gallery]:
        """Opens the gallery in another process, over a connection of its own."""
        spec = self.gallery.spec
        return partial(open_collection, self._server.url, _collection(spec.name, spec.version), spec)

    @property
    def modified_by_service(self) -> bool:
        """Whether a service has ever changed it."""
        return bool(self._server.facts(_collection(self.gallery.spec.name, self.gallery.spec.version)).get(_GROWN))

    def index(self) -> None:
        """Have the server build the graph, and wait for it."""
        self.gallery.index()

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Note what the gallery is, then swap."""
        spec = replace(self.gallery.spec, count=self.gallery.count(), calibration=calibration)
        collection = _collection(spec.name, spec.version)
        self._server.note(collection, {_FACTS: asdict(spec)})
        self._server.swap(spec.name, collection)
        return spec

    def close(self) -> None:
        """Let others build."""
        self._lock.close()


def open_collection(url: str, collection: str, spec: GallerySpec) -> Gallery:
    """Connect to a server and open one of its collections."""
    return QdrantConnection.connect(url).gallery(collection, spec)


def _collection(name: str, version: int) -> str:
    return f"{name}@v{version}"


def _number(name: str, collection: str) -> int:
    """Return the version of the gallery that a collection holds, 0 if it is none of this gallery's."""
    lead, _, digits = collection.rpartition("@v")
    return int(digits) if lead == name and digits.isdecimal() else 0
