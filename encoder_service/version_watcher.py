"""Watch a store for outages, for galleries that can be opened again, and for newer versions of open galleries."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from copy import copy

from gallery import GallerySpec, Store
from gallery.errors import (
    EncoderMismatchError,
    GalleryNotFoundError,
    LookalikeError,
    StoreDamagedError,
    UnavailableError,
)

_log = logging.getLogger(__name__)

# Seconds between two polls of the store. A new version of a gallery is served about this long after it goes live.
_INTERVAL_S = 0.5
# Seconds before the next attempt to open a version that is damaged or whose encoder is missing. Each attempt reads all
# of the version's files, which would slow the service down if it happened at every poll.
_RETRY_BAD_VERSION_S = 30.0
# Maximum seconds that `stop` waits for the current poll. If the store hangs, `stop` gives up, and the thread does not
# keep the process alive because it is a daemon.
_STOP_TIMEOUT_S = 2.0


class VersionWatcher:
    """A thread that polls a store, reports outages, and switches each open gallery to its newest version."""

    def __init__(
        self,
        store: Store,
        open_specs: Callable[[], Sequence[GallerySpec]],
        move_to: Callable[[GallerySpec], None],
        forget: Callable[[str], None],
        reopen: Callable[[], bool],
        report: Callable[[bool], None],
    ) -> None:
        """Prepare the thread without starting it.

        Args:
            store: The store to poll.
            open_specs: Returns the specs of the galleries that are open.
            move_to: Opens another version of an open gallery in place of the current one.
            forget: Closes an open gallery that the store no longer has.
            reopen: Called at every poll. May try again to open galleries that failed to open. Returns False if searches
                can't be answered because no gallery can be opened.
            report: Called by `start` with True or False, and again whenever the value changes. True means that searches
                can be answered.
        """
        self._store = store
        self._open_specs = open_specs
        self._move_to = move_to
        self._forget = forget
        self._reopen = reopen
        self._report = report
        self._outage: UnavailableError | None = None
        self._is_searchable = True
        self._reported: bool | None = None
        # by gallery: the publication of the latest version that could not be opened, and when to try it again
        self._bad_versions: dict[str, tuple[tuple[int, str, str] | None, float]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="version-watcher", daemon=True)

    def start(self) -> None:
        """Report whether searches can be answered, and start polling."""
        self._is_searchable = self._reopen()
        self._report_change()
        self._thread.start()

    def stop(self) -> None:
        """Stop polling, and wait up to two seconds for the current poll to end."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def check_store(self) -> None:
        """Raise an error at once, without a call to the store, if the store did not answer the last poll.

        Raises:
            UnavailableError: The store did not answer the last poll.
        """
        outage = self._outage
        if outage:
            raise copy(outage)  # each raise attaches a traceback to the error, which would grow without the copy

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            try:
                self._look_at_store()
                if self._outage is None:
                    self._look_at_galleries()
                    self._is_searchable = self._reopen()
                self._report_change()
            except Exception:  # keep the thread alive, because the next poll may succeed
                _log.exception("looking for new versions failed")

    def _look_at_store(self) -> None:
        before = self._outage
        try:
            self._store.check()
            self._outage = None
        except UnavailableError as error:
            self._outage = error
        if (before is None) != (self._outage is None):
            _log.warning("%s", self._outage or f"store {self._store.url} answers again")

    def _look_at_galleries(self) -> None:
        for spec in self._open_specs():
            if not self._stopping.is_set():
                self._look_at(spec)

    def _report_change(self) -> None:
        can_answer = self._outage is None and self._is_searchable
        if can_answer != self._reported:
            self._reported = can_answer
            self._report(can_answer)

    def _look_at(self, current: GallerySpec) -> None:
        """Switch a gallery to its live version, unless that is open already or has recently failed to open."""
        name, live = current.name, None
        bad_version, retry_at = self._bad_versions.get(name, ((), 0.0))
        try:
            spec = self._store.spec(name)
            live = spec.publication
            is_waiting = live == bad_version and time.monotonic() < retry_at
            # a count of 0 means that this cluster node has not replicated the new version yet
            if live != current.publication and spec.count and not is_waiting:
                self._move(spec)
        except GalleryNotFoundError:
            self._forget(name)
        except LookalikeError as error:
            if any(spec.name == name and spec.publication == live for spec in self._open_specs()):
                return  # not damaged: a write has meanwhile opened this version and modified its files
            if live != bad_version:
                _log.warning("gallery '%s' stays at v%d: %s", name, current.version, error)
            is_lasting = isinstance(error, StoreDamagedError | EncoderMismatchError)
            retry_at = time.monotonic() + (_RETRY_BAD_VERSION_S if is_lasting else 0.0)
            self._bad_versions[name] = (live, retry_at)

    def _move(self, live: GallerySpec) -> None:
        differences = self._store.differences(live.name)
        if differences:
            raise StoreDamagedError(f"v{live.version} is not as it was built: {differences[0]}")
        self._move_to(live)
