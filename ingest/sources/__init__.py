"""Where images come from. A new kind of source is one file beside this one, and one line in `open_source`."""

import re
from pathlib import Path

from encoder_service.encoder import DEFAULT_ENCODER
from gallery.errors import InvalidInputError
from ingest.errors import SourceNotFoundError
from ingest.sources.base import Item, Source
from ingest.sources.datasets import DATASETS, DatasetSource, dataset_image
from ingest.sources.folder import FolderSource

__all__ = ["Item", "Source", "dataset_image", "default_encoder", "default_gallery", "open_source"]


def open_source(name: str, split: str = "train", limit: int | None = None) -> Source:
    """Open a source by what a person calls it.

    Args:
        name: `mnist` or `fashion-mnist`, or one with a split, `mnist/test`; or the path of a folder.
        split: For a dataset: `train`, `test` or `all`.
        limit: Read at most so many images; None for all.

    Raises:
        SourceNotFoundError: Nothing is called that.
        SourceError: There is no such split, or no image.
        SourceUnavailableError: It could not be fetched.
    """
    dataset, _, part = name.partition("/")
    if dataset in DATASETS:
        return DatasetSource(DATASETS[dataset], part or split, limit)
    if Path(name).is_dir():
        return FolderSource(Path(name), limit)
    raise SourceNotFoundError(f"no source '{name}': expected one of {', '.join(DATASETS)}, or a folder of images")


def default_gallery(name: str) -> str:
    """Return the name of the gallery that a source goes into if nobody says otherwise.

    Raises:
        InvalidInputError: The folder's name has nothing to make a gallery's name of.
    """
    dataset = name.partition("/")[0]
    if dataset in DATASETS:
        return dataset
    plain = re.sub(r"[^a-z0-9._-]+", "-", Path(name).resolve().name.lower()).strip("-._")[:64]
    if not plain:
        raise InvalidInputError(f"folder {name}: expected a name with letters or digits: name the gallery with --name")
    return plain


def default_encoder(name: str) -> str:
    """Return the name of the encoder that a source is encoded with if nobody says otherwise."""
    dataset = name.partition("/")[0]
    return DATASETS[dataset].encoder if dataset in DATASETS else DEFAULT_ENCODER
