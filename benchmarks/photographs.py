"""Search among photographs: `python -m benchmarks.photographs` (or `make quality PHOTOGRAPHS=1`).

Builds three sets from photographs in Debian's packages, and prints how well codes find

- other parts of a photograph: 297 photographs, each with seven crops of 40 to 70 % of its sides, 2,376 images in all.
  P@5 is the mean share of an image's five nearest that are of the same photograph;
- the scene: the 297 photographs among themselves, in 13 classes such as "monument" and "fish", as P@5;
- altered copies: 13 alterations of 260 of the images. R@1 is the share of copies whose original is the nearest of the
  2,376 images, and R@5 the share whose original is among the five nearest. The 2,376 images include other parts of
  the original's photograph. Seven more alterations, which no view of `training.views` imitates, have a line of their
  own and do not count in R@1 and R@5.

Labels are used for these figures alone. The packages are fetched with `apt-get download`, about 300 MB, once; without
apt-get there is nothing to measure, and the command says so. Without --encoder, it measures the shipped encoder, which
has seen none of the images, and one that it first trains on them. It draws hits of the shipped one into docs/.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from benchmarks.packages import can_unpack, unpack
from encoder_service.encoder import MODELS, PHOTOS_ENCODER, Encoder, load_encoder
from encoder_service.images import decode

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_LIST = Path(__file__).with_suffix(".tsv")
_FIGURES = Path(__file__).parents[1] / "docs"
# Number of photographs, and of altered copies, in a figure.
_SHOWN = 10
# File names that only give the size of a wallpaper. Such an image is named after a folder above it instead.
_SIZES = {"5120x2880", "2560x1600", "3840x2160", "1080x1920"}

Codes = NDArray[np.float32]


class Picture(NamedTuple):
    """One image of the gallery.

    Attributes:
        file: Path below `photos/`.
        photograph: Name of the photograph of which it is a part.
        scene: Class of the photograph.
        whole: Whether it is the photograph itself and not a crop.
    """

    file: str
    photograph: str
    scene: str
    whole: bool


class Sets:
    """The three sets of images in a folder. The first object for a folder builds them.

    Attributes:
        folder: The folder with the images, `photos/` and `copies/`.
        pictures: The images of the gallery.
        copies: For each altered copy: its alteration, its path below `copies/`, and the row of its original in
            `pictures`.
    """

    def __init__(self, folder: Path) -> None:
        """Build the sets in a folder, unless they are there."""
        self.folder = folder
        index = folder / "index.json"
        if not index.exists():
            pictures = _build_gallery(folder)
            index.write_text(json.dumps([pictures, _build_copies(folder, pictures)]))
        pictures, copies = json.loads(index.read_text())
        self.pictures = [Picture(*picture) for picture in pictures]
        rows = {picture.file: row for row, picture in enumerate(self.pictures)}
        self.copies = [(alteration, file, rows[image]) for alteration, file, image in copies]

    def images(self) -> Iterator[Image.Image]:
        """Yield the images of the gallery."""
        return (self.photo(row) for row in range(len(self.pictures)))

    def photo(self, row: int) -> Image.Image:
        """Return one image of the gallery."""
        return decode((self.folder / "photos" / self.pictures[row].file).read_bytes())

    def altered(self) -> Iterator[Image.Image]:
        """Yield the altered copies."""
        return (decode((self.folder / "copies" / file).read_bytes()) for _, file, _ in self.copies)


def main() -> None:
    """Build the sets, train an encoder if none is named, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(".venv/photographs"), help="folder for images and encoder")
    parser.add_argument("--encoder", action="append", help="measure this encoder, by name or path, and train none")
    parser.add_argument("--draw", action="store_true", help="with --encoder, also draw hits of the first into docs/")
    options = parser.parse_args()
    if not can_unpack():
        return
    sets = Sets(options.folder)
    if not options.encoder:
        trained = options.folder / "encoder"
        command = str(Path(sys.executable).parent / "autoencoder")
        subprocess.run([command, "train", str(options.folder / "photos"), "--out", str(trained)], check=True)
        options.encoder, options.draw = [str(MODELS / PHOTOS_ENCODER), str(trained)], True
    print(f"{len(sets.pictures):,} images of {len({p.photograph for p in sets.pictures})} photographs, exact search")
    print(f"{'codes':<34}{'numbers':>8}{'P@5 photo':>11}{'P@5 scene':>11}{'R@1 copy':>10}{'R@5 copy':>10}")
    colours, queries = (_histograms(images) for images in (sets.images(), sets.altered()))
    _measure("histogram of hue, 8 × 8 × 8", sets, colours, queries)
    pixels, asked = (_pixels(images) for images in (sets.images(), sets.altered()))
    form = _principal(pixels, asked, whitening=0.85)
    _measure("whitened PCA of pixels", sets, *map(_unit, form))
    for weight in (1, 2):
        stored, changed = (np.hstack([_unit(x), weight * y]) for x, y in zip(form, (colours, queries), strict=True))
        _measure(f"PCA of both, {weight} × histogram", sets, *_principal(stored, changed))
    for name in options.encoder:
        encoder = load_encoder(name)
        codes, asked = _encoded(encoder, sets.images()), _encoded(encoder, sets.altered())
        _measure(encoder.spec.name, sets, codes, asked)
        if options.draw and name == options.encoder[0]:
            _draw_hits(sets, codes)
            _draw_copies(sets, codes, asked)


