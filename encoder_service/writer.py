"""Images into a gallery that is being searched: decode, encode, store. No gRPC in it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.encoder import Encoder
from encoder_service.errors import RequestError
from encoder_service.limits import LIMITS
from gallery import Entry, Gallery
from gallery.deadline import check_wanted
from gallery.errors import LookalikeError


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to be stored.

    Attributes:
        key: Its name, unique in its gallery, 1 to 1,024 characters.
        picture: An image file's bytes, or an image.
        label: What it is said to show, at most 1,024 characters; empty for none.
    """

    key: str
    picture: bytes | Image.Image
    label: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the file's bytes or of the pixels, 64 hex digits."""
        content = self.picture if isinstance(self.picture, bytes) else self.picture.tobytes()
        return hashlib.sha256(content).hexdigest()


class GalleryWriter:
    """Stores images with one encoder in one gallery. Safe to use from several threads."""

    def __init__(self, encoder: Encoder, gallery: Gallery) -> None:
        """Take the two parts.

        Raises:
            EncoderMismatchError: The gallery was made by another encoder.
        """
        gallery.spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
        self._encoder = encoder
        self._gallery = gallery

    def add(self, new: Sequence[NewImage]) -> list[bool | LookalikeError]:
        """Store images; on return those without an error are kept, even if the process dies.

        Args:
            new: The images; of two with the same key, the later one counts.

        Returns:
            For each, whether it was there already with the same content and label, or why it can't be stored.

        Raises:
            UnavailableError: The store can't take them.
        """
        keys = [image.key for image in new]
        held = {entry.key: (entry.sha256, entry.label) for entry in self._gallery.get(keys) if entry}
        results: list[bool | LookalikeError] = []
        # made small one by one: many large pictures at once are more than there is memory for
        small: dict[str, tuple[NewImage, NDArray[np.float32], bytes]] = {}
        for image in new:
            check_wanted()
            if held.get(image.key) == (image.sha256, image.label):
                results.append(True)
                continue
            try:
                picture = _decoded(image)
                small[image.key] = (image, self._encoder.normalise([picture])[0], images.thumbnail_png(picture))
                held[image.key] = (image.sha256, image.label)
                results.append(False)
            except LookalikeError as error:
                results.append(error)
        if small:
            codes = self._encoder.encode(np.stack([one[1] for one in small.values()]))
            self._gallery.upsert(
                [
                    Entry(key, code, image.label, image.sha256, thumbnail)
                    for (key, (image, _, thumbnail)), code in zip(small.items(), codes, strict=True)
                ]
            )
        return results

    def delete(self, keys: Sequence[str]) -> int:
        """Remove images by key, and return how many of them were there."""
        held = [entry.key for entry in self._gallery.get(keys) if entry]
        self._gallery.delete(held)
        return len(set(held))


def _decoded(image: NewImage) -> Image.Image:
    if not 1 <= len(image.key) <= LIMITS.max_key_length:
        raise RequestError(f"key: expected 1 to {LIMITS.max_key_length:,} characters, got {len(image.key):,}")
    if len(image.label) > LIMITS.max_key_length:
        raise RequestError(f"label: expected at most {LIMITS.max_key_length:,} characters, got {len(image.label):,}")
    return images.decode(image.picture) if isinstance(image.picture, bytes) else image.picture
