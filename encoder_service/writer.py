"""Add images to a gallery while it is being searched, and remove images from it. Independent of gRPC."""

import threading
from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.capacity import decoded
from encoder_service.encoder import Encoder
from encoder_service.errors import KeyTakenError, RequestError
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
        label: The image's label, at most 1,024 characters; "" for no label, None for the label that the gallery has
            stored under this key, if there is one.
        keep_stored: Whether to keep a stored image that has the same key and other content.
    """

    key: str
    picture: bytes | Image.Image
    label: str | None = None
    keep_stored: bool = False

    @property
    def sha256(self) -> str:
        """Hash of the file's bytes or of the pixels, 64 hex digits."""
        return images.sha256(self.picture)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A new image, ready to be stored. Its decoded pixels are not kept: those of many large images would fill memory.

    Attributes:
        key: The image's name.
        label: The label to store.
        sha256: Hash of the image's content, 64 hex digits.
        input: The image as an encoder's input, (height, width, channels).
        thumbnail_png: The image as a PNG file of at most 64 pixels a side.
    """

    key: str
    label: str
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
        # held while images with `keep_stored` are stored: of two such calls, only one may store an image under a key
        self._keeping = threading.Lock()

    def add(self, new: Sequence[NewImage]) -> list[bool | LookalikeError]:
        """Store images. On return, every image without an error is on disk, and survives a crash of this process.

        If the gallery has an image with the same key, the new image replaces it, unless content and label are the same.
        A new image with `keep_stored` replaces no image of other content. Its result is then a KeyTakenError.

        Args:
            new: The images. If two have the same key, the later one is stored, unless it has `keep_stored`.

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
            stored_sha256, stored_label = known.get(image.key, (None, ""))
            label = stored_label if image.label is None else image.label
            if (stored_sha256, stored_label) == (sha256, label):
                results.append(True)
                continue
            try:
                if image.keep_stored and stored_sha256 not in (None, sha256):
                    raise _taken()
                prepared[image.key] = self._prepare(image, label, sha256)
                known[image.key] = (sha256, label)
                results.append(False)
            except LookalikeError as error:
                results.append(error)
        if prepared:
            replacing = {image.key for image in new if not image.keep_stored}
            taken = self._store(prepared, prepared.keys() - replacing)
            results = [
                _taken() if result is False and image.key in taken else result
                for image, result in zip(new, results, strict=True)
            ]
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

    def _prepare(self, image: NewImage, label: str, sha256: str) -> _Prepared:
        _check_names(image.key, label)
        with decoded(image.picture) as picture:
            input_, thumbnail = self._encoder.normalise([picture])[0], images.thumbnail_png(picture)
            return _Prepared(image.key, label, sha256, input_, thumbnail)

    def _store(self, prepared: Mapping[str, _Prepared], keep_stored: Set[str]) -> set[str]:
        """Encode images and store them, by key.

        Returns:
            The keys of `keep_stored` under which another call has stored another image meanwhile, and which are left.
        """
        codes = self._encoder.encode(np.stack([item.input for item in prepared.values()]))
        with self._keeping if keep_stored else nullcontext():
            stored = self._gallery.get(list(keep_stored)) if keep_stored else []
            taken = {entry.key for entry in stored if entry and entry.sha256 != prepared[entry.key].sha256}
            self._gallery.upsert(
                [
                    Entry(item.key, code, item.label, item.sha256, item.thumbnail_png)
                    for item, code in zip(prepared.values(), codes, strict=True)
                    if item.key not in taken
                ]
            )
        return taken


def _taken() -> KeyTakenError:
    return KeyTakenError("the gallery has another image under this key: replace it without `keep_stored`")


def _check_names(key: str, label: str) -> None:
    if not 1 <= len(key) <= LIMITS.max_key_length:
        raise RequestError(f"key: expected 1 to {LIMITS.max_key_length:,} characters, got {len(key):,}")
    if len(label) > LIMITS.max_key_length:
        raise RequestError(f"label: expected at most {LIMITS.max_key_length:,} characters, got {len(label):,}")
