"""The galleries that a process searches, each opened at its first use and kept open."""

import threading

from encoder_service.encoder import Encoder
from encoder_service.errors import RequestError
from encoder_service.searcher import Searcher
from gallery import Gallery, Store
from gallery.errors import GalleryNotFoundError


class Galleries:
    """Searchers by gallery name, over one store and one encoder. Safe to use from several threads."""

    def __init__(self, store: Store, encoder: Encoder) -> None:
        """Open nothing yet."""
        self._store = store
        self._encoder = encoder
        self._open: dict[str, tuple[Gallery, Searcher]] = {}
        self._default = ""
        self._lock = threading.Lock()

    def searcher(self, name: str = "") -> Searcher:
        """Return the searcher of a gallery.

        Where no name is given, it is the store's only one, and stays so when others come later.

        Raises:
            RequestError: No name is given and the store has several galleries.
            GalleryNotFoundError: There is no such gallery.
            EncoderMismatchError: It was made by another encoder.
        """
        with self._lock:
            if not name:
                name = self._default = self._default or self._only_name()
            if name not in self._open:
                self._store.spec(name).check_encoder(self._encoder.spec.name, self._encoder.spec.fingerprint)
                gallery = self._store.open(name)
                self._open[name] = gallery, Searcher(self._encoder, gallery)
            return self._open[name][1]

    def open_all(self) -> None:
        """Open every gallery that this encoder made, so that no first search has to wait for it."""
        for spec in self._store.list():
            if spec.fingerprint == self._encoder.spec.fingerprint:
                self.searcher(spec.name)

    def close(self) -> None:
        """Close all galleries."""
        with self._lock:
            for gallery, _ in self._open.values():
                gallery.close()
            self._open.clear()

    def _only_name(self) -> str:
        names = [spec.name for spec in self._store.list()]
        if not names:
            raise GalleryNotFoundError(f"no gallery in {self._store.url}: build one with `ingest load mnist`")
        if len(names) > 1:
            raise RequestError(f"gallery: expected a name where there are several, one of {', '.join(names)}")
        return names[0]
