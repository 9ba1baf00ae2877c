"""Add images to a gallery while it is being searched, and remove images from it. Independent of gRPC."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.capacity import decoded
from encoder_service.encoder import Encoder
from encoder_service.errors import RequestError
from encoder_service.limits import LIMITS
from gallery import Entry, Gallery
from gallery.deadline import check_wanted
from gallery.errors import LookalikeError


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to add to a gallery.

    Attributes:
        key: The image's name, unique in its gallery, 1 to 1,024 characters.
        picture: An image file's bytes, or an image of mode L, RGB or RGBA.
        label: The image's label, at most 1,024 characters; empty if it has none.
    """

    key: str
    picture: bytes | Image.Image
    label: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the file's bytes or of the pixels, 64 hex digits."""
        return images.sha256(self.picture)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A new image, ready to be stored. Its decoded pixels are not kept: those of many large images would fill memory.

    Attributes:
        image: The image as the caller gave it.
        sha256: Hash of the image's content, 64 hex digits.
        input: The image as an encoder's input, (height, width, channels).
        thumbnail_png: The image as a PNG file of at most 64 pixels a side.
    """

    image: NewImage
    sha256: str
    input: NDArray[np.float32]
    thumbnail_png: bytes


class GalleryWriter:
    """Adds images to one gallery, and removes images from it. Safe to use from several threads."""

    def __init__(self, encoder: Encoder, gallery: Gallery) -> None:
        """Pair an encoder with a gallery of its codes.

        Raises:
            EncoderMismatchError: Another encoder made the gallery.
        """
        gallery.spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
        self._encoder = encoder
        self._gallery = gallery

    def add(self, new: Sequence[NewImage]) -> list[bool | LookalikeError]:
        """Store images. On return, every image without an error is on disk, and survives a crash of this process.

        If the gallery has an image with the same key, the new image replaces it, unless content and label are the same.

        Args:
            new: The images. If two have the same key, the later one is stored.

        Returns:
            For each image, in the same order: True if the gallery already had it, with the same content and label;
            False if it has been stored now; or the error if it can't be stored.

        Raises:
            TooLateError: The caller's deadline has passed, or the caller has gone. Nothing has been stored.
            UnavailableError: The gallery's store can't be used.
        """
        entries = [entry for entry in self._gallery.get([image.key for image in new]) if entry]
        known = {entry.key: (entry.sha256, entry.label) for entry in entries}
        prepared: dict[str, _Prepared] = {}
        results: list[bool | LookalikeError] = []
        for image in new:
            check_wanted()
            sha256 = image.sha256
            if known.get(image.key) == (sha256, image.label):
                results.append(True)
                continue
            try:
                prepared[image.key] = self._prepare(image, sha256)
                known[image.key] = (sha256, image.label)
                results.append(False)
            except LookalikeError as error:
                results.append(error)
        if prepared:
            self._store(list(prepared.values()))
        return results

    def delete(self, keys: Sequence[str]) -> int:
        """Remove images by key.

        Returns:
            The number of images removed. Unknown keys are ignored.

        Raises:
            UnavailableError: The gallery's store can't be used.
        """
        known = {entry.key for entry in self._gallery.get(keys) if entry}
        self._gallery.delete(list(known))
        return len(known)

    def _prepare(self, image: NewImage, sha256: str) -> _Prepared:
        _check_names(image)
        with decoded(image.picture) as picture:
            return _Prepared(image, sha256, self._encoder.normalise([picture])[0], images.thumbnail_png(picture))

    def _store(self, prepared: Sequence[_Prepared]) -> None:
        codes = self._encoder.encode(np.stack([item.input for item in prepared]))
        self._gallery.upsert(
            [
                Entry(item.image.key, code, item.image.label, item.sha256, item.thumbnail_png)
                for item, code in zip(prepared, codes, strict=True)
            ]
        )


def _check_names(image: NewImage) -> None:
    if not 1 <= len(image.key) <= LIMITS.max_key_length:
        raise RequestError(f"key: expected 1 to {LIMITS.max_key_length:,} characters, got {len(image.key):,}")
    if len(image.label) > LIMITS.max_key_length:
        raise RequestError(f"label: expected at most {LIMITS.max_key_length:,} characters, got {len(image.label):,}")
