"""The galleries that a process searches, each with its encoder, opened at its first use and kept open."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.errors import EncoderNotFoundError, RequestError
from encoder_service.searcher import Searcher
from encoder_service.writer import GalleryWriter
from gallery import Gallery, GallerySpec, Store
from gallery.errors import (
    EncoderMismatchError,
    GalleryNotFoundError,
    LookalikeError,
    StoreDamagedError,
    UnavailableError,
)

_log = logging.getLogger(__name__)

# How often a service looks whether a gallery has a newer version.
_LOOK_EVERY_S = 0.5
# How long a version that is damaged is not looked at again.
_BAD_FOR_S = 30.0
# How long the end waits for a look under way.
_FOLLOWER_ENDS_S = 2.0


class Galleries:
    """Searchers by gallery name, over one store. Safe to use from several threads."""

    def __init__(self, store: Store, encoder: Encoder | None = None) -> None:
        """Open nothing yet.

        Args:
            store: Where the galleries are.
            encoder: One that is loaded already. A gallery of another encoder brings that one.
        """
        self._store = store
        self._encoders = {encoder.spec.fingerprint: encoder} if encoder else {}
        self._open: dict[str, OpenGallery] = {}
        self._default = ""
        self._lock = threading.Lock()
        # opening takes its time, and must not keep calls to other galleries waiting
        self._opening = threading.Lock()
        self._away: UnavailableError | None = None
        self._passed_over: dict[str, tuple[int, float]] = {}
        self._closing = threading.Event()
        self._follower: threading.Thread | None = None

    @contextmanager
    def searcher(self, name: str = "") -> Iterator[Searcher]:
        """Yield the searcher of a gallery; see `use`."""
        with self.use(name) as opened:
            yield opened.searcher

    @contextmanager
    def use(self, name: str = "") -> "Iterator[OpenGallery]":
        """Yield a gallery's live version. It stays open until the block ends, even if a newer one goes live.

        Where no name is given, it is the store's only one, and stays so when others come later.

        Raises:
            RequestError: No name is given and the store has several galleries.
            GalleryNotFoundError: There is no such gallery.
            EncoderMismatchError: It was made by an encoder that is not here.
            UnavailableError: The store is known not to answer.
        """
        self._check_store()
        opened = self._acquire(name or self._default) or self._first_use(name)
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                is_left = opened.is_left
            if is_left:
                opened.close()

    def list(self) -> "list[GallerySpec]":
        """Return what the live galleries are, by name; of those that are open, with the count of now."""
        self._check_store()
        return [self._with_count_of_now(spec) for spec in self._store.list()]

    def open_all(self) -> None:
        """Open every gallery whose encoder is here, so that no first search has to wait for it."""
        specs = self._store.list()
        if not specs:
            _log.warning("no gallery in %s yet: build one with `ingest load mnist`", self._store.url)
        for spec in specs:
            try:
                with self.searcher(spec.name):
                    pass
            except LookalikeError as error:  # what is wrong with one gallery is no reason to keep the others away
                _log.warning("gallery '%s' can't be opened: %s", spec.name, error)

    def follow(self, tell: Callable[[bool], None]) -> None:
        """From now on, move to a gallery's newer version soon after it goes live. Calls under way end on the old.

        Args:
            tell: Told whenever the store stops or begins to answer; while it does not, calls fail at once.
        """
        self._follower = threading.Thread(target=self._follow, args=(tell,), name="follow", daemon=True)
        self._follower.start()

    def close(self) -> None:
        """Close all galleries."""
        self._closing.set()
        if self._follower:
            self._follower.join(_FOLLOWER_ENDS_S)
        with self._lock:
            left = list(self._open.values())
            self._open.clear()
        for opened in left:
            opened.close()

    def _acquire(self, name: str) -> "OpenGallery | None":
        """Return an open gallery, for whom it then stays open."""
        with self._lock:
            opened = self._open.get(name)
            if opened:
                opened.users += 1
            return opened

    def _first_use(self, name: str) -> "OpenGallery":
        with self._opening:
            if not name:
                name = self._default = self._default or self._only_name()
            opened = self._acquire(name)  # somebody else may have been quicker
            if opened:
                return opened
            opened = self._open_version(self._store.spec(name))
            opened.users = 1
            with self._lock:
                self._open[name] = opened
            return opened

    def _with_count_of_now(self, spec: GallerySpec) -> GallerySpec:
        with self._lock:
            is_open = spec.name in self._open
        if not is_open:
            return spec
        with self.use(spec.name) as opened:
            same = opened.gallery.spec.version == spec.version
            return replace(spec, count=opened.gallery.count()) if same else spec

    def _follow(self, tell: Callable[[bool], None]) -> None:
        while not self._closing.wait(_LOOK_EVERY_S):
            try:
                self._look_at_store(tell)
                if self._away is None:
                    self._look_at_all()
            except Exception:  # whatever it is: the next look may go well, and there must be one
                _log.exception("the store can't be looked at")

    def _look_at_all(self) -> None:
        with self._lock:
            galleries = list(self._open.items())
        for name, opened in galleries:
            if not self._closing.is_set():
                self._look_at(name, opened)

    def _look_at_store(self, tell: Callable[[bool], None]) -> None:
        before = self._away
        try:
            self._store.check()
            self._away = None
        except UnavailableError as error:
            self._away = error
        if (before is None) != (self._away is None):
            _log.warning("%s", self._away or f"store {self._store.url} answers again")
            tell(self._away is None)

    def _check_store(self) -> None:
        away = self._away
        if away:
            raise copy(away)  # a copy, because each raise adds a traceback to the error

    def _look_at(self, name: str, opened: "OpenGallery") -> None:
        """Move to the live version of a gallery if it is another, unless it was found bad a short while ago."""
        current, version = opened.gallery.spec, 0
        try:
            spec = self._store.spec(name)
            version = spec.version
            is_another = (version, spec.fingerprint) != (current.version, current.fingerprint)
            bad_version, until = self._passed_over.get(name, (0, 0.0))
            # one without images is a node of a cluster that has not heard of them yet
            if is_another and spec.count and not (version == bad_version and time.monotonic() < until):
                self._move(name, opened, spec)
        except LookalikeError as error:
            if self._passed_over.get(name, (None, 0.0))[0] != version:
                _log.warning("gallery '%s' stays at v%d: %s", name, current.version, error)
            lasts = isinstance(error, StoreDamagedError | EncoderMismatchError)
            self._passed_over[name] = (version, time.monotonic() + (_BAD_FOR_S if lasts else 0.0))

    def _move(self, name: str, old: "OpenGallery", spec: GallerySpec) -> None:
        wrong = self._store.differences(name)
        if wrong:
            raise StoreDamagedError(f"v{spec.version} is not as it was built: {wrong[0]}")
        new = self._open_version(spec)
        with self._lock:
            self._open[name] = new
            old.replaced = True
            is_left = old.is_left
        if is_left:
            old.close()
        _log.info("gallery '%s' is at v%d now", name, spec.version)

    def _open_version(self, spec: GallerySpec) -> "OpenGallery":
        encoder = self._encoder_for(spec)
        gallery = self._store.open(spec.name)
        return OpenGallery(gallery, encoder)

    def _encoder_for(self, spec: GallerySpec) -> Encoder:
        if spec.fingerprint not in self._encoders:
            try:
                encoder = load_encoder(spec.encoder)
            except EncoderNotFoundError as error:
                raise EncoderMismatchError(
                    f"gallery '{spec.name}' was made by encoder '{spec.encoder}' ({spec.fingerprint[:8]}…), which is "
                    "not here: name its folder with --encoder, or build the gallery again"
                ) from error
            spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
            self._encoders[spec.fingerprint] = encoder
        return self._encoders[spec.fingerprint]

    def _only_name(self) -> str:
        names = [spec.name for spec in self._store.list()]
        if not names:
            raise GalleryNotFoundError(f"no gallery in {self._store.url}: build one with `ingest load mnist`")
        if len(names) > 1:
            raise RequestError(f"gallery: expected a name where there are several, one of {', '.join(names)}")
        return names[0]


class OpenGallery:
    """An open version, what searches it and adds to it, and how many calls are using it."""

    def __init__(self, gallery: Gallery, encoder: Encoder) -> None:
        """Take the parts.

        Raises:
            EncoderMismatchError: The gallery was made by another encoder.
        """
        self.gallery = gallery
        self.searcher = Searcher(encoder, gallery)
        self.adder = GalleryWriter(encoder, gallery)
        self.users = 0
        self.replaced = False

    @property
    def is_left(self) -> bool:
        """Whether a newer version has taken its place and the last call has ended."""
        return self.replaced and not self.users

    def close(self) -> None:
        """Close the version; what goes wrong is logged, as it is no caller's concern."""
        try:
            self.gallery.close()
        except LookalikeError as error:
            _log.error("gallery '%s' v%d: %s", self.gallery.spec.name, self.gallery.spec.version, error)
