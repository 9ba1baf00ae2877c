"""Where images come from. A new kind of source is one file beside this one, and one line in `open_source`."""

from ingest.errors import SourceNotFoundError
from ingest.sources.base import Item, Source
from ingest.sources.datasets import DATASETS, DatasetSource, dataset_image

__all__ = ["Item", "Source", "dataset_image", "open_source"]


def open_source(name: str, split: str = "train", limit: int | None = None) -> Source:
    """Open a source by what a person calls it.

    Args:
        name: `mnist` or `fashion-mnist`.
        split: For a dataset: `train`, `test` or `all`.
        limit: Read at most so many images; None for all.

    Raises:
        SourceNotFoundError: Nothing is called that.
        SourceError: There is no such split.
        SourceUnavailableError: It could not be fetched.
    """
    if name in DATASETS:
        return DatasetSource(DATASETS[name], split, limit)
    raise SourceNotFoundError(f"no source '{name}': expected one of {', '.join(DATASETS)}")
