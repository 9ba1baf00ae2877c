"""Find the groups of a gallery's images that are the same picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from gallery import Entry, Gallery, Hit, Query, SearchOptions
from ingest.progress import Stages

# Images per batch of searches.
_BATCH_COUNT = 1024
# Nearest images that are searched for at first. Only if all of them are close, _MOST_COUNT are, which takes three
# times as long.
_FIRST_COUNT = 10
# Maximum number of images that are searched for. It bounds memory and time. If a picture is stored more often, its
# copies may be in several groups.
_MOST_COUNT = 100


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One image of a group.

    Attributes:
        key: The image's key.
        distance: Distance to the group's first image, 0 or more; 0 for the first image itself.
    """

    key: str
    distance: float


Group = Sequence[Duplicate]
"""At least two images that are the same picture: the first image, and others that are close to it, nearest first."""


def find_duplicates(gallery: Gallery, within: float, stages: Stages) -> list[Group]:
    """Search for the images close to each image, and group them.

    The image with the most others close to it becomes the first image of a group with these others. This is repeated
    among the images that are in no group yet. So no chain of pairs can join images that differ, and each image is in at
    most one group. Of the gallery, only the keys of images that have others close to them are held in memory.

    Args:
        gallery: The gallery.
        within: Largest distance to the first image of a group, 0 or more.
        stages: Displays the progress.

    Returns:
        The groups, the largest first, then in order of their first keys.
    """
    close: dict[str, list[Duplicate]] = {}
    with stages.stage("comparing", gallery.count()) as advance:
        for batch in gallery.scroll(_BATCH_COUNT):
            hits = _close_hits(gallery, batch, within, _FIRST_COUNT)
            crowded = [entry for entry in batch if len(hits[entry.key]) == _FIRST_COUNT]
            for key, found in (hits | _close_hits(gallery, crowded, within, _MOST_COUNT)).items():
                others = [Duplicate(hit.key, hit.distance) for hit in found if hit.key != key]
                if others:
                    close[key] = others[: _MOST_COUNT - 1]  # without it, if identical images hide it
            advance(len(batch))
    return sorted(_groups(close), key=lambda group: (-len(group), group[0].key))


def _close_hits(gallery: Gallery, entries: Sequence[Entry], within: float, limit: int) -> dict[str, list[Hit]]:
    """Return the hits close to each entry, by its key, at most `limit` of them. They include the entry itself."""
    options = SearchOptions(limit=limit, max_distance=within)
    hit_lists = gallery.search_batch([Query(entry.code, options) for entry in entries])
    return {entry.key: hits for entry, hits in zip(entries, hit_lists, strict=True)}


def _groups(close: dict[str, list[Duplicate]]) -> list[list[Duplicate]]:
    """Group images. `close` has the others that are close to each image, nearest first."""
    groups: dict[str, list[Duplicate]] = {}
    grouped: set[str] = set()
    for key in sorted(close, key=lambda key: (-len(close[key]), key)):
        if key in grouped:
            continue
        first = next((other for other in close[key] if other.key in groups), None)
        others = [other for other in close[key] if other.key not in grouped]
        if first:
            groups[first.key].append(Duplicate(key, first.distance))
            grouped.add(key)
        elif others:
            groups[key] = [Duplicate(key, 0.0), *others]
            grouped.update(image.key for image in groups[key])
    return [sorted(group, key=lambda image: image.distance) for group in groups.values()]
