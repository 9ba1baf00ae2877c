"""Convert between entries and Qdrant points, which are the same in Edge and on a server.

A point has a UUID made from the entry's key, the code as its vector, and all other fields as its payload.
"""

import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gallery.types import MAX_DISTANCE, Entry, Hit, SearchOptions

_KEY_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lookalike/key")


def point_id(key: str) -> str:
    """Return the UUID (version 5) of a key's point.

    It depends on the key alone, so storing an entry again replaces its point.
    """
    return str(uuid.uuid5(_KEY_NAMESPACE, key))


def to_payload(entry: Entry) -> dict[str, str]:
    """Return the payload of an entry's point: all fields except the code."""
    thumbnail = base64.b64encode(entry.thumbnail_png).decode()
    return {"key": entry.key, "label": entry.label, "sha256": entry.sha256, "thumbnail_png": thumbnail}


def payload_fields(options: SearchOptions) -> list[str]:
    """Return the names of the payload fields that a hit needs."""
    return ["key", "label", "thumbnail_png"] if options.with_thumbnails else ["key", "label"]


def exclusive_threshold(options: SearchOptions) -> float | None:
    """Return the score threshold to pass to Qdrant, or None for no bound.

    Qdrant excludes points whose distance equals the threshold. So return the next float32 above `max_distance`, which
    keeps hits at exactly `max_distance`.
    """
    if options.max_distance is None or options.max_distance >= MAX_DISTANCE:
        return None
    return float(np.nextafter(np.float32(options.max_distance), np.float32(np.inf)))


def to_hit(payload: Mapping[str, Any] | None, distance: float, code: Sequence[float] | Any) -> Hit:
    """Make a hit from the payload, the distance and the code, (code_size,) or None, of a point that was found."""
    payload = payload or {}
    return Hit(
        payload["key"],
        distance,
        payload["label"],
        base64.b64decode(payload.get("thumbnail_png", "")),
        code=None if code is None else np.asarray(code, np.float32),
    )


def to_entry(payload: Mapping[str, Any] | None, code: Sequence[float] | Any) -> Entry:
    """Make an entry from the payload and the code, (code_size,), of a point."""
    payload = payload or {}
    thumbnail = base64.b64decode(payload["thumbnail_png"])
    return Entry(payload["key"], np.asarray(code, np.float32), payload["label"], payload["sha256"], thumbnail)
