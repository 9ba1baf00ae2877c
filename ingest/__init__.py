"""Read images from sources, encode them and load them into galleries.

from ingest import Stages, load_and_publish, open_source

with closing(store.build(spec)) as build, Stages() as stages:
    load_and_publish(build, open_source("photos.tar"), encoder, stages)

Each name in `__all__` is imported at its first use, because most commands do not need the slow imports of a load.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from ingest.loading.batches import LoadSummary
    from ingest.loading.build import LoadOptions, load_and_publish
    from ingest.progress import Stages
    from ingest.sources import Item, Source, open_source

__all__ = ["Item", "LoadOptions", "LoadSummary", "Source", "Stages", "load_and_publish", "open_source"]

_MODULES = {
    "Item": "sources",
    "LoadOptions": "loading.build",
    "LoadSummary": "loading.batches",
    "Source": "sources",
    "Stages": "progress",
    "load_and_publish": "loading.build",
    "open_source": "sources",
}

if not typing.TYPE_CHECKING:  # a type checker that sees `__getattr__` accepts any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
