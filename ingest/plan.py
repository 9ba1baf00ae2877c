"""Estimate the machines that a gallery needs, from the coefficients that `benchmarks/scale.py` has measured."""

import json
import math
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rich.filesize import decimal

from gallery.errors import InvalidInputError
from gallery.memory import LEAST, PROCESSES, SERVER_SHARE, build_parts, disk_bytes, graph_bytes, node_segment_mb
from gallery.profiles import DEFAULT_PROFILE, PROFILES, Memory, Profile, find_profile

INDEX_GROWTH = 0.18
"""Exponent with which the time to index a code grows with the number of codes in its segment.

Measured with the profile `disk`: 70 µs in 200,000 codes, and 121 µs in 4,000,000.
"""

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
# Fraction of a node's RAM for the gallery; the rest is for the OS, the server and running searches.
_USABLE = 0.8
# Free disk space to keep, as a multiple of the gallery's size: 1 for a rebuild beside the live version, and 1 to merge
# segments.
_FREE_DISK = 2.0
# Numbers in a code, as the shipped encoders make them.
_CODE_SIZE = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """Machines that a gallery needs.

    Attributes:
        ram_bytes: Memory that all nodes together need, in bytes, so that searches need not wait for the disk.
        disk_bytes: Size of the gallery on the disks of all nodes together, in bytes, without the space for a rebuild.
        load_s: Seconds to encode and store the images, on one loading machine of 2 cores.
        index_s: Seconds to build the index, with all nodes working at the same time.
        build_bytes: Memory in which a node builds its images in one segment, or in the largest ones of the profile.
        segments: Number of segments in which a node builds its images within its memory.
        nodes: Number of nodes.
        fewest_nodes: Smallest number of nodes with enough memory.
        single_node_profile: Name of the profile with which a single node serves all images; see `fitting_profile`.
        formula: The formulas of the figures, one line each.
    """

    ram_bytes: float
    disk_bytes: float
    load_s: float
    index_s: float
    build_bytes: float
    segments: int
    nodes: int
    fewest_nodes: int
    single_node_profile: str
    formula: tuple[str, ...]


def plan(images: float, profile_name: str, ram_bytes: float, nodes: int | None, replicas: int) -> Plan:
    """Estimate the machines that a gallery needs.

    Args:
        images: Number of images.
        profile_name: Name of the gallery's storage profile.
        ram_bytes: Memory of a node, in bytes.
        nodes: Number of nodes; None for the smallest number with enough memory.
        replicas: Number of nodes that hold each code.

    Raises:
        InvalidInputError: A number is out of its range, or no profile has this name.
    """
    profile = find_profile(profile_name)
    measured = _coefficients()[profile.name]
    sizes = _sizes(profile, measured)
    in_memory = _in_memory(sizes)
    base = measured["base_bytes"]
    images_ram = images * replicas * sum(in_memory.values())
    usable = ram_bytes * _USABLE - base
    if usable <= 0:
        raise InvalidInputError(f"--ram {as_bytes(ram_bytes)}: expected more than {as_bytes(base / _USABLE)} a node")
    fewest = max(replicas, math.ceil(images_ram / usable))
    count = nodes or fewest
    if count < replicas:
        raise InvalidInputError(f"--nodes {count}: expected at least {replicas}, the number of replicas")
    image_disk = sum(size for _, size in sizes.values())
    images_a_node = images * replicas / count
    segments, build_bytes, sorts = _building(images_a_node, profile, ram_bytes, is_server=count > 1)
    growth = (images_a_node / segments / 1e6) ** INDEX_GROWTH
    index_us = measured["index_us"] * growth + measured["sort_us"] * sorts
    return Plan(
        ram_bytes=images_ram + count * base,
        disk_bytes=images * replicas * image_disk,
        load_s=images / measured["load_per_s"],
        index_s=images_a_node * index_us / 1e6,
        build_bytes=build_bytes,
        segments=segments,
        nodes=count,
        fewest_nodes=fewest,
        single_node_profile=fitting_profile(images, ram_bytes),
        formula=_formula(measured, in_memory, image_disk, ram_bytes, fewest, profile),
    )


def fitting_profile(images: float, ram_bytes: float) -> str:
    """Return the name of the profile for images on one node: the fastest that needs no more than the node's memory.

    Every profile from the default to the one that needs least memory is considered. The last one is returned if none
    fits, because it works with any memory.

    Args:
        images: Number of images.
        ram_bytes: Memory of the node, in bytes.
    """
    names = list(PROFILES)
    for name in names[names.index(DEFAULT_PROFILE) : -1]:
        if serving_bytes(images, name) <= ram_bytes * _USABLE:
            return name
    return names[-1]


