"""Build galleries in small parts, as a load of millions of images does, so that tests can do it with a few thousand.

`python -m tests.small_parts load …` is `ingest load …`, and `python -m tests.small_parts codes STORE COUNT BYTES`
builds the gallery `g` from random codes. In both, the processes themselves count as taking no memory.
"""

import sys
from contextlib import closing
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from gallery import GallerySpec, open_store
from tests.digits import entries

SPEC = GallerySpec("g", "seed", "f" * 64, 128, profile="disk")
SMALL = patch.multiple("gallery.memory", PROCESSES=0, LEAST=1)
"""Within this context, a gallery may be built in any memory."""


def codes(count: int) -> NDArray[np.float32]:
    """Return random codes, (count, 128). Like codes of real images, they vary in few directions."""
    chance = np.random.default_rng(5)
    return (chance.normal(size=(count, 12)) @ chance.normal(size=(12, 128))).astype(np.float32)


def build(store: str, count: int, memory_bytes: int) -> GallerySpec:
    """Build the gallery `g` within a memory limit, or resume it."""
    with SMALL, closing(open_store(store).build(SPEC, memory_bytes=memory_bytes)) as building:
        stored = entries(codes(count))
        begun = building.gallery.count()
        for start in range(max(0, begun - 100), count, 100):
            building.gallery.upsert(stored[start : start + 100])
        building.index()
        return building.publish()


def main() -> None:
    """Run the command that the command line names."""
    with SMALL:
        if sys.argv[1] == "codes":
            build(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        else:
            from ingest.cli import main as ingest

            ingest()


if __name__ == "__main__":
    main()
