"""The galleries that a process searches, each with its encoder, opened at its first use and kept open."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from encoder_service.adder import Adder
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.errors import EncoderNotFoundError, RequestError
from encoder_service.searcher import Searcher
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
        self._open: dict[str, Opened] = {}
        self._default = ""
        self._lock = threading.Lock()
        self._away: UnavailableError | None = None
        self._passed_over: dict[str, int] = {}
        self._closing = threading.Event()
        self._follower: threading.Thread | None = None

    @contextmanager
    def searcher(self, name: str = "") -> Iterator[Searcher]:
        """Yield the searcher of a gallery; see `opened`."""
        with self.opened(name) as opened:
            yield opened.searcher

    @contextmanager
    def opened(self, name: str = "") -> "Iterator[Opened]":
        """Yield a gallery's live version. It stays open until the block ends, even if a newer one goes live.

        Where no name is given, it is the store's only one, and stays so when others come later.

        Raises:
            RequestError: No name is given and the store has several galleries.
            GalleryNotFoundError: There is no such gallery.
            EncoderMismatchError: It was made by an encoder that is not here.
            UnavailableError: The store is known not to answer.
        """
        self._check_store()
        with self._lock:
            if not name:
                name = self._default = self._default or self._only_name()
            if name not in self._open:
                self._open[name] = self._opened(self._store.spec(name))
            opened = self._open[name]
            opened.users += 1
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                opened.close_if_left()

    def list(self) -> "list[GallerySpec]":
        """Return what the live galleries are, by name; of those that are open, with the count of now."""
        self._check_store()
        specs = self._store.list()
        with self._lock:
            opened = {name: one.gallery for name, one in self._open.items()}
        return [
            replace(spec, count=opened[spec.name].count())
            if spec.name in opened and opened[spec.name].spec.version == spec.version
            else spec
            for spec in specs
        ]

    def open_all(self) -> None:
        """Open every gallery whose encoder is here, so that no first search has to wait for it."""
        for spec in self._store.list():
            try:
                with self.searcher(spec.name):
                    pass
            except EncoderMismatchError as error:
                _log.warning("%s", error)

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
            self._follower.join()
        with self._lock:
            for opened in self._open.values():
                opened.gallery.close()
            self._open.clear()

    def _follow(self, tell: Callable[[bool], None]) -> None:
        while not self._closing.wait(_LOOK_EVERY_S):
            self._look_at_store(tell)
            if self._away is None:
                for name, opened in list(self._open.items()):
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
        if self._away:
            raise self._away

    def _look_at(self, name: str, opened: "Opened") -> None:
        """Move to the live version of a gallery if it is another, unless it has been found bad before."""
        version = 0
        try:
            spec = self._store.spec(name)
            version = spec.version
            # one without images is a node of a cluster that has not heard of them yet
            if spec.count and version not in (opened.gallery.spec.version, self._passed_over.get(name)):
                self._move(name, opened, spec)
        except LookalikeError as error:
            if self._passed_over.get(name) != version:
                _log.warning("gallery '%s' stays at v%d: %s", name, opened.gallery.spec.version, error)
            self._passed_over[name] = version

    def _move(self, name: str, old: "Opened", spec: GallerySpec) -> None:
        wrong = self._store.differences(name)
        if wrong:
            raise StoreDamagedError(f"v{spec.version} is not as it was built: {wrong[0]}")
        new = self._opened(spec)
        with self._lock:
            self._open[name] = new
            old.replaced = True
            old.close_if_left()
        _log.info("gallery '%s' is at v%d now", name, spec.version)

    def _opened(self, spec: GallerySpec) -> "Opened":
        encoder = self._encoder_of(spec)
        gallery = self._store.open(spec.name)
        return Opened(gallery, encoder)

    def _encoder_of(self, spec: GallerySpec) -> Encoder:
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


class Opened:
    """An open version, what searches it and adds to it, and how many calls are using it."""

    def __init__(self, gallery: Gallery, encoder: Encoder) -> None:
        """Take the parts.

        Raises:
            EncoderMismatchError: The gallery was made by another encoder.
        """
        self.gallery = gallery
        self.searcher = Searcher(encoder, gallery)
        self.adder = Adder(encoder, gallery)
        self.users = 0
        self.replaced = False

    def close_if_left(self) -> None:
        """Close the version when a newer one has taken its place and the last call has ended."""
        if self.replaced and not self.users:
            self.gallery.close()