def serving_bytes(images: float, profile_name: str) -> float:
    """Return the memory in bytes in which one node searches images without waiting for the disk.

    With the profile `inline`, all searches wait for the disk.
    """
    profile = find_profile(profile_name)
    measured = _coefficients()[profile.name]
    base: float = measured["base_bytes"]
    return base + images * sum(_in_memory(_sizes(profile, measured)).values())


def _sizes(profile: Profile, measured: dict[str, Any]) -> dict[str, tuple[Memory, float]]:
    """Return where each part of a gallery is kept, and its bytes per image."""
    return {
        "full codes": (profile.codes, measured["codes_bytes"]),
        "shortened codes": (profile.shortened, measured["shortened_bytes"]),
        "graph": (profile.graph, measured["graph_bytes"]),
        "ids": (profile.ids, measured["ids_bytes"]),
        "payload": (profile.payload, measured["payload_bytes"]),
    }


def _in_memory(sizes: dict[str, tuple[Memory, float]]) -> dict[str, float]:
    return {part: size for part, (memory, size) in sizes.items() if memory is not Memory.COLD and size}


def _building(images: float, profile: Profile, ram_bytes: float, *, is_server: bool) -> tuple[int, float, bool]:
    """Return how a node builds its images.

    Returns:
        The number of segments, the memory in bytes that the fewest segments take, and whether codes are sorted first.
    """
    codes_mb = images * _CODE_SIZE * 4 / 2**20
    segment_mb = min(codes_mb, profile.max_segment_mb)
    ram = max(int(ram_bytes), PROCESSES + LEAST)  # a smaller node can search a gallery that was built elsewhere
    if is_server:
        allowed_mb, needed, sorts = node_segment_mb(ram, profile), SERVER_SHARE * segment_mb * 2**20, False
    else:
        sizes = build_parts(ram, profile, _CODE_SIZE)
        allowed_mb = sizes.segment_mb
        needed = PROCESSES + segment_mb * 2**20 / (_CODE_SIZE * 4) * graph_bytes(profile, _CODE_SIZE)
        sorts = images * disk_bytes(profile, _CODE_SIZE) > sizes.sorted_bytes
    return max(1, math.ceil(codes_mb / allowed_mb)), needed, sorts


def _formula(
    measured: dict[str, Any],
    in_memory: dict[str, float],
    image_disk: float,
    ram_bytes: float,
    fewest: int,
    profile: Profile,
) -> tuple[str, ...]:
    """Return the formula of each figure, in the order in which the command prints the figures."""
    parts = " + ".join(f"{size:,.0f} {part}" for part, size in in_memory.items())
    images_ram = f"images × replicas × ({parts}) bytes + " if parts else ""
    base = as_bytes(measured["base_bytes"])
    return (
        f"RAM   = {images_ram}nodes × {base}",
        f"disk  = images × replicas × {image_disk:,.0f} bytes; keep {_FREE_DISK:g} times as much free, for a rebuild",
        f"load  = images / {measured['load_per_s']:,.0f} a second, in one process; --workers N divides it",
        f"index = n × ({measured['index_us']:.0f} µs × (n / segments / 1,000,000)^{INDEX_GROWTH} + "
        f"{measured['sort_us']:.0f} µs if it is built in parts), with n = images × replicas / nodes and "
        f"{measured['cores']} cores a node",
        f"build = {as_bytes(PROCESSES)} + n / segments × {graph_bytes(profile, _CODE_SIZE):,.0f} bytes; on a server, "
        f"{SERVER_SHARE} times the full codes of a segment",
        f"nodes = RAM of the images / ({_USABLE:g} × {as_bytes(ram_bytes)} - {base}), rounded up, and at least as many "
        f"as replicas: {fewest:,}",
    )


def amount(text: str, what: str) -> float:
    """Parse a number with an optional suffix K, M, B, G or T, and an optional "B" for bytes: `100M`, `16GB`.

    Args:
        text: The number as the user wrote it.
        what: Name of the option, for the message.

    Raises:
        InvalidInputError: The text is not such a number, or the number is below 1.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([KMBGT]?)B?", text.strip().replace(",", ""), re.IGNORECASE)
    value = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if value < 1:
        raise InvalidInputError(f"{what} {text!r}: expected a number of 1 or more, such as 60000, 100M, 1B or 16GB")
    return value


def memory_amount(text: str) -> int | None:
    """Parse the option --memory, as `amount` does; None if it is not given.

    Raises:
        InvalidInputError: The text is not a number of bytes.
    """
    return int(amount(text, "--memory")) if text else None


def as_bytes(size: float) -> str:
    """Format a size in bytes for people: "1.9 GB"."""
    return decimal(round(size))


def as_time(seconds: float) -> str:
    """Format a time in seconds for people: "3.2 h"."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length * 1.5:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _coefficients() -> dict[str, dict[str, Any]]:
    coefficients: dict[str, dict[str, Any]] = json.loads(
        resources.files("ingest").joinpath("coefficients.json").read_text()
    )
    return coefficients
