"""The galleries that a process searches, each with its encoder, opened at its first use and kept open."""

import logging
import threading

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.errors import EncoderNotFoundError, RequestError
from encoder_service.searcher import Searcher
from gallery import Gallery, GallerySpec, Store
from gallery.errors import EncoderMismatchError, GalleryNotFoundError

_log = logging.getLogger(__name__)


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
        self._open: dict[str, tuple[Gallery, Searcher]] = {}
        self._default = ""
        self._lock = threading.Lock()

    def searcher(self, name: str = "") -> Searcher:
        """Return the searcher of a gallery.

        Where no name is given, it is the store's only one, and stays so when others come later.

        Raises:
            RequestError: No name is given and the store has several galleries.
            GalleryNotFoundError: There is no such gallery.
            EncoderMismatchError: It was made by an encoder that is not here.
        """
        with self._lock:
            if not name:
                name = self._default = self._default or self._only_name()
            if name not in self._open:
                encoder = self._encoder_of(self._store.spec(name))
                gallery = self._store.open(name)
                self._open[name] = gallery, Searcher(encoder, gallery)
            return self._open[name][1]

    def open_all(self) -> None:
        """Open every gallery whose encoder is here, so that no first search has to wait for it."""
        for spec in self._store.list():
            try:
                self.searcher(spec.name)
            except EncoderMismatchError as error:
                _log.warning("%s", error)

    def close(self) -> None:
        """Close all galleries."""
        with self._lock:
            for gallery, _ in self._open.values():
                gallery.close()
            self._open.clear()

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
