"""Share a machine's processors and memory among concurrent calls that decode images.

A call executes when it gets a turn, and a batch takes one turn for each image. The total pixels of all images that are
being decoded are bounded across all calls and streams.
"""

import ctypes
import io
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from PIL import Image

from encoder_service import images
from encoder_service.decoding import weighted_pixels
from encoder_service.limits import LIMITS
from gallery.deadline import check_wanted

# Total pixels of all images that are being decoded, weighted by `weighted_pixels`. This is the size of the largest
# single image, which takes up to 770 MB.
_MAX_PIXELS = LIMITS.max_image_pixels
# Pixels up to which an image does not wait for others. All default calls and streams together could hold 12 million.
_MAX_SMALL_PIXELS = 250_000
# The parameter of glibc's `mallopt` that sets the size from which memory comes from the system by itself, and this size
# in bytes. Setting it keeps glibc from raising it.
_M_MMAP_THRESHOLD = -3
_MIN_MAPPED_BYTES = 1024 * 1024
# Seconds between checks whether the caller of a waiting image is still connected.
_POLL_S = 0.1


class Turns:
    """Turns to execute, handed out in the order in which they were asked for."""

    def __init__(self, count: int) -> None:
        """Begin with all turns free.

        Args:
            count: Maximum number of turns taken at the same time.
        """
        self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and execute the block in it."""
        turn = _Turn(self)
        turn.take()
        token = _current_turn.set(turn)
        try:
            yield
        finally:
            _current_turn.reset(token)
            turn.give_back()

    def acquire(self) -> None:
        """Wait for a turn."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            granted = threading.Lock()
            granted.acquire()
            self._waiting.append(granted)
        granted.acquire()

    def release(self) -> None:
        """Hand a turn to the call that has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    @property
    def is_contended(self) -> bool:
        """True if a call is waiting for a turn."""
        return bool(self._waiting)


class _Turn:
    """The turn of one call. The call may release it temporarily."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._is_held = False

    def take(self) -> None:
        self._turns.acquire()
        self._is_held = True

    def give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._turns.release()

    def give_way(self) -> None:
        """Yield the turn to a waiting call, if there is one, and queue again."""
        if self._turns.is_contended:
            self.give_back()
            self.take()


_current_turn: ContextVar[_Turn | None] = ContextVar("turn", default=None)


class PixelBudget:
    """Bounds the pixels of the images that are decoded at the same time. Large images wait in order of arrival."""

    def __init__(self, max_pixels: int, max_small_pixels: int) -> None:
        """Begin with all pixels free.

        Args:
            max_pixels: Maximum total. A single image with more pixels is decoded alone.
            max_small_pixels: Pixels up to which an image neither waits nor counts.
        """
        self._max_pixels = max_pixels
        self._max_small_pixels = max_small_pixels
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until an image fits, and count its pixels until the block ends. A waiting call gives up its turn.

        Raises:
            TooLateError: The caller's deadline has passed, or the caller has gone.
        """
        if pixels <= self._max_small_pixels:
            yield
            return
        self._acquire(pixels)
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()

    def _acquire(self, pixels: int) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            if self._is_next(ticket, pixels):
                self._enter(ticket, pixels)
                return
        turn = _current_turn.get()
        if turn:
            turn.give_back()
        with self._changed:
            try:
                while not self._changed.wait_for(lambda: self._is_next(ticket, pixels), _POLL_S):
                    check_wanted()
                self._enter(ticket, pixels)
            except BaseException:
                self._waiting.remove(ticket)
                self._changed.notify_all()
                raise
        if turn:
            turn.take()

    def _is_next(self, ticket: object, pixels: int) -> bool:
        return self._waiting[0] is ticket and (not self._used or self._used + pixels <= self._max_pixels)

    def _enter(self, ticket: object, pixels: int) -> None:
        self._waiting.popleft()
        self._used += pixels
        self._changed.notify_all()  # the next image may fit as well


def return_memory() -> None:
    """Make the C library return the memory of decoded images to the system as soon as they are freed.

    By default, glibc keeps what it has freed for each thread. Twelve clients that sent large images, one of which was
    decoded at a time, left 4 GB with the service instead of 0.9 GB.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MIN_MAPPED_BYTES)


_budget = PixelBudget(_MAX_PIXELS, _MAX_SMALL_PIXELS)


@contextmanager
def decoded(image: bytes | Image.Image) -> Iterator[Image.Image]:
    """Yield an image once its pixels fit within the limit that all calls share. Decode it if it is a file's bytes.

    Keep no reference to the image after the block, because its memory then counts as free.

    Args:
        image: An image file's bytes, or an image.

    Raises:
        ImageTooLargeError: The file exceeds a limit.
        ImageError: The file is not an image.
        TooLateError: The caller's deadline has passed, or the caller has gone.
    """
    turn = _current_turn.get()
    if turn:
        turn.give_way()
    with _budget.hold(_pixel_count(image)):
        yield images.decode(image) if isinstance(image, bytes) else image


def _pixel_count(image: bytes | Image.Image) -> int:
    """Return the weighted pixels stated in the file's header; 0 for a file that `images.decode` will reject."""
    if isinstance(image, Image.Image):
        return image.width * image.height
    try:
        with Image.open(io.BytesIO(image)) as header:
            count = weighted_pixels(header)
    except Exception:  # Pillow raises many types, and `images.decode` explains them
        return 0
    return count if count <= LIMITS.max_image_pixels else 0
