"""An entry as a Qdrant point, the same in Edge and on a server: a UUID made of its key, its code, and a payload."""

import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gallery.types import Entry, Hit, SearchOptions

_KEYS = uuid.uuid5(uuid.NAMESPACE_URL, "lookalike/key")


def point_id(key: str) -> str:
    """Return the UUID (version 5) that a key's point always has, so that storing it again replaces it."""
    return str(uuid.uuid5(_KEYS, key))


def payload(entry: Entry) -> dict[str, str]:
    """Return what a point keeps besides its code."""
    thumbnail = base64.b64encode(entry.thumbnail_png).decode()
    return {"key": entry.key, "label": entry.label, "sha256": entry.sha256, "thumbnail_png": thumbnail}


def fields(options: SearchOptions) -> list[str]:
    """Name the parts of the payload that a hit needs."""
    return ["key", "label", "thumbnail_png"] if options.with_thumbnails else ["key", "label"]


def threshold(options: SearchOptions) -> float | None:
    """Return the distance that hits must be below: Qdrant leaves out one that is as far as its threshold."""
    if options.max_distance is None:
        return None
    return float(np.nextafter(np.float32(options.max_distance), np.float32(np.inf)))


def hit(payload: Mapping[str, Any] | None, distance: float) -> Hit:
    """Make a hit of a point that was found."""
    payload = payload or {}
    return Hit(payload["key"], distance, payload["label"], base64.b64decode(payload.get("thumbnail_png", "")))


def entry(payload: Mapping[str, Any] | None, code: Sequence[float] | Any) -> Entry:
    """Make an entry of a whole point."""
    payload = payload or {}
    thumbnail = base64.b64decode(payload["thumbnail_png"])
    return Entry(payload["key"], np.asarray(code, np.float32), payload["label"], payload["sha256"], thumbnail)
