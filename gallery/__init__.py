"""Galleries: named, searchable sets of codes, the vectors that an encoder makes from images.

This package depends on no other package of the project. Its error messages still suggest commands such as
`ingest load`, because users of these commands read the messages.
"""

from gallery.base import Build, Gallery, Store
from gallery.spec import Calibration, GallerySpec, Placement
from gallery.store import DEFAULT_STORE, open_store
from gallery.types import DEFAULT_LIMIT, MAX_LIMIT, Entry, Hit, Query, Relation, SearchOptions

__all__ = [
    "DEFAULT_LIMIT",
    "DEFAULT_STORE",
    "MAX_LIMIT",
    "Build",
    "Calibration",
    "Entry",
    "Gallery",
    "GallerySpec",
    "Hit",
    "Placement",
    "Query",
    "Relation",
    "SearchOptions",
    "Store",
    "open_store",
]
