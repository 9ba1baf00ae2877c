"""What every source of images can do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    Attributes:
        key: Its name for people: the same source gives the same keys.
        image: The image, of mode L, RGB or RGBA.
        label: What it is said to show; empty for none.
        sha256: Hash of its content, 64 hex digits.
    """

    key: str
    image: Image.Image
    label: str
    sha256: str


class Source(Protocol):
    """Images with keys, read one after the other."""

    @property
    def name(self) -> str:
        """What is read, such as "mnist/train" or "mnist/train[:1000]"; a gallery remembers it."""
        ...

    @property
    def rejected(self) -> Sequence[tuple[str, str]]:
        """Key and reason of each image that could not be decoded, so far."""
        ...

    def __len__(self) -> int:
        """Count the images, those that may turn out bad among them."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Read the images, in the same order each time."""
        ...
