"""Keys: each source of a gallery has a prefix of its own, so that two folders of one name never replace each other.

A source proposes keys such as `images/7.png` for the folder /home/ada/images. The first source of a gallery keeps them.
For another source, at /home/bob/images, they become `bob/images/7.png`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path, PurePosixPath

from ingest.loading.ledger import Ledger
from ingest.sources import Item, Source

# Images that are compared to find out whether a source was loaded before from another place. The first of each source:
# cameras and datasets number them, so two sources that could replace each other's images do so from the start.
_COMPARED = 32


@dataclass(frozen=True, slots=True)
class Prefixed:
    """A source whose keys begin with another prefix than the source proposes."""

    source: Source
    prefix: str

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.name

    @property
    def place(self) -> str:
        """Place of the source."""
        return self.source.place

    @property
    def count(self) -> int | None:
        """Number of images, as the source reports it."""
        return self.source.count

    def __iter__(self) -> Iterator[Item]:
        """Read the images."""
        for item in self.source:
            yield replace(item, key=_with_prefix(item.key, self.prefix))


def with_ledger_keys(source: Source, ledger: Ledger, say: Callable[[str], None]) -> Source:
    """Return a source with the keys that it has in a gallery, and note their prefix in the gallery's ledger.

    A source that is new to the gallery gets the shortest prefix that no other source has. If its images are those of a
    source whose place no longer exists, it is the same source: it has been moved, and its keys stay.

    Args:
        source: The source as it was opened.
        ledger: The gallery's ledger.
        say: Prints a line for the user.
    """
    prefix = ledger.prefix(source.place)
    if prefix is None:
        sample = list(islice(source, _COMPARED))
        if len({own_prefix(item) for item in sample if "/" in item.key}) != 1:
            return source  # it has no images, or is of another program that has its own rules for keys
        prefix, previous_place = own_prefix(sample[0]), ""
        if _is_path(source.place):  # the keys of a dataset are the same in every gallery
            prefix, previous_place = _choose(source, sample, ledger)
        ledger.claim(source.place, source.name, prefix, previous_place)
        if previous_place:
            say(f"note: {source.place} has the images that were loaded from {previous_place}: they keep their keys")
        elif prefix != own_prefix(sample[0]):
            say(f"note: another source has keys like {sample[0].key}: those of {source.place} begin with {prefix}/")
    return Prefixed(source, prefix) if _is_path(source.place) else source


def with_known_keys(source: Source, ledger: Ledger) -> Source:
    """Return a source with the keys that it has in a gallery, unless it was never loaded into the gallery."""
    prefix = ledger.prefix(source.place)
    return Prefixed(source, prefix) if prefix and _is_path(source.place) else source


def candidates(source: Source, first: Item) -> Iterator[str]:
    """Yield the prefixes that a source may have, the shortest first: `images`, `bob/images`, `home/bob/images`."""
    own = own_prefix(first)
    yield own
    parts = [part.encode("utf-8", "backslashreplace").decode() for part in Path(source.place).parts[1:]]
    for length in range(1, len(parts) + 1):
        if (prefix := "/".join(parts[-length:])) != own:
            yield prefix
    for number in count(2):
        yield f"{own}~{number}"


def own_prefix(item: Item) -> str:
    """Return the prefix that a source proposes for its keys."""
    return item.key.partition("/")[0]


def _choose(source: Source, sample: Sequence[Item], ledger: Ledger) -> tuple[str, str]:
    """Return the prefix of a new source, and the place of the same source before it was moved, "" if it was not."""
    for prefix in candidates(source, sample[0]):
        claimants = ledger.claimants(prefix)
        if not claimants:
            return prefix, ""
        if all(other == prefix and _has_gone(place) for place, other in claimants.items()):
            rows = ledger.look_up([_with_prefix(item.key, prefix) for item in sample])
            known = {row.key: row.sha256 for row in rows.values() if row.sha256}
            same = sum(known.get(_with_prefix(item.key, prefix)) == item.sha256 for item in sample)
            if same * 2 >= len(sample):
                return prefix, next((place for place in claimants if place), "")
    raise AssertionError("the candidates never end")


def _has_gone(place: str) -> bool:
    """Return whether a place is unknown, or a path that no longer exists."""
    return not place or (_is_path(place) and not Path(place).exists())


def _is_path(place: str) -> bool:
    return PurePosixPath(place).is_absolute()


def _with_prefix(key: str, prefix: str) -> str:
    return f"{prefix}/{key.partition('/')[2]}"
