"""Find the groups of a gallery's images that are the same picture."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gallery import Gallery, Query, SearchOptions
from ingest.progress import Stages

# Images per batch of searches.
_BATCH_COUNT = 1024
# Nearest images that each image is compared with, including itself. Larger groups are found too, because their pairs
# overlap.
_NEIGHBOURS = 11


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One image of a group.

    Attributes:
        key: The image's key.
        distance: Distance to the nearest other image of the group, 0 or more.
    """

    key: str
    distance: float


Group = Sequence[Duplicate]
"""At least two images that are the same picture, in order of their keys."""


def find_duplicates(gallery: Gallery, within: float, stages: Stages) -> list[Group]:
    """Search for each image's nearest neighbours, and join the pairs that are close enough.

    A group is joined by its pairs, so its two ends may be farther apart than `within`. Only images that belong to a
    group are held in memory, not the whole gallery.

    Args:
        gallery: The gallery.
        within: Largest distance of a pair, 0 or more.
        stages: Displays the progress.

    Returns:
        The groups, the largest first, then in order of their first keys.
    """
    parents: dict[str, str] = {}
    nearest: dict[str, float] = {}
    options = SearchOptions(limit=_NEIGHBOURS, max_distance=within)
    with stages.stage("comparing", gallery.count()) as advance:
        for batch in gallery.scroll(_BATCH_COUNT):
            hit_lists = gallery.search_batch([Query(entry.code, options) for entry in batch])
            for entry, hits in zip(batch, hit_lists, strict=True):
                for hit in hits:
                    if hit.key != entry.key:
                        parents[_root(parents, entry.key)] = _root(parents, hit.key)
                        for key in (entry.key, hit.key):
                            nearest[key] = min(hit.distance, nearest.get(key, hit.distance))
            advance(len(batch))
    groups: dict[str, list[Duplicate]] = defaultdict(list)
    for key in sorted(nearest):
        groups[_root(parents, key)].append(Duplicate(key, nearest[key]))
    return sorted(groups.values(), key=lambda group: (-len(group), group[0].key))


def _root(parents: dict[str, str], key: str) -> str:
    """Return the key that stands for the group of a key, and shorten the path to it."""
    parents.setdefault(key, key)
    while parents[key] != key:
        parents[key] = key = parents[parents[key]]
    return key
