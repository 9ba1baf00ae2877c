"""Sources in, galleries out: read images from where they are, encode them and load them into a gallery.

from ingest import Stages, load_and_publish, open_source

with closing(store.build(spec)) as build, Stages() as stages:
    load_and_publish(build, open_source("photos.tar"), encoder, stages)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.loading.batches import LoadSummary
    from ingest.loading.build import LoadOptions, load_and_publish
    from ingest.progress import Stages
    from ingest.sources import Item, Source, open_source

__all__ = ["Item", "LoadOptions", "LoadSummary", "Source", "Stages", "load_and_publish", "open_source"]

# Imported on first use: loading imports LiteRT, which reading a source and most commands do not need.
_MODULES = {
    "Item": "ingest.sources",
    "LoadOptions": "ingest.loading.build",
    "LoadSummary": "ingest.loading.batches",
    "Source": "ingest.sources",
    "Stages": "ingest.progress",
    "load_and_publish": "ingest.loading.build",
    "open_source": "ingest.sources",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'ingest' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
