"""Share a machine's processors and memory among concurrent calls that decode images.

A call executes while it holds an execution slot. Before each image that it decodes, it lets a waiting call go first.
The total pixels of all images that are being decoded are bounded across all calls and streams.
"""

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from PIL import Image

from encoder_service import images
from encoder_service.decoding import open_file, weighted_pixels
from encoder_service.limits import LIMITS
from gallery.deadline import check_wanted

# Maximum total pixels of all images that are being decoded, as `weighted_pixels` counts them: the size of the largest
# image that is allowed. Decoding them takes up to 770 MB.
_MAX_PIXELS = LIMITS.max_image_pixels
# Images of up to this many pixels are decoded without waiting, and do not count toward the total. With the default
# limits, up to 48 calls and streams decode such images at once, which have at most 12 million pixels in total.
_MAX_SMALL_PIXELS = 250_000
# The number of glibc's `mallopt` option M_MMAP_THRESHOLD. Each allocation of at least that many bytes gets a memory
# mapping of its own, which goes back to the system when it is freed. An explicit value also stops glibc from raising
# the threshold.
_M_MMAP_THRESHOLD = -3
_MIN_MAPPED_BYTES = 1024 * 1024
# Seconds between checks whether the caller of a waiting image is still connected.
_POLL_S = 0.1


class ExecutionSlots:
    """A semaphore that limits how many calls execute at once, and admits waiting calls in order of arrival."""

    def __init__(self, count: int) -> None:
        """Begin with all slots free.

        Args:
            count: Number of slots.
        """
        self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot, and hold it while the block executes."""
        slot = _Slot(self)
        slot.take()
        token = _current_slot.set(slot)
        try:
            yield
        finally:
            _current_slot.reset(token)
            slot.give_back()

    def acquire(self) -> None:
        """Wait for a slot."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            granted = threading.Lock()
            granted.acquire()
            self._waiting.append(granted)
        granted.acquire()

    def release(self) -> None:
        """Hand the slot to the call that has waited longest, or free it if no call is waiting."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    @property
    def is_contended(self) -> bool:
        """True if a call is waiting for a slot."""
        return bool(self._waiting)


class _Slot:
    """The execution slot of one call. The call may give it back and take one again."""

    def __init__(self, slots: ExecutionSlots) -> None:
        self._slots = slots
        self._is_held = False

    def take(self) -> None:
        self._slots.acquire()
        self._is_held = True

    def give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._slots.release()

    def give_way(self) -> None:
        """If another call is waiting for a slot, give this one back and wait in the queue for a new one."""
        if self._slots.is_contended:
            self.give_back()
            self.take()


_current_slot: ContextVar[_Slot | None] = ContextVar("slot", default=None)


class PixelBudget:
    """Bounds the total pixels of the images that are being decoded. Large images wait in order of arrival."""

    def __init__(self, max_pixels: int, max_small_pixels: int) -> None:
        """Begin with the whole budget free.

        Args:
            max_pixels: Maximum total pixels. An image with more pixels is decoded only while no other large image is
                being decoded.
            max_small_pixels: Images of up to this many pixels never wait, and do not count toward the total.
        """
        self._max_pixels = max_pixels
        self._max_small_pixels = max_small_pixels
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until an image fits in the budget, and count its pixels until the block ends.

        While it waits, the call gives up its execution slot.

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
        slot = _current_slot.get()
        if slot:
            slot.give_back()
        with self._changed:
            try:
                while not self._changed.wait_for(lambda: self._is_next(ticket, pixels), _POLL_S):
                    check_wanted()
                self._enter(ticket, pixels)
            except BaseException:
                self._waiting.remove(ticket)
                self._changed.notify_all()
                raise
        if slot:
            slot.take()

    def _is_next(self, ticket: object, pixels: int) -> bool:
        return self._waiting[0] is ticket and (not self._used or self._used + pixels <= self._max_pixels)

    def _enter(self, ticket: object, pixels: int) -> None:
        self._waiting.popleft()
        self._used += pixels
        self._changed.notify_all()  # the next image may fit as well


def return_memory() -> None:
    """Make the C library return the memory of a decoded image to the system as soon as the image is freed.

    By default, each thread's part of glibc's heap keeps freed memory. When twelve clients had sent large images, which
    were decoded one at a time, the service held 4 GB without this function, and 0.9 GB with it.
    """
    with suppress(AttributeError, OSError):  # C libraries other than glibc have no `mallopt`
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MIN_MAPPED_BYTES)


_budget = PixelBudget(_MAX_PIXELS, _MAX_SMALL_PIXELS)


@contextmanager
def decoded(image: bytes | Image.Image) -> Iterator[Image.Image]:
    """Wait until an image fits in the pixel budget that all calls share, then decode it and yield it.

    Keep no reference to the image after the block: the budget then counts its memory as free.

    Args:
        image: An image file's bytes, or an image, which is yielded as it is.

    Raises:
        ImageTooLargeError: The file exceeds a limit.
        ImageError: The file is not an image.
        TooLateError: The caller's deadline has passed, or the caller has gone.
    """
    slot = _current_slot.get()
    if slot:
        slot.give_way()
    if isinstance(image, Image.Image):
        with _budget.hold(image.width * image.height):
            yield image
        return
    header = _header(image)
    with _budget.hold(_pixel_count(header) if header else 0):
        picture = images.decode(image, header=header)
        del header  # it has the pixels as they were before they were converted or halved
        yield picture


def _header(file: bytes) -> Image.Image | None:
    """Open an image file without decoding its pixels. Return None for a file that `images.decode` will reject."""
    with suppress(Exception):  # Pillow raises many types; `images.decode` fails on the same file and reports the error
        return open_file(file)
    return None


def _pixel_count(header: Image.Image) -> int:
    """Return the weighted pixels of a file, or 0 if it has too many, so that `images.decode` will reject it."""
    count = weighted_pixels(header)
    return count if count <= LIMITS.max_image_pixels else 0
