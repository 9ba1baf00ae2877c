"""Keep galleries open for searching. A gallery is opened, together with its encoder, when it is first used."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TypeVar

from encoder_service.compactor import Compaction, Compactor, Progress, Stage
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.errors import EncoderNotFoundError, RequestError
from encoder_service.searcher import Searcher
from encoder_service.version_watcher import VersionWatcher
from encoder_service.writer import GalleryWriter
from gallery import Entry, Gallery, GallerySpec, Store
from gallery.deadline import check_wanted
from gallery.errors import (
    EncoderMismatchError,
    GalleryNotFoundError,
    LookalikeError,
    StoreDamagedError,
    StoreUnusableError,
    UnavailableError,
)
from gallery.findings import NO_FINDINGS, Findings, read_findings
from gallery.map import read_map
from gallery.types import Changes

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Maximum attempts of a write, each on a newer version of the gallery, and seconds between them. A Qdrant server may
# need a moment before it can describe a version that has just gone live.
_MAX_WRITE_ATTEMPTS = 20
_WRITE_RETRY_S = 0.1
# Seconds between attempts to open the galleries that failed to open. An attempt may have to read all of their files.
_REOPEN_EVERY_S = 5.0
# Maximum seconds that a compaction waits for the calls that still use the old version, before it leaves the version to
# be removed when the gallery is next opened.
_RETIRE_S = 60.0


class Galleries:
    """The open galleries of one store, by name. Safe to use from several threads."""

    def __init__(self, store: Store, encoder: Encoder | None = None, *, compacts: bool = True) -> None:
        """Begin with all galleries closed.

        Args:
            store: The store that holds the galleries.
            encoder: An encoder that is already loaded. Other encoders are loaded by name when a gallery needs them.
            compacts: Whether `follow` begins to compact galleries that need it.
        """
        self._store = store
        self._encoders = {encoder.spec.fingerprint: encoder} if encoder else {}
        self._open: dict[str, OpenGallery] = {}
        # the latest error of each gallery that could not be opened, by name; removed once it opens or is deleted
        self._failures: dict[str, LookalikeError] = {}
        self._reopen_at = 0.0
        self._default = ""
        self._lock = threading.Lock()
        # Held while a gallery is being opened, which takes long. Calls to galleries that are open need only `_lock`.
        self._opening = threading.Lock()
        self._watcher: VersionWatcher | None = None
        self._compactor = Compactor(self._changes, self._compact, only_on_request=not compacts)

    @contextmanager
    def searcher(self, name: str = "") -> Iterator[Searcher]:
        """Yield the searcher of a gallery; see `use`."""
        with self.use(name) as gallery:
            yield gallery.searcher

    @contextmanager
    def use(self, name: str = "") -> "Iterator[OpenGallery]":
        """Yield the live version of a gallery, and keep this version open until the block ends.

        Args:
            name: Name of the gallery; empty for the store's only gallery. If more galleries are added later, an empty
                name still means the first.

        Raises:
            RequestError: No name is given, and the store has several galleries.
            GalleryNotFoundError: No gallery has this name.
            EncoderMismatchError: The encoder that made the gallery is not installed.
            UnavailableError: The store can't be used.
        """
        self._check_store()
        gallery = self._acquire(name or self._default) or self._first_use(name)
        try:
            yield gallery
        finally:
            with self._lock:
                gallery.users -= 1
                is_retired = gallery.is_retired
            if is_retired:
                gallery.close()

    def findings(self, name: str) -> Findings:
        """Return what commands have found out about a gallery's live version."""
        try:
            return read_findings(self._store.local_folder(name))
        except LookalikeError:
            return NO_FINDINGS

    def map(self, name: str) -> bytes:
        """Return the content of the file with a gallery's map; see `gallery.map`.

        Args:
            name: Name of the gallery; empty for the store's only gallery.

        Raises:
            MapNotFoundError: The gallery has no map.
            LookalikeError: `use` has failed, or the file can't be read.
        """
        with self.use(name) as gallery:
            name = gallery.spec.name
        return read_map(self._store.local_folder(name), name)

    def write(self, name: str, operation: Callable[[GalleryWriter], T]) -> T:
        """Modify the live version of a gallery.

        If a newer version goes live during the operation, repeat the operation on the newer version. Otherwise, the
        modification would be lost, because the older version is no longer searched.

        Args:
            name: Name of the gallery; empty for the store's only gallery.
            operation: Modifies the gallery. It may be called several times, on different versions.

        Returns:
            The result of the last call of `operation`.

        Raises:
            UnavailableError: A newer version is live but can't be opened. Searches may not see the modification.
            LookalikeError: `use` or `operation` has failed.
        """
        for _ in range(_MAX_WRITE_ATTEMPTS):
            with self.use(name) as gallery:
                result = operation(gallery.writer)
                spec = gallery.spec
            if self._store.live_version(spec.name) == spec.version:
                return result
            check_wanted()
            if not self._follow(spec.name):
                time.sleep(_WRITE_RETRY_S)
        raise UnavailableError(f"gallery '{spec.name}' has a version newer than v{spec.version}: try again later")

    def compact(self, name: str, version: int = 0) -> Compaction:
        """Begin to compact a gallery in the background, and return the state of its compaction; see `Compactor.follow`.

        Args:
            name: Name of the gallery; empty for the store's only gallery.
            version: The version to compact; 0 for the live one.
        """
        with self.use(name) as gallery:
            live = gallery.counted_spec()
        return self._compactor.follow(live, version)

    def list(self) -> "list[GallerySpec]":
        """Return the specs of the live galleries, sorted by name. The images of open galleries are counted again."""
        self._check_store()
        return [self._counted(spec) for spec in self._store.list()]

    def overview(self) -> "dict[str, GallerySpec | None]":
        """Return the spec of each gallery by name, None for a gallery that can't be searched.

        The images of open galleries are counted again.
        """
        specs = {spec.name: spec for spec in (*self._open_specs(), *self.list())}
        with self._lock:
            return {name: None if name in self._failures else specs.get(name) for name in self._store.names()}

    def open_all(self) -> None:
        """Open every gallery, so that no search has to wait for that. Log an error for each that can't be opened."""
        names = self._store.names()
        if not names:
            _log.warning("no gallery in %s yet: build one with `ingest load mnist`", self._store.url)
        for name in names:
            self._try_to_open(name)
        self._reopen_at = time.monotonic() + _REOPEN_EVERY_S

    def follow(self, report: Callable[[bool], None]) -> None:
        """Start a thread that switches each gallery to its newest version, and one that compacts galleries.

        Calls in flight finish on the old version.

        Args:
            report: Called at once with True or False, and again whenever the value changes. True means that searches
                can be answered: the store responds, and it is empty or at least one of its galleries can be opened.
                While the store does not respond, all calls fail immediately.
        """
        self._watcher = VersionWatcher(self._store, self._open_specs, self._move_to, self._forget, self._reopen, report)
        self._watcher.start()
        self._compactor.start()

    def close(self) -> None:
        """Close all galleries."""
        self._compactor.stop()
        if self._watcher:
            self._watcher.stop()
        with self._lock:
            galleries = list(self._open.values())
            self._open.clear()
        for gallery in galleries:
            gallery.close()

    def _check_store(self) -> None:
        if self._watcher:
            self._watcher.check_store()

    def _acquire(self, name: str) -> "OpenGallery | None":
        """Add one to the users of a gallery and return the gallery; None if it is not open."""
        with self._lock:
            gallery = self._open.get(name)
            if gallery:
                gallery.users += 1
            return gallery

    def _first_use(self, name: str) -> "OpenGallery":
        with self._opening:
            if not name:
                name = self._default = self._default or self._only_name()
            gallery = self._acquire(name)  # another thread may have opened it while this one waited for the lock
            if gallery:
                return gallery
            try:
                gallery = self._open_version(self._store.spec(name))
            except GalleryNotFoundError:
                self._forget(name)
                raise
            except LookalikeError as error:
                with self._lock:
                    self._failures[name] = error
                raise
            gallery.users = 1
            with self._lock:
                self._open[name] = gallery
                self._failures.pop(name, None)
            return gallery

    def _try_to_open(self, name: str) -> None:
        """Open a gallery unless it is open. Log a failure instead of raising it, so that other galleries are served."""
        with self._lock:
            before = self._failures.get(name)
        try:
            with self.searcher(name):
                pass
        except LookalikeError as error:
            if str(error) != str(before):
                _log.warning("gallery '%s' can't be opened: %s", name, error)
        else:
            if before:
                _log.info("gallery '%s' can be opened again", name)

    def _reopen(self) -> bool:
        """Try again to open the galleries that failed to open, at most every five seconds.

        Returns:
            False if galleries have failed to open and no gallery is open.
        """
        if time.monotonic() >= self._reopen_at:
            for name in list(self._failures):
                self._try_to_open(name)
            self._reopen_at = time.monotonic() + _REOPEN_EVERY_S
        with self._lock:
            return bool(self._open) or not self._failures

    def _counted(self, spec: GallerySpec) -> GallerySpec:
        with self._lock:
            is_open = spec.name in self._open
        if not is_open:
            return spec
        try:
            with self.use(spec.name) as gallery:
                is_live = gallery.spec.version == spec.version
                return gallery.counted_spec() if is_live else spec
        except (StoreDamagedError, StoreUnusableError, GalleryNotFoundError) as error:
            _log.warning("gallery '%s' can't be counted: %s", spec.name, error)
            return spec

    def _changes(self) -> Sequence[tuple[GallerySpec, Changes]]:
        with self._lock:
            return [(gallery.spec, gallery.gallery.changes()) for gallery in self._open.values()]

    def _compact(self, name: str, progress: Progress) -> GallerySpec | None:
        """Compact a gallery, and replace its open version with the new one.

        Returns:
            The new version; None if the store itself keeps its index up to date.
        """
        with ExitStack() as stack:
            old = stack.enter_context(self.use(name))
            compaction = self._store.compaction(old.gallery)
            if compaction is None:
                return None
            with closing(compaction):
                compaction.copy(progress.advance)
                progress.stage = Stage.INDEXING
                compaction.index(progress.check)
                with self._opening:
                    if old.is_replaced:
                        raise StoreUnusableError("another version has gone live meanwhile")
                    new = OpenGallery(compaction.go_live(), self._encoder_for(old.spec))
                    self._replace(old, new)
                spec = new.counted_spec()
                stack.close()  # the old version loses this user, and is closed by its last one
                old.is_closed.wait(_RETIRE_S)
                return spec

    def _open_specs(self) -> Sequence[GallerySpec]:
        with self._lock:
            return [gallery.spec for gallery in self._open.values()]

    def _follow(self, name: str) -> bool:
        """Switch an open gallery to its live version, and return True; False if that version is not ready yet.

        `VersionWatcher` checks a version's files before it switches. This method does not, because a caller is waiting.
        """
        live = self._store.spec(name)
        if live.count:  # a count of 0 means that this cluster node has not replicated the new version yet
            self._move_to(live)
        return bool(live.count)

    def _move_to(self, spec: GallerySpec) -> None:
        """Replace the open version of a gallery with another. The old version is closed once no call uses it."""
        with self._opening:
            with self._lock:
                old = self._open.get(spec.name)
            if old is None:  # the gallery has been removed meanwhile
                return
            if old.spec.publication == spec.publication:  # another thread has switched already
                return
            is_retired = self._replace(old, self._open_version(spec))
        if is_retired:
            old.close()
        _log.info("gallery '%s' switched to v%d", spec.name, spec.version)

    def _forget(self, name: str) -> None:
        """Close a gallery that the store no longer has, once no call uses it."""
        with self._lock:
            self._failures.pop(name, None)
            if self._default == name:
                self._default = ""
            gallery = self._open.pop(name, None)
            if gallery:
                gallery.is_replaced = True
            is_retired = gallery is not None and gallery.is_retired
        if gallery and is_retired:
            gallery.close()

    def _replace(self, old: "OpenGallery", new: "OpenGallery") -> bool:
        """Replace an open version with another, and return whether no call uses the old one. The caller closes it."""
        with self._lock:
            self._open[new.spec.name] = new
            old.is_replaced = True
            return old.is_retired

    def _open_version(self, spec: GallerySpec) -> "OpenGallery":
        encoder = self._encoder_for(spec)
        gallery = self._store.open(spec.name)
        try:
            return OpenGallery(gallery, encoder)
        except EncoderMismatchError:  # after `spec` was read, a version made by another encoder went live
            gallery.close()
            raise

    def _encoder_for(self, spec: GallerySpec) -> Encoder:
        if spec.fingerprint not in self._encoders:
            try:
                encoder = load_encoder(spec.encoder, spec.fingerprint)
            except EncoderNotFoundError as error:
                raise EncoderMismatchError(
                    f"gallery '{spec.name}' was made by encoder '{spec.encoder}' ({spec.fingerprint[:8]}…), which is "
                    "not installed: name its folder with --encoder, or build the gallery again"
                ) from error
            spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
            self._encoders[spec.fingerprint] = encoder
        return self._encoders[spec.fingerprint]

    def _only_name(self) -> str:
        names = self._store.names()
        if not names:
            raise GalleryNotFoundError("no gallery: build one with `ingest load mnist`", place=self._store.url)
        if len(names) > 1:
            raise RequestError(f"gallery: expected a name where there are several, one of {', '.join(names)}")
        return names[0]