def _measure(name: str, sets: Sets, codes: Codes, queries: Codes) -> None:
    """Print one row of the table, and R@5 for each alteration.

    Args:
        name: Name of the row.
        sets: The sets of images.
        codes: Codes of the gallery, (n, size).
        queries: Codes of the altered copies, (m, size).
    """
    photographs = _precision(codes, [picture.photograph for picture in sets.pictures])
    whole = [row for row, picture in enumerate(sets.pictures) if picture.whole]
    scenes = _precision(codes[whole], [sets.pictures[row].scene for row in whole])
    nearer = defaultdict(list)
    distances = _distances(queries, codes)
    for (alteration, _, row), distance in zip(sets.copies, distances, strict=True):
        nearer[alteration].append(int((distance < distance[row]).sum()))
    first, fifth = (
        {alteration: float(np.mean(np.array(ranks) < most)) for alteration, ranks in nearer.items()} for most in (1, 5)
    )
    means = (np.mean([shares[alteration] for alteration in _ALTERATIONS]) for shares in (first, fifth))
    figures = "".join(f"{figure:>10.3f}" for figure in means)
    print(f"{name:<34}{codes.shape[1]:>8}{photographs:>11.3f}{scenes:>11.3f}{figures}")
    for title, alterations in (("R@5", _ALTERATIONS), ("R@5 of others", _OTHER_ALTERATIONS)):
        print(f"    {title}: " + ", ".join(f"{alteration} {fifth[alteration]:.2f}" for alteration in alterations))
    sys.stdout.flush()


def _draw_hits(sets: Sets, codes: Codes) -> None:
    """Draw a photograph of each of ten scenes, with the five nearest of the other whole photographs."""
    whole = [row for row, picture in enumerate(sets.pictures) if picture.whole]
    shown = {sets.pictures[row].scene: row for row in reversed(whole)}
    distances = _distances(codes, codes[whole])
    rows = []
    for scene, row in list(shown.items())[:_SHOWN]:
        nearest = [whole[column] for column in np.argsort(distances[row]) if whole[column] != row][:5]
        hits = [(sets.photo(hit), sets.pictures[hit].scene) for hit in nearest]
        rows.append([(sets.photo(row), f"query: {scene}"), *hits])
    _draw_rows("hits-photos.jpg", rows)


