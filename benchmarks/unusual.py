"""Measure how well unusual queries are flagged: `python -m benchmarks.unusual`.

The galleries are MNIST and Fashion-MNIST. The queries of each are the dataset's own test images, noise, pieces of
photographs, printed letters that do not look like digits, and images of the other dataset. For each kind of query, this
prints the share whose `query_percentile` is above 99, whose `distance_percentile` is above 99, and that is flagged.
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
from sklearn.datasets import load_sample_images

from encoder_service.galleries import Galleries
from encoder_service.searcher import Searcher, SearchRequest
from gallery import SearchOptions, open_store
from ingest.sources import open_source

# Letters that are left out, because they look like digits.
_LIKE_DIGITS = "OIlSZoszqgbi"
# Fonts of the letters. Matplotlib ships them.
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "STIXGeneral", "STIXGeneralItalic")
# Font size of the letters in pixels, at which they are about as large as MNIST's digits.
_SIZE = 22
# Number of queries of each kind, except letters.
_COUNT = 2000


def main() -> None:
    """Load both datasets, run the searches, and print the shares."""
    digits, clothes = _images("mnist/test"), _images("fashion-mnist/test")
    foreign = {"noise": _noise(), "pieces of photographs": _pieces(), "printed letters unlike digits": _letters()}
    queries = {
        "mnist": {"unseen digits": digits, **foreign, "clothes": clothes},
        "fashion-mnist": {"unseen clothes": clothes, **foreign, "digits": digits},
    }
    with TemporaryDirectory() as folder:
        store = f"edge:{folder}"
        for name in queries:
            command = [str(Path(sys.executable).parent / "ingest"), "load", name, "--store", store]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with closing(Galleries(open_store(store))) as galleries:
            for name, kinds in queries.items():
                print(f"{f'{name}: above the 99th percentile':<42}{'error':>8}{'distance':>10}{'either':>8}")
                with galleries.searcher(name) as searcher:
                    for kind, pictures in kinds.items():
                        _measure(searcher, kind, pictures)


def _measure(searcher: Searcher, kind: str, pictures: Sequence[Image.Image]) -> None:
    results = [searcher.search(SearchRequest(picture, SearchOptions(limit=1))) for picture in pictures]
    error = np.array([result.query_percentile for result in results], float) > 99
    distance = np.array([result.hits[0].distance_percentile for result in results], float) > 99
    either = np.array([result.is_unusual for result in results])
    shares = (f"{100 * flags.mean():.1f} %" for flags in (error, distance, either))
    print("{:<42}{:>8}{:>10}{:>8}".format(f"{len(pictures):,} {kind}", *shares), flush=True)


def _images(source: str) -> list[Image.Image]:
    return [item.image() for item in open_source(source, limit=_COUNT)]


def _noise() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (_COUNT, 28, 28), np.uint8)
    return [Image.fromarray(image) for image in pixels]


def _pieces() -> list[Image.Image]:
    """Cut pieces of 112 × 112 pixels from scikit-learn's two photographs, and scale them to 28 × 28 in grey."""
    chance = np.random.default_rng(0)
    pieces = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[:2]
        for _ in range(_COUNT // 2):
            top, left = chance.integers(height - 112), chance.integers(width - 112)
            piece = Image.fromarray(photograph[top : top + 112, left : left + 112])
            pieces.append(piece.convert("L").resize((28, 28), Image.Resampling.LANCZOS))
    return pieces


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
