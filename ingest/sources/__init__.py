"""Sources of images. A new kind of source is one file in this package and one line in `_KINDS`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gallery.errors import InvalidInputError
from ingest.errors import SourceError, SourceNotFoundError
from ingest.sources.base import READ_ALL, Item, Options, Source
from ingest.sources.cifar import CifarSource, is_cifar
from ingest.sources.datasets import DATASETS, Dataset, DatasetSource, dataset_image
from ingest.sources.files import FilesSource
from ingest.sources.folder import FolderSource
from ingest.sources.idx import is_idx, open_idx
from ingest.sources.labels import LabelFile, Labelled, label_from_folder
from ingest.sources.names import is_archive, path_of, stem_of, text_of
from ingest.sources.npz import open_npz
from ingest.sources.parquet import ParquetSource, is_parquet
from ingest.sources.picture import PictureSource, is_picture
from ingest.sources.shards import ShardsSource, shards_of
from ingest.sources.tar import TarSource
from ingest.sources.zip import ZipSource, is_zip

__all__ = ["Item", "Options", "Source", "SourceName", "dataset_image", "open_source"]


_BRACES = re.compile(r"\{\d+\.\.\d+\}")


class _Kind(NamedTuple):
    description: str
    matches: Callable[[Path], object]
    open: Callable[[Path, Options], Source]


def _open_path(path: Path, options: Options) -> Source:
    """Open what is at a path.

    Raises:
        SourceNotFoundError: The path does not exist, or no kind of source matches it.
        SourceError: The path can't be read.
    """
    try:
        kind = next((kind for kind in _KINDS if kind.matches(path)), None)
        exists = path.exists()
    except OSError as error:
        raise SourceError(f"{text_of(path)}: can't be read: {error.strerror}") from error
    if kind is not None:
        return kind.open(path, options)
    if path.suffix.lower() in (".7z", ".rar") and exists:
        raise SourceError(f"{text_of(path)}: expected a .zip or .tar, got a {path.suffix.lower()}: unpack it first")
    known = f"{', '.join(DATASETS)}, or the path of {', '.join(kind.description for kind in _KINDS)}"
    raise SourceNotFoundError(f"no source '{text_of(path)}': expected one of {known}")


def _is_file(matches: Callable[[Path], bool]) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and matches(path)


# The first matching kind opens the path. So special kinds come first: a folder of archives is also a folder, and
# `is_archive` matches CIFAR's tar and every .zip as well.
_KINDS = (
    _Kind(
        "a folder of archives or shard-{000..009}.tar",
        shards_of,
        lambda path, options: ShardsSource(path, shards_of(path), _open_path, options),
    ),
    _Kind("a folder", Path.is_dir, FolderSource),
    _Kind("an IDX file of images", _is_file(is_idx), open_idx),
    _Kind("an .npz or .npy", _is_file(lambda path: path.suffix.lower() in (".npz", ".npy")), open_npz),
    _Kind("a .parquet", _is_file(is_parquet), ParquetSource),
    _Kind("CIFAR's binary tar", _is_file(is_cifar), CifarSource),
    _Kind("a .zip", _is_file(is_zip), ZipSource),
    _Kind("a .tar", _is_file(is_archive), TarSource),
    _Kind("an image", _is_file(is_picture), PictureSource),
)


def open_source(
    name: str,
    split: str = "train",
    limit: int | None = None,
    *,
    label_from_folders: bool = False,
    labels: Path | None = None,
    exclude: Sequence[str] = (),
    complete: bool = False,
    large_images: bool = False,
) -> Source:
    """Parse a source's name and open the source; see `SourceName.parse`, `SourceName.open` and `Options`."""
    options = Options(limit, tuple(exclude), complete, large_images)
    return SourceName.parse(name, split).open(options, label_from_folders=label_from_folders, labels=labels)


@dataclass(frozen=True, slots=True)
class SourceName:
    """A parsed name of a source.

    Attributes:
        text: The name as the user wrote it.
        path: The name as a path. It has no meaning for a dataset.
        dataset: The dataset; None if the name is a path.
        split: Split of the dataset; "" for a path.
    """

    text: str
    path: Path
    dataset: Dataset | None = None
    split: str = ""

    @classmethod
    def parse(cls, text: str, split: str = "train") -> "SourceName":
        """Parse the name of a source.

        Args:
            text: `mnist` or `fashion-mnist`, alone or with a split, such as `mnist/test`; or a path.
            split: Split of a dataset whose name has none: `train`, `test` or `all`.
        """
        name, _, named_split = text.partition("/")
        if name in DATASETS:
            return cls(text, Path(text), DATASETS[name], named_split or split)
        return cls(text, path_of(text))

    @property
    def origin(self) -> str:
        """Short name of the source for people: "mnist/train", or the last part of a path such as "photos.tar"."""
        return f"{self.dataset.name}/{self.split}" if self.dataset else text_of(self.path.resolve().name)

    @property
    def default_gallery(self) -> str:
        """Name of the gallery to load into unless the user names another.

        Raises:
            InvalidInputError: The path's name has no character that a gallery's name may have.
        """
        if self.dataset:
            return self.dataset.name
        path = self.path.resolve()
        stem = (_BRACES.sub("", stem_of(path)).strip("-._") or path.parent.name).lower()
        name = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:64]
        if not name:
            raise InvalidInputError(
                f"source {self.text}: expected a name with letters or digits: name the gallery with --gallery"
            )
        return name

    def open(
        self, options: Options = READ_ALL, *, label_from_folders: bool = False, labels: Path | None = None
    ) -> Source:
        """Open the source.

        Args:
            options: How to read the source.
            label_from_folders: Label each image with the name of its folder, instead of the source's own labels.
            labels: CSV or JSONL file of labels, instead of the source's own; None for no such file.

        Raises:
            InvalidInputError: `label_from_folders` and `labels` are both given, or one of them is given for a dataset,
                which has its own labels. Or `options` excludes files, and the source is not a folder or an archive.
            SourceNotFoundError: No dataset, file or folder has this name.
            SourceError: The split does not exist, the source has no image, or a file is damaged.
            SourceUnavailableError: The dataset could not be fetched.
        """
        if label_from_folders and labels:
            raise InvalidInputError("expected one of --label-from-folders and --labels, got both")
        if (label_from_folders or labels) and self.dataset:
            raise InvalidInputError(
                f"{self.text} has labels of its own: expected it without --label-from-folders and --labels"
            )
        source = (
            DatasetSource(self.dataset, self.split, options.limit) if self.dataset else _open_path(self.path, options)
        )
        if options.exclude and not isinstance(source, FilesSource | ShardsSource):
            raise InvalidInputError(f"--exclude: expected a folder or an archive, got {source.name}")
        if label_from_folders:
            return Labelled(source, label_from_folder)
        return Labelled(source, LabelFile(labels)) if labels else source
