"""Measure how well unusual queries are flagged among photographs: `python -m benchmarks.unusual_photographs`.

Five times, 200 of the 297 photographs of `benchmarks.photographs` are drawn at random and loaded. The queries are the
other 97, clip art, noise and blank images. For each kind, this prints the mean share that is flagged, and the smallest
and largest share. The clip art is in a Debian package of 130 MB, which is fetched once.
"""

import argparse
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.packages import can_unpack, unpack
from benchmarks.photographs import Sets
from encoder_service.galleries import Galleries
from encoder_service.searcher import SearchRequest, Subject
from gallery import SearchOptions, open_store

_SPLITS = 5
_STORED = 200
# Number of queries of clip art and of noise.
_COUNT = 400
_MAX_BYTES = 100_000
_COLOURS = ("black", "white", "grey", "red", "navy")


def main() -> None:
    """Load the galleries, run the searches, and print the shares."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(".venv/photographs"), help="folder for images")
    folder = parser.parse_args().folder
    if not can_unpack():
        return
    photographs = [folder / "photos" / picture.file for picture in Sets(folder).pictures if picture.whole]
    kinds: dict[str, Sequence[Subject]] = {
        "clip art": _clip_art(folder),
        "noise": _noise(),
        "blank images": [Image.new("RGB", (640, 480), colour) for colour in _COLOURS],
    }
    shares = defaultdict(list)
    for split in range(_SPLITS):
        drawn = random.Random(split).sample(photographs, len(photographs))
        queries = {"other photographs": drawn[_STORED:], **kinds}
        for kind, share in _flagged(drawn[:_STORED], queries).items():
            shares[kind].append(100 * share)
    print(f"{_STORED} photographs, {_SPLITS} draws: flagged as unusual")
    for kind, values in shares.items():
        print(f"{kind:<20}{np.mean(values):>6.1f} % ({min(values):.1f} to {max(values):.1f} %)")


def _flagged(stored: Sequence[Path], queries: dict[str, Sequence[Subject]]) -> dict[str, float]:
    """Load a gallery of photographs, and return the share of each kind of queries that it flags."""
    with TemporaryDirectory() as folder:
        photographs, store = Path(folder, "photographs"), f"edge:{folder}/store"
        photographs.mkdir()
        for number, path in enumerate(stored):
            (photographs / f"{number}{path.suffix}").symlink_to(path.absolute())
        command = [str(Path(sys.executable).parent / "ingest"), "load", str(photographs), "--store", store]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with closing(Galleries(open_store(store))) as galleries, galleries.searcher("") as searcher:
            return {
                kind: float(
                    np.mean([searcher.search(SearchRequest(s, SearchOptions(limit=1))).is_unusual for s in subjects])
                )
                for kind, subjects in queries.items()
            }


def _clip_art(folder: Path) -> list[Path]:
    files = sorted((unpack(folder / "packages", "openclipart-png") / "usr/share").rglob("*.png"))
    # some of the large files have more pixels than a query may have
    return random.Random(0).sample([file for file in files if file.stat().st_size < _MAX_BYTES], _COUNT)


def _noise() -> list[Image.Image]:
    """Draw noise of 8 to 512 pixels a side."""
    chance = np.random.default_rng(0)
    sides = (2 ** chance.uniform(3, 9, _COUNT)).astype(int)
    return [Image.fromarray(chance.integers(0, 256, (side, side, 3), np.uint8)) for side in sides]


if __name__ == "__main__":
    main()