def _draw_copies(sets: Sets, codes: Codes, queries: Codes) -> None:
    """Draw ten altered copies with their nearest images, and the five copies whose originals are ranked lowest."""
    distances = _distances(queries, codes)
    own = distances[np.arange(len(queries)), [row for _, _, row in sets.copies]]
    ranks = (distances < own[:, None]).sum(axis=1)
    names = [alteration for alteration, _, _ in sets.copies]
    few = list(_ALTERATIONS)[:: max(1, len(_ALTERATIONS) // _SHOWN)][:_SHOWN]
    taught = np.isin(names, list(_ALTERATIONS))
    worst = [int(copy) for copy in np.argsort(-ranks * taught)[:5]]
    for file, copies in (
        ("copies-photos.jpg", [names.index(alteration) + 7 * place for place, alteration in enumerate(few)]),
        ("worst-photos.jpg", worst),
    ):
        rows = []
        for copy in copies:
            alteration, name, row = sets.copies[copy]
            nearest = [int(hit) for hit in np.argsort(distances[copy])[:5]]
            titles = ["original" if hit == row else sets.pictures[hit].photograph[:18] for hit in nearest]
            hits = list(zip(map(sets.photo, nearest), titles, strict=True))
            if row not in nearest:
                hits = [(sets.photo(row), f"original, nearest {ranks[copy] + 1}"), *hits[:4]]
            rows.append([(decode((sets.folder / "copies" / name).read_bytes()), f"query: {alteration}"), *hits])
        _draw_rows(file, rows)


def _draw_rows(file: str, rows: list[list[tuple[Image.Image, str]]]) -> None:
    figure, grid = plt.subplots(len(rows), 6, figsize=(10, 1.45 * len(rows)), layout="constrained")
    for axes, (image, title) in zip(grid.flat, (cell for row in rows for cell in row), strict=True):
        image.thumbnail((160, 160))
        axes.imshow(image.convert("RGB"))
        axes.set_title(title, fontsize=8, pad=3)
        axes.set_axis_off()
    figure.savefig(_FIGURES / file, dpi=80)
    plt.close(figure)


def _precision(codes: Codes, labels: list[str]) -> float:
    distances = _distances(codes, codes)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, 5, axis=1)[:, :5]
    names = np.array(labels)
    return float((names[nearest] == names[:, None]).mean())


def _distances(queries: Codes, codes: Codes) -> Codes:
    """Return the squared distance from each of m queries to each of n codes, (m, n)."""
    squares = np.square(queries).sum(1)[:, None] + np.square(codes).sum(1)[None]
    distances: Codes = squares - 2 * queries @ codes.T
    return distances


def _encoded(encoder: Encoder, images: Iterator[Image.Image]) -> Codes:
    return np.concatenate([encoder.encode_images(batch) for batch in _batches(images)])


def _batches(images: Iterator[Image.Image], size: int = 64) -> Iterator[list[Image.Image]]:
    batch: list[Image.Image] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _histograms(images: Iterator[Image.Image]) -> Codes:
    """Return the square roots of each image's colour histogram, (n, 512)."""
    rows = []
    for image in images:
        levels = np.asarray(image.convert("RGB").convert("HSV").resize((128, 128))).reshape(-1, 3) >> 5
        cells = levels @ np.array([64, 8, 1])
        rows.append(np.sqrt(np.bincount(cells, minlength=512) / len(cells)))
    return np.array(rows, np.float32)


def _pixels(images: Iterator[Image.Image]) -> Codes:
    """Crop each image to its centre square, scale it to 32 × 32 pixels, and return the pixels, (n, 3072)."""
    fitted = (ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BICUBIC) for image in images)
    return np.array([np.asarray(image, np.float32).ravel() / 255 for image in fitted])


def _principal(rows: Codes, others: Codes, whitening: float = 0.0) -> tuple[Codes, Codes]:
    """Project rows and others onto the 128 principal directions of the rows.

    Args:
        rows: (n, size).
        others: (m, size).
        whitening: Each component is divided by its singular value, raised to this power; 0 changes nothing.
    """
    mean = rows.mean(0)
    _, deviations, directions = np.linalg.svd(rows - mean, full_matrices=False)
    matrix = (directions[:128] / (deviations[:128, None] ** whitening)).T
    return (rows - mean) @ matrix, (others - mean) @ matrix


