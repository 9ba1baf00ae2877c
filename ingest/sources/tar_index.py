"""Index a tar's headers, before any image is read, to find the members that are replaced and the targets of links."""

import tarfile
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ingest.sources.files import LINKED_FOLDER, REPLACED
from ingest.sources.names import comparable, follow_links, linked_name
from ingest.sources.tar_stream import TarStream


@dataclass(slots=True)
class TarIndex:
    """The members of a tar that need special treatment. Members are numbered from 0 in their order.

    Attributes:
        count: Number of images.
        left_out: The reason why a member is left out, by its number: a later member replaces it, or it is a link to a
            folder.
        dangling: Numbers of the links whose targets the tar does not have.
        links: Names of the links to each file, by the file's name in the form of `comparable`.
    """

    count: int = 0
    left_out: dict[int, str] = field(default_factory=dict)
    dangling: set[int] = field(default_factory=set)
    links: dict[str, list[str]] = field(default_factory=dict)


def read_index(stream: TarStream, is_image: Callable[[str], bool], limit: int | None) -> TarIndex:
    """Read the headers of a tar until `limit` images are found. Without a limit, read the file to its end.

    Args:
        stream: The tar, at its beginning.
        is_image: Returns whether a member is an image, by its name.
        limit: Maximum number of images; None for all.

    Raises:
        TarError: The tar is truncated or damaged.
        OSError: The file can't be read.
    """
    hashes, are_files, are_images = array("q"), bytearray(), bytearray()  # instead of names, as there may be millions
    links: dict[int, tarfile.TarInfo] = {}
    folders = {""}
    count = 0
    for number, (_, member) in enumerate(stream.members()):
        name = comparable(member.name)
        hashes.append(hash(name))
        are_files.append(member.isreg())
        are_images.append(not member.isdir() and is_image(member.name))
        if is_link(member):
            links[number] = member
        _add_folder(name if member.isdir() else name.rpartition("/")[0], folders)
        count += are_images[-1]
        if count == limit:
            break
    else:
        stream.skip_to_end()
    index = TarIndex(left_out=dict.fromkeys(_replaced(hashes, are_files, links), REPLACED))
    _sort_links(index, links, {hashes[number] for number in np.flatnonzero(are_files)} if links else set(), folders)
    index.count = count - sum(are_images[number] for number in index.left_out)
    return index


def is_link(member: tarfile.TarInfo) -> bool:
    """Return whether a member is a hard or a symbolic link."""
    return member.islnk() or member.issym()


def _add_folder(folder: str, folders: set[str]) -> None:
    while folder not in folders:
        folders.add(folder)
        folder = folder.rpartition("/")[0]


def _replaced(hashes: "array[int]", are_files: bytearray, links: dict[int, tarfile.TarInfo]) -> list[int]:
    """Return the numbers of the files and links that a later member of the same name replaces."""
    are_named = np.array(are_files, bool)
    are_named[list(links)] = True
    numbers = np.flatnonzero(are_named)
    _, last = np.unique(np.array(hashes)[numbers][::-1], return_index=True)
    return sorted(set(numbers.tolist()) - set(numbers[len(numbers) - 1 - last].tolist()))


def _sort_links(index: TarIndex, links: dict[int, tarfile.TarInfo], files: set[int], folders: set[str]) -> None:
    targets = {comparable(link.name): linked_name(link.name, link.linkname, link.issym()) for link in links.values()}
    for number, link in links.items():
        target = follow_links(comparable(link.name), targets)
        if number in index.left_out:
            continue
        if hash(target) in files:
            index.links.setdefault(target, []).append(link.name)
        elif target in folders:
            index.left_out[number] = LINKED_FOLDER
        else:
            index.dangling.add(number)
