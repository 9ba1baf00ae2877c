"""Give the keys of each source their own prefix, so that folders of the same name never replace each other's images.

The folder /home/ada/images proposes keys such as `images/7.png`, and keeps them if no other source in the gallery uses
the prefix `images`. If the folder /home/bob/images is loaded later, its keys become `bob/images/7.png`.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path, PurePosixPath

from encoder_service.client import Client
from encoder_service.searcher import Key
from gallery import SearchOptions
from gallery.errors import InvalidInputError, NotFoundError
from ingest.loading.ledger import Ledger
from ingest.sources import Item, Source
from ingest.sources.base import DerivedSource
from ingest.sources.names import path_of

# Number of a source's first images that are compared to detect that the source was loaded before from another place.
# They suffice, because cameras and datasets number their images: if the keys of two sources collide, the first ones do.
_COMPARED = 32
# Number of hits in which to look for an image's key. A gallery may have the same content under several keys.
_LIKELY_DUPLICATES = 100
# Distance below which two codes count as codes of the same image.
_SAME_DISTANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Prefixed(DerivedSource):
    """A source whose keys begin with a given prefix instead of the one that the source proposes."""

    prefix: str

    def __iter__(self) -> Iterator[Item]:
        """Read the images."""
        for item in self.source:
            yield replace(item, key=_with_prefix(item.key, self.prefix))


def with_ledger_keys(source: Source, ledger: Ledger, say: Callable[[str], None]) -> Source:
    """Return a source with the keys that it has in a gallery, and record their prefix in the gallery's ledger.

    A source that is new to the gallery gets the shortest prefix that no other source uses. But if its images are those
    of a loaded source whose place no longer exists, it counts as that source, moved to a new place, and keeps its keys.

    Args:
        source: The source as it was opened.
        ledger: The gallery's ledger.
        say: Prints a line for the user.
    """
    prefix = ledger.prefix(source.place)
    if prefix is None:
        # with their hashes instead of their contents, which may be large
        sample = {item.key: item.sha256 for item in islice(source, _COMPARED)}
        first = next(iter(sample), "")
        if len({own_prefix(key) for key in sample if "/" in key}) != 1:
            return source  # the source has no images, or its keys have no common prefix
        prefix, previous_place = own_prefix(first), ""
        if _is_path(source.place):  # a dataset has the same keys in every gallery
            prefix, previous_place = _choose(source, sample, ledger)
        ledger.claim(source.place, source.name, prefix, previous_place)
        if previous_place:
            say(f"note: {source.place} has the images that were loaded from {previous_place}: they keep their keys")
        elif prefix != own_prefix(first):
            say(_other_prefix(first, source, prefix))
    return Prefixed(source, prefix) if _is_path(source.place) else source


def with_known_keys(source: Source, ledger: Ledger) -> Source:
    """Return a source with the keys that it has in a gallery. If it was never loaded, return it unchanged."""
    prefix = ledger.prefix(source.place)
    return Prefixed(source, prefix) if prefix and _is_path(source.place) else source


def candidates(base: Path, own: str) -> Iterator[str]:
    """Yield the prefixes that a source may have, the shortest first: `images`, `bob/images`, `home/bob/images`.

    Args:
        base: The source's folder or file.
        own: The prefix that the source proposes.
    """
    yield own
    parts = base.parts[1:]
    for length in range(1, len(parts) + 1):
        if (prefix := "/".join(parts[-length:])) != own:
            yield prefix
    for number in count(2):
        yield f"{own}~{number}"


def own_prefix(key: str) -> str:
    """Return the prefix that a source proposes for its keys, given one of them."""
    return key.partition("/")[0]


def _choose(source: Source, sample: Mapping[str, str], ledger: Ledger) -> tuple[str, str]:
    """Choose the prefix of a source that was never loaded from its place.

    Args:
        source: The source.
        sample: Keys of some of its images, each with the SHA-256 of the image.
        ledger: The gallery's ledger.

    Returns:
        The prefix, and the source's former place; "" if the source was not moved.
    """
    own = own_prefix(next(iter(sample)))
    base = _base(source.place, own, sample)
    for prefix in candidates(base, own):
        claimants = {
            place: other
            for place, other in ledger.claimants(prefix).items()
            if _base(place, other, ledger.look_up([f"{other}/{PurePosixPath(place).name}"])) != base
        }
        if not claimants:
            return prefix, ""
        if all(other == prefix and _has_gone(place) for place, other in claimants.items()):
            rows = ledger.look_up([_with_prefix(key, prefix) for key in sample])
            known = {row.key: row.sha256 for row in rows.values() if row.sha256}
            same = sum(known.get(_with_prefix(key, prefix)) == sha256 for key, sha256 in sample.items())
            if same * 2 >= len(sample):
                return prefix, next((place for place in claimants if place), "")
    raise AssertionError("the candidates never end")


def _base(place: str, prefix: str, keys: Container[str]) -> Path:
    """Return the folder or file to which a source's keys are relative. If the source is one image, this is its folder.

    Args:
        place: The source's place.
        prefix: The prefix of its keys.
        keys: Some of its keys.
    """
    path = Path(place)
    is_single = path.name != prefix.rpartition("/")[2] and f"{prefix}/{path.name}" in keys
    return path.parent if is_single else path


def _has_gone(place: str) -> bool:
    """Return whether a place is unknown, or a path that no longer exists."""
    path = path_of(place)
    if "{" in path.name:  # shards, such as shard-{000..009}.tar
        path = path.parent
    if not place:
        return True
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _is_path(place)
    except OSError:  # such as a folder above it that can't be entered: the path may exist
        return False
    return False


def _is_path(place: str) -> bool:
    return PurePosixPath(place).is_absolute()


def _with_prefix(key: str, prefix: str) -> str:
    return f"{prefix}/{key.partition('/')[2]}"


def with_service_keys(source: Source, client: Client, gallery: str, say: Callable[[str], None]) -> Source:
    """Return a source with keys that replace no image of another source in a service's gallery.

    A service does not know the source of its images. So the keys of the source's first images are looked up in the
    gallery. The source gets the shortest prefix with which either no key is in use, or at least half of the keys in
    use belong to the same images.

    Args:
        source: The source as it was opened.
        client: A connection to the service.
        gallery: Name of the gallery.
        say: Prints a line for the user.
    """
    sample = list(islice(source, _COMPARED))
    if not _is_path(source.place) or len({own_prefix(item.key) for item in sample if "/" in item.key}) != 1:
        return source
    own = own_prefix(sample[0].key)
    base = _base(source.place, own, [item.key for item in sample])
    for prefix in candidates(base, own):
        stored = [item for item in sample if _has_key(client, gallery, _with_prefix(item.key, prefix))]
        same = sum(_is_stored(client, gallery, item, _with_prefix(item.key, prefix)) for item in stored)
        if same * 2 >= len(stored):
            if prefix != own:
                say(_other_prefix(sample[0].key, source, prefix))
            return Prefixed(source, prefix)
    raise AssertionError("the candidates never end")


def _has_key(client: Client, gallery: str, key: str) -> bool:
    try:
        client.search(Key(key), gallery, SearchOptions(limit=1))
    except (NotFoundError, InvalidInputError):
        return False
    return True


def _is_stored(client: Client, gallery: str, item: Item, key: str) -> bool:
    """Return whether a gallery has the image under this key."""
    try:
        picture = item.content if isinstance(item.content, bytes) else item.image()
        hits = client.search(picture, gallery, SearchOptions(limit=_LIKELY_DUPLICATES)).hits
    except InvalidInputError:
        return False
    return any(hit.key == key and hit.distance < _SAME_DISTANCE for hit in hits)


def _other_prefix(first: str, source: Source, prefix: str) -> str:
    return f"note: another source has keys like {first}, so the keys of {source.place} begin with {prefix}/"
