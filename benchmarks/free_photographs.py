"""Train the shipped encoder `photos` on free photographs: `python -m benchmarks.free_photographs --out DIR/photos`.

The photographs are those of free_photographs.tsv, which has each one's licence and author: 284 landscapes, cities and
interiors, 325 cut-out animals, plants and things, and 38 pictures of laboratory equipment. They come from Debian
packages, 240 MB, which are fetched once. None of these packages is among those of `benchmarks.photographs`, so an
encoder trained on them has not seen the photographs on which it is measured.
"""

import argparse
import csv
import json
import random
from collections import defaultdict
from pathlib import Path

from PIL import Image

from benchmarks.packages import unpack
from training.recipes import train_and_export

_LIST = Path(__file__).with_suffix(".tsv")
# Crops of each photograph, which are images of their own, and pictures of each cut-out thing in front of a photograph.
_CROPS, _IN_FRONT = 4, 2
# Longest side of an image, in pixels: three times the encoder's input.
_SIDE = 192
# Passes over the images: about 540 steps.
_EPOCHS = 30


def main() -> None:
    """Build the images unless they are there, and train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(".venv/free-photographs"), help="folder for the images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the encoder, such as DIR/photos")
    options = parser.parse_args()
    with _LIST.open() as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if not row[0].startswith("#")]
    images = options.folder / "images"
    if not images.exists():
        part = options.folder / "images.part"
        _build(part, [unpack(options.folder / "packages", package) / path for package, _, _, path in rows])
        part.rename(images)
    train_and_export(str(images), "photos", options.out, size=64, channels=3, epochs=_EPOCHS, from_scratch=True)
    card = json.loads((options.out / "encoder.json").read_text())
    card["data"]["source"] = "photographs of Debian packages, see benchmarks/free_photographs.tsv"
    card["data"]["photographs"] = _origins(rows)
    (options.out / "encoder.json").write_text(json.dumps(card, indent=2) + "\n")


def _build(folder: Path, files: list[Path]) -> None:
    chance = random.Random(3)
    folder.mkdir(parents=True)
    photographs = [path for path in files if path.suffix == ".jpg"]
    for number, path in enumerate(files):
        image: Image.Image = Image.open(path)
        pictures = [image]
        if path.suffix == ".jpg":
            pictures += [_cropped(image, chance) for _ in range(_CROPS)]
        else:
            pictures += [_in_front(image, Image.open(chance.choice(photographs)), chance) for _ in range(_IN_FRONT)]
        for index, picture in enumerate(pictures):
            picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            picture.save(folder / f"{number:03}-{index}.png")


def _cropped(image: Image.Image, chance: random.Random) -> Image.Image:
    """Cut out a part of 40 to 80 % of the width and of the height."""
    width, height = (int(side * chance.uniform(0.4, 0.8)) for side in image.size)
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def _in_front(thing: Image.Image, photograph: Image.Image, chance: random.Random) -> Image.Image:
    """Put a cut-out thing in front of a part of a photograph, of which it takes up at most 50 to 95 % each way."""
    ground = _cropped(photograph, chance).convert("RGB")
    thing = thing.convert("RGBA")
    scale = chance.uniform(0.5, 0.95) * min(ground.width / thing.width, ground.height / thing.height)
    thing = thing.resize([max(1, int(side * scale)) for side in thing.size], Image.Resampling.BICUBIC)
    at = chance.randint(0, ground.width - thing.width), chance.randint(0, ground.height - thing.height)
    ground.paste(thing, at, thing)
    return ground


def _origins(rows: list[list[str]]) -> list[dict[str, object]]:
    """Count the photographs of each package by licence, and list their authors."""
    counts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for package, licence, author, _ in rows:
        counts[package, licence].append(author)
    return [
        {"package": package, "licence": licence, "count": len(authors), "authors": sorted(set(authors))}
        for (package, licence), authors in counts.items()
    ]


if __name__ == "__main__":
    main()
