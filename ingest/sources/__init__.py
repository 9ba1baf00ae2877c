"""Sources of images. A new kind of source is one file in this package and one line in `_KINDS`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gallery.errors import InvalidInputError
from ingest.errors import SourceNotFoundError
from ingest.sources.archive import ENDINGS, ArchiveSource
from ingest.sources.arrays import ArraySource
from ingest.sources.base import Item, Source
from ingest.sources.datasets import DATASETS, Dataset, DatasetSource, dataset_image
from ingest.sources.folder import FolderSource
from ingest.sources.idx import is_idx, open_idx
from ingest.sources.labels import LabelFile, Labelled, label_from_folder
from ingest.sources.npz import open_npz

__all__ = ["Item", "Source", "SourceName", "dataset_image", "open_source"]


class _Kind(NamedTuple):
    description: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, int | None], Source]


# The folder is first, because the other kinds look at the name alone.
_KINDS = (
    _Kind("a folder", Path.is_dir, FolderSource),
    _Kind("an IDX file of images", is_idx, lambda path, limit: ArraySource(path, [open_idx(path)], limit)),
    _Kind("an .npz", lambda path: path.suffix == ".npz", lambda path, limit: ArraySource(path, open_npz(path), limit)),
    _Kind("a .tar or .zip", lambda path: path.name.endswith(ENDINGS), ArchiveSource),
)


def open_source(
    name: str,
    split: str = "train",
    limit: int | None = None,
    *,
    label_from_folders: bool = False,
    labels: Path | None = None,
) -> Source:
    """Parse a source's name and open the source; see `SourceName.parse` and `SourceName.open`."""
    return SourceName.parse(name, split).open(limit, label_from_folders=label_from_folders, labels=labels)


@dataclass(frozen=True, slots=True)
class SourceName:
    """A parsed name of a source.

    Attributes:
        text: The name as the user wrote it.
        path: The path that the name is, unless it names a dataset.
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
        return cls(text, Path(text))

    @property
    def origin(self) -> str:
        """The images' origin for people, without the folder it is in: "mnist/train" or "photos.tar"."""
        return f"{self.dataset.name}/{self.split}" if self.dataset else self.path.resolve().name

    @property
    def default_encoder(self) -> str:
        """Name of the encoder to use unless the user names another."""
        from encoder_service.encoder import DEFAULT_ENCODER  # imports LiteRT, which reading a source does not need

        return self.dataset.encoder if self.dataset else DEFAULT_ENCODER

    @property
    def default_gallery(self) -> str:
        """Name of the gallery to load into unless the user names another.

        Raises:
            InvalidInputError: The path's name has no character that a gallery's name may have.
        """
        if self.dataset:
            return self.dataset.name
        stem = re.sub(r"\.(npz|zip|(tar|gz|bz2|xz|tgz|\.)+)$", "", self.path.resolve().name.lower())
        name = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:64]
        if not name:
            raise InvalidInputError(
                f"source {self.text}: expected a name with letters or digits: name the gallery with --gallery"
            )
        return name

    def open(self, limit: int | None = None, *, label_from_folders: bool = False, labels: Path | None = None) -> Source:
        """Open the source.

        Args:
            limit: Maximum number of images to read; None for all.
            label_from_folders: Label each image with the name of its folder, instead of the source's own labels.
            labels: CSV or JSONL file of labels, instead of the source's own; None for no such file.

        Raises:
            InvalidInputError: The labels are given twice, or the dataset has labels of its own.
            SourceNotFoundError: No dataset, file or folder has this name.
            SourceError: The split does not exist, there is no image, or the file is damaged.
            SourceUnavailableError: The dataset could not be fetched.
        """
        if label_from_folders and labels:
            raise InvalidInputError("expected one of --label-from-folders and --labels, got both")
        if (label_from_folders or labels) and self.dataset:
            raise InvalidInputError(
                f"{self.text} has labels of its own: expected it without --label-from-folders and --labels"
            )
        source = self._open(limit)
        if label_from_folders:
            return Labelled(source, label_from_folder)
        return Labelled(source, LabelFile(labels), labels.name) if labels else source

    def _open(self, limit: int | None) -> Source:
        if self.dataset:
            return DatasetSource(self.dataset, self.split, limit)
        kind = next((kind for kind in _KINDS if self.path.exists() and kind.matches(self.path)), None)
        if kind is None:
            known = f"{', '.join(DATASETS)}, or the path of {', '.join(kind.description for kind in _KINDS)}"
            raise SourceNotFoundError(f"no source '{self.text}': expected one of {known}")
        return kind.open(self.path, limit)