class OpenGallery:
    """An open version of a gallery, and the number of calls that use it.

    Attributes:
        gallery: The version.
        searcher: Searches the version.
        writer: Adds images to the version, and removes images from it.
        users: Number of calls that are using the version. `Galleries` changes it while holding its lock.
        is_replaced: Whether a newer version has been opened in place of this one.
        is_closed: Set once the version has been closed.
    """

    def __init__(self, gallery: Gallery, encoder: Encoder) -> None:
        """Pair an open gallery with an encoder.

        Raises:
            EncoderMismatchError: Another encoder made the gallery.
        """
        self.gallery = gallery
        self.searcher = Searcher(encoder, gallery)
        self.writer = GalleryWriter(encoder, gallery)
        self.users = 0
        self.is_replaced = False
        self.is_closed = threading.Event()

    @property
    def spec(self) -> GallerySpec:
        """The version's spec, whose `count` is the number of images when the version was built."""
        return self.gallery.spec

    @property
    def is_retired(self) -> bool:
        """True once a newer version has replaced this one and no call uses this one any more."""
        return self.is_replaced and not self.users

    def get(self, keys: Sequence[str]) -> list[Entry]:
        """Return the stored images with these keys, in the order of the keys. Keys without an image are left out."""
        return [entry for entry in self.gallery.get(keys) if entry]

    def counted_spec(self) -> GallerySpec:
        """Return the version's spec, with its current number of images as `count`."""
        return replace(self.gallery.spec, count=self.gallery.count())

    def close(self) -> None:
        """Close the version. Log an error instead of raising it, because no caller could handle it."""
        try:
            self.gallery.close()
        except LookalikeError as error:
            _log.error("gallery '%s' v%d: %s", self.spec.name, self.spec.version, error)
        finally:
            self.is_closed.set()
