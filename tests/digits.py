"""The digits of tests/data, as a source, as a gallery and as entries."""

import gzip
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service.encoder import Encoder
from gallery import Entry, GallerySpec, Store
from ingest.loading.build import load_and_publish
from ingest.progress import Stages
from ingest.sources import Item
from ingest.sources.idx import parse_idx

FOLDER = Path(__file__).parent / "data" / "digits"


def read(stem: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (n, 28, 28) and labels (n,) of `train` (400) or `t10k` (100)."""
    images, labels = (
        parse_idx(gzip.decompress((FOLDER / f"{stem}-{kind}-ubyte.gz").read_bytes()), kind)
        for kind in ("images-idx3", "labels-idx1")
    )
    return images, labels


class Digits:
    """A source of the first `count` of 400 train digits. It can't be opened by its place."""

    name = place = "digits/train"
    notes = ()

    def __init__(self, count: int = 400) -> None:
        self._images, self._labels = (part[:count] for part in read("train"))
        self.count = len(self._images)

    def __iter__(self) -> Iterator[Item]:
        for index, (pixels, label) in enumerate(zip(self._images, self._labels, strict=True)):
            yield Item(f"digits/train/{index}", pixels, str(label))


def build(store: Store, encoder: Encoder, name: str = "digits", count: int = 400, rebuild: bool = False) -> GallerySpec:
    """Load the first digits into a gallery of the store."""
    spec = GallerySpec(
        name, encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size, sources=("digits/train",)
    )
    with closing(store.build(spec, rebuild=rebuild)) as building:
        return load_and_publish(building, Digits(count), encoder, Stages())[0]


def png(image: Image.Image) -> bytes:
    """Return the image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def entries(codes: NDArray[np.float32], labels: str = "ab") -> list[Entry]:
    """Return entries `k0`, `k1`, …, labelled with the letters in turn."""
    return [Entry(f"k{i}", code, labels[i % len(labels)], f"{i:064x}", b"png%d" % i) for i, code in enumerate(codes)]
