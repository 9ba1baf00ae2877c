"""Galleries: codes in, hits out. This package knows no images, no models and no gRPC."""

from gallery.base import Gallery
from gallery.store import Build, Store, open_store
from gallery.types import MAX_LIMIT, Calibration, Entry, GallerySpec, Hit, Placement, Query, SearchOptions

__all__ = [
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
