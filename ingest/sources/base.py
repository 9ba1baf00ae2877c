"""`Source`, the protocol that every source of images implements, and `Item`, one image of a source."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.errors import ImageError, ImageTooLargeError
from encoder_service.limits import LIMITS
from ingest.sources.names import text_of

LARGE_LIMITS = replace(LIMITS, max_image_bytes=256 * 1024 * 1024, max_image_pixels=512_000_000)
"""Limits of an image with `--large-images`, for stitched panoramas and scans of posters. Decoding such an image takes
at most 2 GB of memory."""


def _hint(limit: int) -> str:
    return f": `ingest load --large-images` allows {limit:,}"


# Held while an image beyond the usual limits is decoded, so that only one such image is in memory at a time.
_one_large_image = threading.Lock()


@dataclass(frozen=True, slots=True)
class Options:
    """Options of reading a source.

    Attributes:
        limit: Maximum number of images to read; None for all.
        exclude: Patterns of names or paths to leave out, such as "*.gif" or "raw". A folder is left out with all that
            it contains.
        complete: Reject the source if one of its folders can't be listed, instead of skipping that folder.
        large_images: Read images up to `LARGE_LIMITS`.
    """

    limit: int | None = None
    exclude: tuple[str, ...] = ()
    complete: bool = False
    large_images: bool = False

    @property
    def max_image_bytes(self) -> int:
        """Maximum size of one image file in bytes."""
        return (LARGE_LIMITS if self.large_images else LIMITS).max_image_bytes

    def too_large(self, size: int) -> str:
        """Return the text of `Item.problem` for an image file of `size` bytes, which is above the limit."""
        hint = "" if self.large_images else _hint(LARGE_LIMITS.max_image_bytes)
        return f"expected at most {self.max_image_bytes:,} bytes, got {size:,}{hint}"


READ_ALL = Options()
"""Read all images within the usual limits."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, not decoded yet.

    Attributes:
        key: Name of the image for people. The same source always gives the same keys.
        content: Bytes of an image file, or pixels, (h, w) or (h, w, channels) uint8.
        label: Name of what the image shows; "" for no label, None if the source has no labels.
        problem: The reason why the content could not be read; "" if it was read.
        large: Whether `LARGE_LIMITS` apply to the image.
    """

    key: str
    content: bytes | NDArray[np.uint8]
    label: str | None = None
    problem: str = ""
    large: bool = False

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, 64 hex digits; "" if the content could not be read."""
        if self.problem:
            return ""
        return images.sha256(self.content)

    @property
    def size(self) -> int:
        """Size of the content in bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.nbytes

    def image(self) -> Image.Image:
        """Decode the image to mode L, RGB or RGBA.

        If `large` is set, an image above the usual limit on pixels is decoded, and then scaled down to that limit.

        Raises:
            ImageError: The content could not be read, is not an image, or is too large.
        """
        if self.problem:
            raise ImageError(self.problem)
        if not isinstance(self.content, bytes):
            return images.from_pixels(self.content)
        try:
            return images.decode(self.content)
        except ImageTooLargeError as error:
            if not self.large:
                raise ImageTooLargeError(f"{error.message}{_hint(LARGE_LIMITS.max_image_pixels)}") from error
        with _one_large_image:
            Image.MAX_IMAGE_PIXELS = LARGE_LIMITS.max_image_pixels  # raise Pillow's own limit
            image = images.decode(self.content, LARGE_LIMITS)
            factor = 1
            while image.width * image.height > LIMITS.max_image_pixels * factor**2:
                factor += 1
            return image.reduce(factor) if factor > 1 else image


class Source(Protocol):
    """Images with keys, read as a stream: only a few are in memory at a time. Picklable, for worker processes."""

    @property
    def name(self) -> str:
        """Name of the source and its limit, such as "mnist/train" or "photos.tar[:1000]". A gallery records this."""
        ...

    @property
    def place(self) -> str:
        """A name with which `open_source` finds the source from any folder: "mnist/train", or an absolute path."""
        ...

    @property
    def count(self) -> int | None:
        """Number of images, which may be an estimate until the source has been read; None if unknown."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Lines for the user about the last time that the source was read to its end, such as files left out."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Read the images, in the same order each time.

        Raises:
            SourceError: The source changed or disappeared while it was read.
        """
        ...


@dataclass(frozen=True, slots=True)
class DerivedSource:
    """Base of sources that yield some or all items of another source, perhaps changed, and keep its name and place."""

    source: Source

    @property
    def name(self) -> str:
        """Name of the other source."""
        return self.source.name

    @property
    def place(self) -> str:
        """Place of the other source."""
        return self.source.place

    @property
    def count(self) -> int | None:
        """Number of images, as the other source reports it."""
        return self.source.count

    @property
    def notes(self) -> Sequence[str]:
        """Notes of the other source."""
        return self.source.notes


class Notes:
    """Counts the items that a source leaves out, by reason, and keeps the first name for each reason."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._firsts: dict[str, str] = {}

    def add(self, reason: str, name: str) -> None:
        """Count an item that is left out.

        Args:
            reason: The kind of item in the plural, with the reason: "folders that can't be listed".
            name: Name of the item.
        """
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._firsts.setdefault(reason, text_of(name))

    def lines(self) -> list[str]:
        """Return one line for each reason."""
        return [
            f"left out {count:,} {reason}, such as {self._firsts[reason]!r}" for reason, count in self._counts.items()
        ]


def limited_name(name: str, limit: int | None) -> str:
    """Return the name of a source with its limit on the number of images, such as "photos.tar[:1000]"."""
    return name if limit is None else f"{name}[:{limit}]"
