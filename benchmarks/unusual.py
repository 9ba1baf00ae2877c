"""What `query_percentile` and `distance_percentile` say of pictures that are no digits: `python -m benchmarks.unusual`.

Loads MNIST, and searches it with unseen digits, with noise, with clothes, and with printed letters that look like no
digit, of matplotlib's own fonts. Prints the part of each that lies above the 99th percentile.
"""

import string
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from encoder_service.galleries import Galleries
from encoder_service.searcher import Searcher, SearchRequest
from gallery import SearchOptions, open_store
from ingest.sources import open_source

_LIKE_DIGITS = "OIlSZoszqgbi"
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif")
_SIZE = 22
_COUNT = 2000


def main() -> None:
    """Load, search, print."""
    with TemporaryDirectory() as folder:
        store = f"edge:{folder}"
        command = [str(Path(sys.executable).parent / "ingest"), "load", "mnist", "--store", store]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"{'above the 99th percentile':<34}{'error':>8}{'distance':>10}{'either':>8}")
        with closing(Galleries(open_store(store))) as galleries, galleries.searcher("mnist") as searcher:
            _measure(searcher, "unseen digits", _images("mnist/test"))
            _measure(searcher, "noise", _noise())
            _measure(searcher, "clothes (Fashion-MNIST)", _images("fashion-mnist/test"))
            _measure(searcher, "printed letters unlike digits", _letters())


def _measure(searcher: Searcher, what: str, pictures: Sequence[Image.Image]) -> None:
    results = [searcher.search(SearchRequest(picture, SearchOptions(limit=1))) for picture in pictures]
    error = np.array([result.query_percentile for result in results], float) > 99
    distance = np.array([result.hits[0].distance_percentile for result in results], float) > 99
    either = np.array([result.is_unusual for result in results])
    shares = (f"{100 * flags.mean():.1f} %" for flags in (error, distance, either))
    print("{:<34}{:>8}{:>10}{:>8}".format(f"{len(pictures):,} {what}", *shares), flush=True)


def _images(source: str) -> list[Image.Image]:
    return [item.image() for item in open_source(source, limit=_COUNT)]


def _noise() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (_COUNT, 28, 28), np.uint8)
    return [Image.fromarray(one) for one in pixels]


def _letters() -> list[Image.Image]:
    folder = Path(get_data_path(), "fonts", "ttf")
    letters = []
    for font in (ImageFont.truetype(folder / f"{name}.ttf", _SIZE) for name in _FONTS):
        for letter in sorted(set(string.ascii_letters) - set(_LIKE_DIGITS)):
            picture = Image.new("L", (28, 28))
            ImageDraw.Draw(picture).text((14, 14), letter, fill=255, font=font, anchor="mm")
            letters.append(picture)
    return letters


if __name__ == "__main__":
    main()
