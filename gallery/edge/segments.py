"""The segments of a shard: how Edge is to build them, and how large they are on disk."""

import json
from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gallery.files import replace_file
from gallery.profiles import Memory, Profile

# Name of the file with a shard's configuration, which Edge reads when it opens the shard.
CONFIG = "edge_config.json"
# A file that segments have once they are sorted, with 8 bytes for each code.
_VERSIONS = "id_tracker.versions"
# Number of segments that a shard may have before Edge joins any: more than any load makes.
_UNBOUNDED = 10_000


def plan_sorting(folder: Path) -> None:
    """Make the next optimisation of a closed shard sort the codes that have been added, and leave its other segments.

    No graph is built yet, and opening the shard does not read the quantised codes, because every further part opens it
    again. But if the shard has a graph, both stay: otherwise, Edge would build all segments again without their graphs.
    """
    # the smallest sizes, so that any number of codes is sorted and no segment is joined with another one
    _configure(folder, 0, Memory.COLD, segments=_UNBOUNDED, segment_kb=1, threshold_kb=1)


def plan_indexing(folder: Path, profile: Profile, segment_mb: int) -> None:
    """Make the next optimisation of a closed shard join its segments and build their graphs.

    Args:
        folder: The shard's folder.
        profile: The gallery's storage profile. A shard that has a graph keeps the `m` with which its graph was built.
        segment_mb: Largest size of a segment, in MB (2^20 bytes) of full codes.
    """
    _configure(folder, profile.m, profile.shortened, segments=1, segment_kb=segment_mb * 1024, threshold_kb=None)


def _configure(
    folder: Path, m: int, shortened: Memory, *, segments: int, segment_kb: int, threshold_kb: int | None
) -> None:
    """Change Edge's configuration. Other settings stay as they were when the shard was created."""
    config = json.loads((folder / CONFIG).read_bytes())
    config["optimizers"].update(
        default_segment_number=segments, max_segment_size=segment_kb, indexing_threshold=threshold_kb
    )
    vectors = config["vectors"][""]
    if vectors["hnsw_config"]["m"] == 0 or not _graphs(folder):
        vectors["hnsw_config"]["m"] = m
        for quantisation in vectors.get("quantization_config", {}).values():
            quantisation["memory"] = shortened
    replace_file(folder / CONFIG, json.dumps(config).encode())


def largest_share(folder: Path) -> float:
    """Return the fraction of a shard's indexed codes that its largest segment has, 0 to 1; 1 if none are indexed."""
    counts = [(graph.parents[1] / _VERSIONS).stat().st_size // 8 for graph in _graphs(folder)]
    return max(counts) / sum(counts) if counts else 1.0


def _graphs(folder: Path) -> list[Path]:
    graphs = folder.glob("segments/*/vector_index/hnsw_config.json")
    return [graph for graph in graphs if json.loads(graph.read_bytes())["m"] > 0]


def size_on_disk(folder: Path) -> int:
    """Return the bytes on disk of all files in a folder. Edge may remove files meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_blocks * 512
    return size


def unsorted_size(folder: Path) -> int:
    """Return the bytes on disk of a shard's segments that codes are added to."""
    return sum(size_on_disk(segment) for segment in _segments(folder) if not (segment / _VERSIONS).exists())


def even_segment_mb(folder: Path, most_mb: int, count: int, code_size: int) -> int:
    """Return the smallest limit for segments, in MB (2^20 bytes) of full codes, that makes as few of them as `most_mb`.

    Edge joins segments up to the limit, so that the last one may be far smaller than the others. Segments of equal size
    take less memory to build and less time to search.

    Args:
        folder: The shard's folder.
        most_mb: Largest size of a segment, in MB of full codes.
        count: Number of entries of the shard.
        code_size: Length of a code.
    """
    sizes = [versions.stat().st_size // 8 * code_size * 4 for versions in folder.glob(f"segments/*/{_VERSIONS}")]
    if (unsorted := count * code_size * 4 - sum(sizes)) > 0:
        sizes.append(unsorted)
    sizes.sort()
    fewest = _joined(sizes, most_mb)
    if fewest == 1:
        return most_mb
    return 1 + bisect_left(range(1, most_mb), -fewest, key=lambda limit_mb: -_joined(sizes, limit_mb))


def _joined(sizes: Iterable[int], limit_mb: int) -> int:
    """Return how many segments remain when Edge joins segments of these sizes, in bytes and smallest first."""
    joined, size = 0, 0
    for added in sizes:
        if not joined or size + added >= limit_mb * 2**20:
            joined, size = joined + 1, 0
        size += added
    return joined


def rewritten_size(folder: Path, segment_mb: int, code_size: int) -> int:
    """Return the bytes on disk of a shard's segments that an optimisation may join. It removes them at its end.

    Args:
        folder: The shard's folder.
        segment_mb: Largest size of a segment, in MB (2^20 bytes) of full codes. Larger segments stay as they are.
        code_size: Length of a code.
    """
    limit = segment_mb * 2**20
    return sum(
        size_on_disk(segment)
        for segment in _segments(folder)
        if not (versions := segment / _VERSIONS).exists() or versions.stat().st_size // 8 * code_size * 4 < limit
    )


def _segments(folder: Path) -> list[Path]:
    return [path.parent for path in (folder / "segments").glob("*/segment.json")]
