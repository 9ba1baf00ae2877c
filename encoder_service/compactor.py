"""Compact galleries in the background: index them anew once searches have to compare too many new images one by one."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from enum import StrEnum

from gallery import GallerySpec
from gallery.errors import LookalikeError, UnavailableError
from gallery.plurals import counted
from gallery.types import Changes

_log = logging.getLogger(__name__)

# Share of a gallery's images whose addition begins a compaction. A search compares its query with each added image,
# which takes 2.5 ms for 5 % of 1,000,000 images. A gallery that doubles is indexed 14 times at this share.
_ADDED_SHARE = 0.05
# Share of a gallery's images whose deletion begins a compaction. Deleted images take space on disk and in the page
# cache, but hardly slow searches down.
_DELETED_SHARE = 0.2
# Minimum number of changed images that begins a compaction. To compare 10,000 images takes half a millisecond, and a
# gallery of fewer than 20,000 images has no index that could be quicker.
_MIN_CHANGED = 10_000
# Seconds between two checks of the galleries.
_CHECK_S = 2.0
# Seconds before a compaction that the service began, and that failed, is tried again: after the first failure, and at
# most. Each failure in a row doubles the time. A running load takes minutes. But if memory is too small for indexing,
# each attempt copies the whole gallery in vain.
_RETRY_S = 60.0
_MAX_RETRY_S = 3600.0
# Maximum seconds that `stop` waits for a compaction to end.
_STOP_TIMEOUT_S = 5.0


class Stage(StrEnum):
    """Stage of a compaction, also its text for users."""

    COPYING = "copying"
    INDEXING = "indexing"
    DONE = "done"
    """The new version is live."""
    NOT_NEEDED = "not needed"
    """The store itself keeps its index up to date."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """The state of a compaction.

    Attributes:
        spec: The live version, with its current number of images. It is the new version once the compaction is done.
        stage: The stage.
        copied: Number of images that have been copied.
    """

    spec: GallerySpec
    stage: Stage
    copied: int = 0


class Progress:
    """Receives the progress of one compaction, and ends the compaction when the service shuts down."""

    def __init__(self, is_stopping: Callable[[], bool]) -> None:
        """Begin with the stage COPYING."""
        self.stage = Stage.COPYING
        self.copied = 0
        self._is_stopping = is_stopping

    def advance(self, count: int) -> None:
        """Count copied images.

        Raises:
            UnavailableError: The service is shutting down.
        """
        self.copied += count
        self.check()

    def check(self) -> None:
        """Raise UnavailableError if the service is shutting down."""
        if self._is_stopping():
            raise UnavailableError("the service is shutting down")


class Compactor:
    """A thread that compacts galleries, one at a time: those that need it, and those that a client names."""

    def __init__(
        self,
        changes: Callable[[], Sequence[tuple[GallerySpec, Changes]]],
        compact: Callable[[str, Progress], GallerySpec | None],
        *,
        only_on_request: bool = False,
    ) -> None:
        """Prepare the thread without starting it.

        Args:
            changes: Returns the specs of the open galleries, each with its changes since it was indexed.
            compact: Compacts the gallery of this name, and returns the new version. Returns None if the store itself
                keeps its index up to date.
            only_on_request: Compact only galleries that a client names.
        """
        self._changes = changes
        self._compact = compact
        self._only_on_request = only_on_request
        self._lock = threading.Lock()
        self._requested: dict[str, None] = {}  # names of galleries, oldest request first
        self._running: dict[str, Progress] = {}  # at most one gallery
        # by name: the new version of the latest compaction, its error, or None if the store keeps its index up to date
        self._ended: dict[str, GallerySpec | LookalikeError | None] = {}
        # by name of a gallery whose compaction has failed: seconds until the next attempt, and the time of that attempt
        self._retries: dict[str, tuple[float, float]] = {}
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compactor", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Give up the compaction that is running, and end the thread. The live version stays as it is."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def follow(self, live: GallerySpec, version: int) -> Compaction:
        """Return the state of the compaction of a gallery. Begin one if none is running.

        Args:
            live: The live version of the gallery.
            version: The version to compact. If a newer one is live, the compaction is done. 0 stands for the live
                version, and begins a compaction even if the latest one failed.

        Raises:
            LookalikeError: The compaction of this version has failed.
        """
        if 0 < version < live.version:
            return Compaction(live, Stage.DONE)
        name = live.name
        with self._lock:
            if name in self._running:
                progress = self._running[name]
                return Compaction(live, progress.stage, progress.copied)
            if version and name in self._ended:
                ended = self._ended[name]
                if ended is None:
                    return Compaction(live, Stage.NOT_NEEDED)
                if isinstance(ended, LookalikeError):
                    raise copy(ended)  # each raise attaches a traceback to the error, which would grow without the copy
                if ended.version > version:  # it went live after the caller had read `live`
                    return Compaction(ended, Stage.DONE)
            self._ended.pop(name, None)
            self._requested[name] = None
            self._woken.set()
            return Compaction(live, Stage.COPYING)

    def _run(self) -> None:
        while not self._stopping.is_set():
            name = self._next()
            if name:
                self._compact_and_record(name)
            else:
                self._woken.wait(_CHECK_S)

    def _next(self) -> str | None:
        """Return the name of the next gallery to compact; None if no gallery needs it."""
        with self._lock:
            self._woken.clear()
            if self._requested:
                return next(iter(self._requested))
        if self._only_on_request:
            return None
        for spec, changes in self._changes():
            _, retry_at = self._retries.get(spec.name, (0.0, 0.0))
            if needs_compaction(spec, changes) and time.monotonic() >= retry_at:
                text = f"{counted(changes.added, 'image')} added and {changes.deleted:,} deleted since it was indexed"
                _log.info("gallery '%s' v%d is compacted: %s", spec.name, spec.version, text)
                return spec.name
        return None

    def _compact_and_record(self, name: str) -> None:
        progress = Progress(self._stopping.is_set)
        with self._lock:
            self._requested.pop(name, None)
            self._running[name] = progress
        begun = time.monotonic()
        ended: GallerySpec | LookalikeError | None
        try:
            ended = self._compact(name, progress)
            if ended:
                seconds, count = time.monotonic() - begun, counted(ended.count, "image")
                _log.info("gallery '%s' compacted in %.1f s: v%d, %s", name, seconds, ended.version, count)
        except LookalikeError as error:
            ended = error
            if str(error) != str(self._ended.get(name)) and not self._stopping.is_set():
                _log.warning("gallery '%s' could not be compacted: %s", name, error)
        except Exception:  # keep the thread alive, because the next compaction may succeed
            _log.exception("gallery '%s' could not be compacted", name)
            ended = UnavailableError(f"gallery '{name}' could not be compacted: see the service's log")
        with self._lock:
            del self._running[name]
            self._ended[name] = ended
        previous_s, _ = self._retries.pop(name, (_RETRY_S / 2, 0.0))
        if isinstance(ended, LookalikeError):
            pause_s = min(2 * previous_s, _MAX_RETRY_S)
            self._retries[name] = (pause_s, time.monotonic() + pause_s)


def needs_compaction(spec: GallerySpec, changes: Changes) -> bool:
    """Return whether so much of a gallery has changed that its compaction is worth the effort.

    Args:
        spec: The gallery, with the number of images that it had when it was indexed.
        changes: Its changes since then.
    """
    return changes.added >= max(_MIN_CHANGED, _ADDED_SHARE * spec.count) or changes.deleted >= max(
        _MIN_CHANGED, _DELETED_SHARE * spec.count
    )
