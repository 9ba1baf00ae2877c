"""Galleries: codes in, hits out. This package knows no images, no models and no gRPC."""

from gallery.base import Build, Gallery, Store
from gallery.store import DEFAULT_STORE, open_store
from gallery.types import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    Calibration,
    Entry,
    GallerySpec,
    Hit,
    Placement,
    Query,
    SearchOptions,
)

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