def _unit(codes: Codes) -> Codes:
    unit: Codes = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    return unit


def _build_gallery(folder: Path) -> list[Picture]:
    chance, names = random.Random(1), Counter[str]()
    pictures = []
    for scene, path in _sources(folder):
        stem = path.parts[-4] if path.stem in _SIZES else path.stem.replace("_background", "")
        names[stem] += 1
        name = stem if names[stem] == 1 else f"{stem}-{names[stem]}"
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        home = folder / "photos" / name
        home.mkdir(parents=True, exist_ok=True)
        small = image.copy()
        small.thumbnail((800, 800), Image.Resampling.LANCZOS)
        small.save(home / "photo.jpg", quality=90)
        pictures.append(Picture(f"{name}/photo.jpg", name, scene, True))
        for number in range(7):
            crop = _cropped(image, chance.uniform(0.4, 0.7), chance)
            crop.thumbnail((480, 480), Image.Resampling.LANCZOS)
            crop.save(home / f"crop{number}.jpg", quality=88)
            pictures.append(Picture(f"{name}/crop{number}.jpg", name, scene, False))
    return pictures


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the class and the file of each photograph, after the packages have been fetched and unpacked."""
    with _LIST.open() as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if not row[0].startswith("#")]
    for package in sorted({package for _, package, _ in rows}):
        unpack(folder / "packages", package)
    for scene, package, path in rows:
        yield scene, folder / "packages" / package / path


def _build_copies(folder: Path, pictures: list[Picture]) -> list[tuple[str, str, str]]:
    chance = random.Random(2)
    chosen = [chance.sample([p for p in pictures if p.whole is whole], 130) for whole in (True, False)]
    copies = []
    for alterations in (_ALTERATIONS, _OTHER_ALTERATIONS):
        for picture in [*chosen[0], *chosen[1]]:
            image = Image.open(folder / "photos" / picture.file).convert("RGB")
            for alteration, alter in alterations.items():
                file = f"{alteration}/{picture.file.replace('/', '__')}"
                (folder / "copies" / file).parent.mkdir(parents=True, exist_ok=True)
                alter(image, chance).save(folder / "copies" / file, quality=12 if alteration == "JPEG 12" else 85)
                copies.append((alteration, file, picture.file))
    return copies


def _cropped(image: Image.Image, sides: float, chance: random.Random) -> Image.Image:
    width, height = int(image.width * sides), int(image.height * sides)
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def _smaller(image: Image.Image, _: random.Random) -> Image.Image:
    image = image.copy()
    image.thumbnail((max(24, image.width // 5), max(24, image.height // 5)))
    return image


def _recoloured(image: Image.Image, chance: random.Random) -> Image.Image:
    """Shift the hue by 25° either way, and change the saturation."""
    values = np.array(image.convert("HSV")).astype(int)
    values[..., 0] = (values[..., 0] + chance.choice([-18, 18])) % 256
    values[..., 1] = np.clip(values[..., 1] * chance.choice([0.55, 1.5]), 0, 255)
    return Image.fromarray(values.astype(np.uint8), "HSV").convert("RGB")


def _relit(image: Image.Image, chance: random.Random) -> Image.Image:
    values = (np.asarray(image) / 255.0) ** chance.choice([0.55, 1.8])
    return ImageEnhance.Contrast(Image.fromarray((values * 255).astype(np.uint8))).enhance(chance.choice([0.75, 1.3]))


def _turned(image: Image.Image, chance: random.Random) -> Image.Image:
    turned = image.rotate(chance.choice([-7, 7]), resample=Image.Resampling.BICUBIC)
    width, height = image.size
    (left, right), (top, bottom) = ((int(side * (1 - 0.8) / 2), int(side * (1 + 0.8) / 2)) for side in (width, height))
    return turned.crop((left, top, right, bottom))


def _captioned(image: Image.Image, _: random.Random) -> Image.Image:
    image = image.copy()
    draw, tall = ImageDraw.Draw(image), max(14, image.height // 7)
    draw.rectangle((0, image.height - tall, image.width, image.height), fill="black")
    draw.text((6, image.height - tall + 2), "holiday 2019 - look at this!", fill="white")
    return image


def _bordered(image: Image.Image, _: random.Random) -> Image.Image:
    return ImageOps.expand(image, border=max(4, int(0.08 * min(image.size))), fill="white")


def _between_bars(image: Image.Image, _: random.Random) -> Image.Image:
    """Put the image between black bars above and below, as in a phone's screenshot."""
    tall = max(int(image.width * (16 / 9 if image.width <= image.height * 1.2 else 1.5)), image.height)
    screen = Image.new("RGB", (image.width, tall), "black")
    screen.paste(image, (0, (tall - image.height) // 2))
    return screen


def _blurred(image: Image.Image, _: random.Random) -> Image.Image:
    values = np.asarray(image.filter(ImageFilter.GaussianBlur(max(image.size) / 150)), np.float64)
    noise = np.random.default_rng(3).normal(0, 10, values.shape)
    return Image.fromarray(np.clip(values + noise, 0, 255).astype(np.uint8))


_ALTERATIONS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "resized": _smaller,
    "JPEG 12": lambda image, _: image,
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "crop 90 %": lambda image, chance: _cropped(image, 0.9, chance),
    "crop 75 %": lambda image, chance: _cropped(image, 0.75, chance),
    "hue": _recoloured,
    "light": _relit,
    "grey": lambda image, _: image.convert("L").convert("RGB"),
    "turned 7°": _turned,
    "caption": _captioned,
    "border": _bordered,
    "bars": _between_bars,
    "blur and noise": _blurred,
}


def _sepia(image: Image.Image, _: random.Random) -> Image.Image:
    return ImageOps.colorize(image.convert("L"), (32, 20, 8), (255, 240, 205))


def _watermarked(image: Image.Image, _: random.Random) -> Image.Image:
    image = image.copy()
    draw, step = ImageDraw.Draw(image), max(24, image.height // 6)
    for top in range(0, image.height, step):
        draw.text((image.width * top // image.height // 2, top), "SAMPLE COPY", fill="white", font_size=step // 2)
    return image


def _with_sticker(image: Image.Image, chance: random.Random) -> Image.Image:
    """Cover a disc whose diameter is 40 % of the shorter side."""
    image, side = image.copy(), int(0.4 * min(image.size))
    left, top = chance.randint(0, image.width - side), chance.randint(0, image.height - side)
    ImageDraw.Draw(image).ellipse((left, top, left + side, top + side), fill=(255, 210, 0), outline="black", width=3)
    return image


def _on_its_blur(image: Image.Image, _: random.Random) -> Image.Image:
    """Put the image on a square that is filled with an enlarged and blurred copy of it."""
    side = max(image.size)
    square = ImageOps.fit(image, (side, side)).filter(ImageFilter.GaussianBlur(side / 25))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _slanted(image: Image.Image, _: random.Random) -> Image.Image:
    """Stretch a trapezium of the image, whose right side is 70 % as tall as its left side, to a rectangle."""
    width, height = image.size
    corners = (0, 0, 0, height, width, 0.85 * height, width, 0.15 * height)
    return image.transform(image.size, Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)


_OTHER_ALTERATIONS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "sepia": _sepia,
    "posterised": lambda image, _: ImageOps.posterize(image, 2),
    "pixelated": lambda image, _: image.resize((24, 24), Image.Resampling.BOX).resize(image.size, 0),
    "watermark": _watermarked,
    "sticker": _with_sticker,
    "on its blur": _on_its_blur,
    "slanted": _slanted,
}


if __name__ == "__main__":
    main()
