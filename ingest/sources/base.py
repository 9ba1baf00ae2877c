"""The contract of every source of images, and one image of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.errors import ImageError


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source, not decoded yet.

    Attributes:
        key: Name of the image for people. The same source always gives the same keys.
        content: Bytes of an image file, or pixels, (h, w) or (h, w, channels) uint8.
        label: Name of what the image shows; "" for no label, None if the source has no labels.
        problem: Why the content could not be read; "" if it was read.
    """

    key: str
    content: bytes | NDArray[np.uint8]
    label: str | None = None
    problem: str = ""

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
        """Decode the image, to mode L, RGB or RGBA.

        Raises:
            ImageError: The content could not be read, is not an image, or is too large.
        """
        if self.problem:
            raise ImageError(self.problem)
        return images.decode(self.content) if isinstance(self.content, bytes) else images.from_pixels(self.content)


class Source(Protocol):
    """Images with keys, read as a stream: at most one is in memory at a time. Picklable, for worker processes."""

    @property
    def name(self) -> str:
        """The images that are read, such as "mnist/train" or "photos.tar[:1000]". A gallery records this name."""
        ...

    @property
    def place(self) -> str:
        """The name by which `open_source` finds the images from any folder: "mnist/train", or an absolute path."""
        ...

    @property
    def count(self) -> int | None:
        """Number of images. An estimate while a stream is read; None if nothing is known yet."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Read the images, in the same order each time.

        Raises:
            SourceError: The source changed or disappeared while it was read.
        """
        ...


def limited_name(name: str, limit: int | None) -> str:
    """Return the name of a source of which at most `limit` images are read: "photos.tar[:1000]"."""
    return name if limit is None else f"{name}[:{limit}]"
