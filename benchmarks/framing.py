"""Measure how well searches find digits that do not look like MNIST's: `python -m benchmarks.framing`.

The queries are MNIST's test digits, drawn in forms that people send: black on white, small in a corner, as a photograph
of paper, and others. For each encoder of digits and each form, the benchmark prints the share of queries whose nearest
image has the right label, with and without the encoder's framing rule. It also prints how many of MNIST's own test
images the rule changes.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.searcher import Searcher, SearchRequest
from gallery import Entry, GallerySpec, SearchOptions, open_store
from ingest.sources import Item, open_source

_ENCODERS = ("mnist", "seed")
_COUNT = 200
_SMOOTH = Image.Resampling.BICUBIC


def main() -> None:
    """Run the measurements, and print the results for each encoder."""
    train = list(open_source("mnist/train"))
    test = list(open_source("mnist/test"))
    for name in _ENCODERS:
        _measure(load_encoder(name), train, test)


def _measure(encoder: Encoder, train: Sequence[Item], test: Sequence[Item]) -> None:
    begun = time.perf_counter()
    fired = sum(bool(encoder.frame(item.image())[1]) for item in test)
    each = (time.perf_counter() - begun) / len(test) * 1e3
    print(f"encoder {encoder.spec.name}: reframes {fired:,} of MNIST's {len(test):,} test images, {each:.3f} ms each")
    searcher = _searcher(encoder, train)
    print(f"{f'{_COUNT} digits':<28}{'as is':>8}{'framed':>8}{'reframed':>10}")
    for form, draw in FORMS.items():
        chance = np.random.default_rng(0)
        pictures = [draw(item.image(), chance) for item in test[:_COUNT]]
        shares = []
        prepared = 0
        for as_is in (True, False):
            requests = [SearchRequest(picture, SearchOptions(limit=1), as_is) for picture in pictures]
            results = searcher.search_batch(requests)
            prepared = sum(bool(result.prepared) for result in results)
            right = [result.hits[0].label == item.label for result, item in zip(results, test[:_COUNT], strict=True)]
            shares.append(f"{100 * np.mean(right):.1f} %")
        print("{:<28}{:>8}{:>8}{:>10}".format(form, *shares, prepared), flush=True)


def _searcher(encoder: Encoder, train: Sequence[Item]) -> Searcher:
    """Return a searcher of a gallery of all training digits, by exact search."""
    building = open_store("exact:").build(
        GallerySpec("mnist", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size)
    )
    for start in range(0, len(train), 6400):
        items = train[start : start + 6400]
        codes = encoder.encode_images([item.image() for item in items])
        building.gallery.upsert(
            [Entry(item.key, code, item.label or "", "", b"") for item, code in zip(items, codes, strict=True)]
        )
    return Searcher(encoder, building.gallery)


def _upright(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    return digit


def _inverted(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    return ImageOps.invert(digit)


def _pen(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    return digit.resize((280, 280), _SMOOTH).point(lambda level: 0 if level >= 128 else 255)


def _small(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    return _pasted(digit, 84, (640, 480), (278, 198))


def _corner(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    return _pasted(digit, 140, (280, 280), (0, 0))


def _shifted(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    down, right = chance.choice([(4, 0), (-4, 0), (0, 4), (0, -4), (4, 4), (-4, -4), (4, -4), (-4, 4)])
    return _pasted(digit, 28, (28, 28), (int(right), int(down)))


def _tight(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    return digit.crop(digit.getbbox())


def _left(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    return _pasted(digit, 200, (600, 280), (0, 40))


def _paper(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    """Simulate a photograph of a dark digit, 150 to 300 pixels high, on grey paper, with uneven light and noise."""
    width, height = 640, 480
    side = int(chance.integers(150, 300))
    corner = int(chance.integers(0, width - side)), int(chance.integers(0, height - side))
    ink = np.asarray(_pasted(digit, side, (width, height), corner)) / 255
    rows, columns = np.mgrid[0:height, 0:width]
    paper = 190 - 60 * columns / width - 30 * rows / height
    return _picture(paper * (1 - ink) + 45 * ink + chance.normal(0, 8, (height, width)))


def _thin(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    """Enlarge a digit to 280 × 280 pixels, and make its strokes thinner by one pixel of the original."""
    return digit.resize((280, 280), _SMOOTH).filter(ImageFilter.MinFilter(11))


def _grey(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    return digit.point(lambda level: level * 0.4)


def _pasted(digit: Image.Image, side: int, size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    picture = Image.new("L", size)
    picture.paste(digit.resize((side, side), _SMOOTH), corner)
    return picture


def _picture(levels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


FORMS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "upright": _upright,
    "black on white": _inverted,
    "black pen, 280 px": _pen,
    "84 px in 640 × 480": _small,
    "140 px in a corner of 280": _corner,
    "shifted by 4 px": _shifted,
    "cropped to the ink": _tight,
    "left third of 600 × 280": _left,
    "photograph of paper": _paper,
    "thin strokes": _thin,
    "grey, 40 % contrast": _grey,
}
"""The forms in which digits are drawn, by name. Each function takes an image of MNIST and a random generator."""


if __name__ == "__main__":
    main()
