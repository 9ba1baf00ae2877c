"""Where images come from. A new kind of source is one file beside this one, and one line in `_KINDS`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from encoder_service.encoder import DEFAULT_ENCODER
from gallery.errors import InvalidInputError
from ingest.errors import SourceNotFoundError
from ingest.sources.archive import ENDINGS, ArchiveSource
from ingest.sources.arrays import ArraySource
from ingest.sources.base import Item, Source
from ingest.sources.datasets import DATASETS, DatasetSource, dataset_image
from ingest.sources.folder import FolderSource
from ingest.sources.idx import is_idx, open_idx
from ingest.sources.labels import LabelFile, Labelled, label_from_folder
from ingest.sources.npz import open_npz

__all__ = [
    "Item",
    "Source",
    "dataset_image",
    "default_encoder",
    "default_gallery",
    "is_dataset",
    "open_source",
    "place_of",
]


class _Kind(NamedTuple):
    what: str
    is_one: Callable[[Path], bool]
    open: Callable[[Path, int | None], Source]


# A folder comes first: all else is told by the file's name.
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
    label_from: str = "",
    labels: Path | None = None,
) -> Source:
    """Open a source by what a person calls it.

    Args:
        name: `mnist` or `fashion-mnist`, or one with a split, `mnist/test`; or a path.
        split: For a dataset: `train`, `test` or `all`.
        limit: Read at most so many images; None for all.
        label_from: `folder` to label each image with the name of the folder it is in; empty for the source's own.
        labels: A CSV or JSONL file with the labels; None for the source's own.

    Raises:
        SourceNotFoundError: Nothing is called that.
        SourceError: There is no such split, no image, or the file is not what its name says.
        SourceUnavailableError: It could not be fetched.
    """
    if label_from not in ("", "folder"):
        raise InvalidInputError(f"--label-from {label_from!r}: expected folder")
    if label_from and labels:
        raise InvalidInputError("expected one of --label-from and --labels, got both")
    if (label_from or labels) and is_dataset(name):
        raise InvalidInputError(f"{name} has labels of its own: expected it without --label-from and --labels")
    source = _open(name, split, limit)
    if label_from:
        return Labelled(source, label_from_folder)
    return Labelled(source, LabelFile(labels), labels.name) if labels else source


def _open(name: str, split: str, limit: int | None) -> Source:
    dataset, _, part = name.partition("/")
    if dataset in DATASETS:
        return DatasetSource(DATASETS[dataset], part or split, limit)
    path = Path(name)
    kind = next((kind for kind in _KINDS if path.exists() and kind.is_one(path)), None)
    if kind is None:
        known = f"{', '.join(DATASETS)}, or the path of {', '.join(kind.what for kind in _KINDS)}"
        raise SourceNotFoundError(f"no source '{name}': expected one of {known}")
    return kind.open(path, limit)


def is_dataset(name: str) -> bool:
    """Tell whether this is a dataset that has a name, or a split of one: `mnist`, `mnist/test`."""
    return name.partition("/")[0] in DATASETS


def place_of(name: str, split: str) -> str:
    """Return what `open_source` finds the same images by from anywhere: `mnist/train`, or an absolute path."""
    dataset, _, part = name.partition("/")
    return f"{dataset}/{part or split}" if is_dataset(name) else str(Path(name).resolve())


def default_gallery(name: str) -> str:
    """Return the name of the gallery that a source goes into if nobody says otherwise.

    Raises:
        InvalidInputError: The path's name has nothing to make a gallery's name of.
    """
    if is_dataset(name):
        return name.partition("/")[0]
    stem = re.sub(r"\.(npz|zip|(tar|gz|bz2|xz|tgz|\.)+)$", "", Path(name).resolve().name.lower())
    plain = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:64]
    if not plain:
        raise InvalidInputError(f"source {name}: expected a name with letters or digits: name the gallery with --name")
    return plain


def default_encoder(name: str) -> str:
    """Return the name of the encoder that a source is encoded with if nobody says otherwise."""
    return DATASETS[name.partition("/")[0]].encoder if is_dataset(name) else DEFAULT_ENCODER
