"""Galleries: codes in, hits out. This package knows no images, no models and no gRPC.

Error messages suggest commands of the packages above, such as `ingest load`, because their users read the messages.
"""

from gallery.base import Build, Gallery, Store
from gallery.spec import Calibration, GallerySpec, Placement
from gallery.store import DEFAULT_STORE, open_store
from gallery.types import DEFAULT_LIMIT, MAX_LIMIT, Entry, Hit, Query, SearchOptions

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
    "SearchOptions",
    "Store",
    "open_store",
]
