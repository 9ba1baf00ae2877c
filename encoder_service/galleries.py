"""The galleries that a process searches. Each is opened with its encoder at its first use, and stays open."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.errors import EncoderNotFoundError, RequestError
from encoder_service.searcher import Searcher
from encoder_service.version_watcher import VersionWatcher
from encoder_service.writer import GalleryWriter
from gallery import Gallery, GallerySpec, Store
from gallery.errors import EncoderMismatchError, GalleryNotFoundError, LookalikeError

_log = logging.getLogger(__name__)


class Galleries:
    """The open galleries of one store, by name. Safe to use from several threads."""

    def __init__(self, store: Store, encoder: Encoder | None = None) -> None:
        """Open nothing yet.

        Args:
            store: The store of the galleries.
            encoder: An encoder that is loaded already. A gallery of another encoder has its own loaded by name.
        """
        self._store = store
        self._encoders = {encoder.spec.fingerprint: encoder} if encoder else {}
        self._open: dict[str, OpenGallery] = {}
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

    def list(self) -> "list[GallerySpec]":
        """Return the specs of the live galleries, sorted by name. Open galleries are counted anew."""
        self._check_store()
        return [self._counted(spec) for spec in self._store.list()]

    def open_all(self) -> None:
        """Open every gallery, so that no first search has to wait for it. Log those that can't be opened."""
        specs = self._store.list()
        if not specs:
            _log.warning("no gallery in %s yet: build one with `ingest load mnist`", self._store.url)
        for spec in specs:
            try:
                with self.searcher(spec.name):
                    pass
            except LookalikeError as error:  # one bad gallery must not keep the others from being served
                _log.warning("gallery '%s' can't be opened: %s", spec.name, error)

    def follow(self, report: Callable[[bool], None]) -> None:
        """Start to move to newer versions soon after they go live. Calls in flight finish on the old version.

        Args:
            report: Called with False when the store stops answering, and with True when it answers again. In between,
                calls fail at once.
        """
        self._watcher = VersionWatcher(self._store, self._open_specs, self._move_to, report)
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
            gallery = self._open_version(self._store.spec(name))
            gallery.users = 1
            with self._lock:
                self._open[name] = gallery
            return gallery

    def _counted(self, spec: GallerySpec) -> GallerySpec:
        with self._lock:
            is_open = spec.name in self._open
        if not is_open:
            return spec
        with self.use(spec.name) as gallery:
            is_live = gallery.spec.version == spec.version
            return gallery.counted_spec() if is_live else spec

    def _open_specs(self) -> Sequence[GallerySpec]:
        with self._lock:
            return [gallery.spec for gallery in self._open.values()]

    def _move_to(self, spec: GallerySpec) -> None:
        """Replace an open gallery by another version. The old version is closed by its last user."""
        new = self._open_version(spec)
        with self._lock:
            old = self._open[spec.name]
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
        except EncoderMismatchError:  # a version of another encoder has gone live since the spec was read
            gallery.close()
            raise

    def _encoder_for(self, spec: GallerySpec) -> Encoder:
        if spec.fingerprint not in self._encoders:
            try:
                encoder = load_encoder(spec.encoder)
            except EncoderNotFoundError as error:
                raise EncoderMismatchError(
                    f"gallery '{spec.name}' was made by encoder '{spec.encoder}' ({spec.fingerprint[:8]}…), which is "
                    "not installed: name its folder with --encoder, or build the gallery again"
                ) from error
            spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
            self._encoders[spec.fingerprint] = encoder
        return self._encoders[spec.fingerprint]

    def _only_name(self) -> str:
        names = [spec.name for spec in self._store.list()]
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
        """Whether a newer version has replaced this one and the last user is done."""
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
