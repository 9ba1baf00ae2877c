"""The galleries that a process searches. Each is opened with its encoder on first use, and stays open."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.errors import EncoderNotFoundError, RequestError
from encoder_service.searcher import Searcher
from encoder_service.version_watcher import VersionWatcher
from encoder_service.writer import GalleryWriter
from gallery import Gallery, GallerySpec, Store
from gallery.deadline import check_wanted
from gallery.errors import (
    EncoderMismatchError,
    GalleryNotFoundError,
    LookalikeError,
    StoreDamagedError,
    StoreUnusableError,
    UnavailableError,
)

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Maximum times that a write is repeated on a newer version, and seconds between attempts. A server may need a moment
# before it can describe a version that has just gone live.
_FOLLOWED = 20
_FOLLOW_EVERY_S = 0.1
# Seconds between attempts to open galleries that could not be opened. Each attempt may have to read their files.
_REOPEN_EVERY_S = 5.0


class Galleries:
    """The open galleries of one store, by name. Safe to use from several threads."""

    def __init__(self, store: Store, encoder: Encoder | None = None) -> None:
        """Create the object without opening a gallery.

        Args:
            store: The store of the galleries.
            encoder: An encoder that is already loaded. Other encoders are loaded by name when a gallery needs them.
        """
        self._store = store
        self._encoders = {encoder.spec.fingerprint: encoder} if encoder else {}
        self._open: dict[str, OpenGallery] = {}
        # maps the name of each gallery that failed to open to its latest error, until it opens or is gone
        self._failures: dict[str, LookalikeError] = {}
        self._reopen_at = 0.0
        self._default = ""
        self._lock = threading.Lock()
        # Held while a gallery is opened, which takes time. Calls to open galleries only need `_lock`.
        self._opening = threading.Lock()
        self._watcher: VersionWatcher | None = None

    @contextmanager
    def searcher(self, name: str = "") -> Iterator[Searcher]:
        """Yield the searcher of a gallery; see `use`."""
        with self.use(name) as gallery:
            yield gallery.searcher

    @contextmanager
    def use(self, name: str = "") -> "Iterator[OpenGallery]":
        """Yield the live version of a gallery, and keep it open until the block ends, even if a newer one goes live.

        Args:
            name: Name of the gallery; empty for the store's only gallery, which stays the default if others are added.

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

    def write(self, name: str, operation: Callable[[GalleryWriter], T]) -> T:
        """Modify a gallery, and return only once its live version has been modified.

        If a newer version has gone live meanwhile, the operation is repeated on it. Otherwise the modification would
        be lost with the older version, which is no longer searched.

        Args:
            name: Name of the gallery; empty for the store's only gallery.
            operation: Modifies the gallery. It may be called several times.

        Returns:
            The result of the last call of `operation`.

        Raises:
            UnavailableError: The newer version can't be opened. Searches may not see the modification.
            LookalikeError: As `use` and `operation` do.
        """
        for _ in range(_FOLLOWED):
            with self.use(name) as gallery:
                result = operation(gallery.writer)
                spec = gallery.spec
            if self._store.live_version(spec.name) == spec.version:
                return result
            check_wanted()
            if not self._follow(spec.name):
                time.sleep(_FOLLOW_EVERY_S)
        raise UnavailableError(f"gallery '{spec.name}' has a version newer than v{spec.version}: try again later")

    def list(self) -> "list[GallerySpec]":
        """Return the specs of the live galleries, sorted by name. Open galleries are counted anew."""
        self._check_store()
        return [self._counted(spec) for spec in self._store.list()]

    def overview(self) -> "dict[str, GallerySpec | None]":
        """Return each gallery's spec by name, recounted if the gallery is open; None if it can't be searched."""
        specs = {spec.name: spec for spec in (*self._open_specs(), *self.list())}
        with self._lock:
            return {name: None if name in self._failures else specs.get(name) for name in self._store.names()}

    def open_all(self) -> None:
        """Open every gallery, so that no first search has to wait for it. Log those that can't be opened."""
        names = self._store.names()
        if not names:
            _log.warning("no gallery in %s yet: build one with `ingest load mnist`", self._store.url)
        for name in names:
            self._try_to_open(name)
        self._reopen_at = time.monotonic() + _REOPEN_EVERY_S

    def follow(self, report: Callable[[bool], None]) -> None:
        """Start switching to newer versions soon after they go live. Calls in flight finish on the old version.

        Args:
            report: Called immediately and on every change with whether searches can be answered. They can't while the
                store does not answer (calls then fail immediately), or while none of its galleries can be opened. An
                empty store counts as ready.
        """
        self._watcher = VersionWatcher(self._store, self._open_specs, self._move_to, self._reopen, report)
        self._watcher.start()

    def close(self) -> None:
        """Close all galleries."""
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
        """Count one more user of a gallery and return it; None if it is not open."""
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
                with self._lock:
                    self._failures.pop(name, None)
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
        """Open a gallery unless it is open. If it can't be opened, log that, so that the others are still served."""
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
                _log.info("gallery '%s' is open now", name)

    def _reopen(self) -> bool:
        """Retry the galleries that could not be opened. Return whether any gallery is open, or none has failed."""
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

    def _open_specs(self) -> Sequence[GallerySpec]:
        with self._lock:
            return [gallery.spec for gallery in self._open.values()]

    def _follow(self, name: str) -> bool:
        """Switch an open gallery to its live version, and return whether that was possible yet.

        Unlike the watcher, this does not read the version's files first: the caller of a write is waiting.
        """
        live = self._store.spec(name)
        if live.count:  # see `VersionWatcher`
            self._move_to(live)
        return bool(live.count)

    def _move_to(self, spec: GallerySpec) -> None:
        """Replace an open gallery by another version. The old version is closed by its last user."""
        with self._opening:
            with self._lock:
                old = self._open[spec.name]
            if old.spec.version == spec.version:  # another thread has switched already
                return
            new = self._open_version(spec)
            with self._lock:
                self._open[spec.name] = new
                old.is_replaced = True
                is_retired = old.is_retired
        if is_retired:
            old.close()
        _log.info("gallery '%s' is at v%d now", spec.name, spec.version)

    def _open_version(self, spec: GallerySpec) -> "OpenGallery":
        encoder = self._encoder_for(spec)
        gallery = self._store.open(spec.name)
        try:
            return OpenGallery(gallery, encoder)
        except EncoderMismatchError:  # a gallery version built with another encoder went live after the spec was read
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
    """An open version of a gallery, with the number of its users.

    Attributes:
        searcher: Searches the version.
        writer: Adds images to the version, and removes images.
        users: Calls that are using the version. `Galleries` counts them under its lock.
        is_replaced: Whether a newer version is open in its place.
    """

    def __init__(self, gallery: Gallery, encoder: Encoder) -> None:
        """Pair an open gallery with an encoder.

        Raises:
            EncoderMismatchError: Another encoder made the gallery.
        """
        self._gallery = gallery
        self.searcher = Searcher(encoder, gallery)
        self.writer = GalleryWriter(encoder, gallery)
        self.users = 0
        self.is_replaced = False

    @property
    def spec(self) -> GallerySpec:
        """The version's spec, with the count recorded when it was built."""
        return self._gallery.spec

    @property
    def is_retired(self) -> bool:
        """True once a newer version has replaced this one and the last user is done."""
        return self.is_replaced and not self.users

    def counted_spec(self) -> GallerySpec:
        """Return the version's spec with the number of images that it holds now."""
        return replace(self._gallery.spec, count=self._gallery.count())

    def close(self) -> None:
        """Close the version. An error is logged, not raised, because no caller can act on it."""
        try:
            self._gallery.close()
        except LookalikeError as error:
            _log.error("gallery '%s' v%d: %s", self.spec.name, self.spec.version, error)
