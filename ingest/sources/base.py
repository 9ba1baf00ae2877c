"""What every source of images can do."""

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
        key: Its name for people: the same source gives the same keys.
        content: An image file's bytes, or pixels, (h, w) or (h, w, channels) uint8.
        label: What it is said to show; empty for none, None where the source does not say.
        problem: Why its content could not be read; empty where it could.
    """

    key: str
    content: bytes | NDArray[np.uint8]
    label: str | None = None
    problem: str = ""

    @property
    def sha256(self) -> str:
        """Hash of its content, 64 hex digits; empty where that could not be read."""
        if self.problem:
            return ""
        return images.sha256(self.content)

    @property
    def size(self) -> int:
        """Bytes of its content."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.nbytes

    def image(self) -> Image.Image:
        """Decode the image, to mode L, RGB or RGBA.

        Raises:
            ImageError: It could not be read, or is no image, or too large a one.
        """
        if self.problem:
            raise ImageError(self.problem)
        return images.decode(self.content) if isinstance(self.content, bytes) else images.from_pixels(self.content)


class Source(Protocol):
    """Images with keys, read one after the other. No more than one of them is in memory at a time."""

    @property
    def name(self) -> str:
        """What is read, such as "mnist/train" or "mnist/train[:1000]"; a gallery remembers it."""
        ...

    @property
    def count(self) -> int | None:
        """How many images there are; while a stream is read, an estimate; None where nothing is known yet."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Read the images, in the same order each time.

        Raises:
            SourceError: The source changed or went away while it was read.
        """
        ...
