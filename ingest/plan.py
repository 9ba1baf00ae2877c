"""How much machine a gallery takes, from what `benchmarks/scale.py` measured and coefficients.json records."""

import json
import math
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gallery.errors import InvalidInputError
from gallery.profiles import Memory, find_profile

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
# What the system, the server's own code and searches under way are left of a node's memory.
_USABLE = 0.8
# A rebuild stands beside the live version until it is cleaned away, and merging segments needs room once more.
_DISK_ROOM = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a gallery takes.

    Attributes:
        ram_bytes: Memory that keeps searches off the disk, on all nodes together.
        disk_bytes: The gallery on disk, on all nodes together, without the room for a rebuild.
        load_s: Time to encode and store on one loading machine of 2 cores.
        index_s: Time to build the index, all nodes at work.
        nodes: How many nodes.
        fewest_nodes: How many have the memory.
        formula: How each was reckoned, a line each.
    """

    ram_bytes: float
    disk_bytes: float
    load_s: float
    index_s: float
    nodes: int
    fewest_nodes: int
    formula: tuple[str, ...]


def plan(images: float, profile_name: str, ram_bytes: float, nodes: int | None, replicas: int) -> Plan:
    """Reckon what a gallery of so many images takes.

    Args:
        images: How many.
        profile_name: How it is stored.
        ram_bytes: Memory of a node.
        nodes: How many nodes; None for as few as have the memory.
        replicas: How many nodes hold each code.

    Raises:
        InvalidInputError: A number is out of its range, or there is no such profile.
    """
    stored = find_profile(profile_name)
    measured = _coefficients()[stored.name]
    placed = {
        "full codes": (stored.codes, measured["codes_bytes"]),
        "shortened codes": (stored.shortened, measured["shortened_bytes"]),
        "graph": (stored.graph, measured["graph_bytes"]),
        "ids": (stored.ids, measured["ids_bytes"]),
        "payload": (stored.payload, measured["payload_bytes"]),
    }
    kept = {part: size for part, (where, size) in placed.items() if where is not Memory.COLD and size}
    base = measured["base_bytes"]
    of_codes = images * replicas * sum(kept.values())
    usable = ram_bytes * _USABLE - base
    if usable <= 0:
        raise InvalidInputError(f"--ram {as_bytes(ram_bytes)}: expected more than {as_bytes(base / _USABLE)} a node")
    fewest = max(replicas, math.ceil(of_codes / usable))
    count = nodes or fewest
    if count < replicas:
        raise InvalidInputError(f"--nodes {count}: expected at least {replicas}, as many as there are replicas")
    ram = of_codes + count * base
    disk = images * replicas * sum(size for _, size in placed.values())
    each = images * replicas / count
    growth = max(1.0, math.log10(max(each, 10.0)) / 6)
    load_s = images / measured["load_per_s"]
    index_s = each * measured["index_us"] / 1e6 * growth
    sizes = " + ".join(f"{size:,.0f} {part}" for part, size in kept.items())
    return Plan(
        ram,
        disk,
        load_s,
        index_s,
        count,
        fewest,
        (
            f"RAM   = images × replicas × ({sizes}) bytes + nodes × {as_bytes(base)}",
            f"disk  = images × replicas × {disk / images / replicas:,.0f} bytes; keep {_DISK_ROOM:g} times that free "
            "of all else, for a rebuild beside it",
            f"load  = images / {measured['load_per_s']:,.0f} a second, one loading process; --workers N divides it",
            f"index = images × replicas / nodes × {measured['index_us']:.0f} µs × log10(of those) / 6, "
            f"{measured['cores']} cores a node",
            f"nodes = RAM of the images / ({_USABLE:g} × {as_bytes(ram_bytes)} - {as_bytes(base)}), rounded up, and "
            f"no fewer than the replicas: {fewest:,}",
        ),
    )


def amount(text: str, what: str) -> float:
    """Read a number with K, M, B, G or T after it, and perhaps "B" for bytes: `100M`, `16GB`.

    Raises:
        InvalidInputError: It is none, or not above 0.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([KMBGT]?)B?", text.strip().replace(",", ""), re.IGNORECASE)
    value = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
    if value < 1:
        raise InvalidInputError(f"{what} {text!r}: expected a number above 0 such as 60000, 100M, 1B or 16GB")
    return value


def as_bytes(size: float) -> str:
    """Write a size for people: "1.9 GB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 1000 else f"{size:,.0f} TB"


def as_time(seconds: float) -> str:
    """Write a time for people: "3.2 h"."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length * 1.5:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _coefficients() -> dict[str, dict[str, Any]]:
    recorded: dict[str, dict[str, Any]] = json.loads(
        resources.files("ingest").joinpath("coefficients.json").read_text()
    )
    return recorded
