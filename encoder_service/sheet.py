"""Draw a contact sheet: one image that shows a query beside its hits, with their labels and distances."""

import io
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby, islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from encoder_service.images import flattened
from gallery import Hit

# Sizes in pixels: the side of a tile, the gap between tiles, and the heights of the text below and above a tile.
_TILE = 168
_GAP = 16
_CAPTION = 46
_HEADING = 34
_COLUMNS = 6
# Grey level of an empty tile.
_TILE_LEVEL = 236
_BACKGROUND, _TEXT, _FAINT_TEXT, _EMPTY_TILE = "#ffffff", "#1c1c22", "#70707c", (_TILE_LEVEL, _TILE_LEVEL, _TILE_LEVEL)


# Covers Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic and Georgian. Pillow's own font covers only ASCII.
_SHIPPED_FONT = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
# Folders of the system's fonts, which are read only for characters that the shipped font lacks, such as Chinese ones.
_FONT_FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts"),
    Path("~/.fonts"),
    Path("/Library/Fonts"),
    Path("/System/Library/Fonts"),
    Path("C:/Windows/Fonts"),
)
_MAX_SYSTEM_FONTS = 500

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_sheet(query: Image.Image | None, query_name: str, hits: Sequence[Hit]) -> Image.Image:
    """Draw the query and its hits, six images per row.

    Args:
        query: The query's image; None if it is unknown, as for a code.
        query_name: Caption of the query.
        hits: The hits, nearest first, with their thumbnails.

    Returns:
        An image of mode RGB.
    """
    rows = max(1, -(-(len(hits) + 1) // _COLUMNS))
    columns = min(_COLUMNS, len(hits) + 1)
    width = _GAP + columns * (_TILE + _GAP)
    sheet = Image.new("RGB", (max(width, 2 * _TILE), rows * (_HEADING + _TILE + _CAPTION) + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _draw_cell(sheet, draw, 0, "query", query, query_name, "")
    for rank, hit in enumerate(hits, start=1):
        image = Image.open(io.BytesIO(hit.thumbnail_png)) if hit.thumbnail_png else None
        title = f"label {hit.label}" if hit.label else f"hit {rank}"
        _draw_cell(sheet, draw, rank, title, image, hit.key, f"distance {hit.distance:.3f}")
    return sheet


def _draw_cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, index: int, title: str, image: Image.Image | None, *lines: str
) -> None:
    x = _GAP + index % _COLUMNS * (_TILE + _GAP)
    y = index // _COLUMNS * (_HEADING + _TILE + _CAPTION)
    _draw_text(draw, x, y + 26, title, _TEXT, 17)
    draw.rectangle((x, y + _HEADING, x + _TILE, y + _HEADING + _TILE), _EMPTY_TILE)
    if image:
        image = _scaled(image)
        sheet.paste(image, (x + (_TILE - image.width) // 2, y + _HEADING + (_TILE - image.height) // 2))
    for number, line in enumerate(lines):
        _draw_text(draw, x, y + _HEADING + _TILE + 17 + number * 18, line, _FAINT_TEXT, 13)


def _scaled(image: Image.Image) -> Image.Image:
    """Scale an image to fit a tile. A tiny image is enlarged by a whole factor with hard edges, others smoothly."""
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    longest = max(image.size)
    factor = _TILE // longest if longest <= _TILE // 3 else _TILE / longest
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    image = image.resize(size, Image.Resampling.NEAREST if longest <= _TILE // 3 else Image.Resampling.LANCZOS)
    return flattened(image, _TILE_LEVEL, channels=3)


def _draw_text(draw: ImageDraw.ImageDraw, x: float, baseline: float, text: str, colour: str, size: int) -> None:
    """Draw a line of text. If it is wider than a tile, an ellipsis replaces its middle."""
    # formatting characters, such as joiners, have no glyph
    shown = (character for character in unicodedata.normalize("NFC", text) if unicodedata.category(character) != "Cf")
    text = "".join(" " if character.isspace() else character for character in shown)
    short, keep = text, len(text)
    while sum(font.getlength(run) for font, run in _runs(short, size)) > _TILE and keep > 2:
        keep -= 1
        short = f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
    for font, run in _runs(short, size):
        draw.text((x, baseline), run, colour, font, anchor="ls")
        x += font.getlength(run)


def _runs(text: str, size: int) -> Iterator[tuple[_Font, str]]:
    """Split a text into parts that one font can draw, with "?" for characters that no font has."""
    for font in _own_fonts(size):
        if all(_has(font, character) for character in text):
            yield font, text
            return
    fonts = [_font_of(character, size) for character in text]
    drawn = ["?" if font is None else character for font, character in zip(fonts, text, strict=True)]
    for font, part in groupby(zip(fonts, drawn, strict=True), key=lambda pair: pair[0] or _own_fonts(size)[0]):
        yield font, "".join(character for _, character in part)


@cache
def _font_of(character: str, size: int) -> _Font | None:
    """Return the first font that has a character; None if no font has it."""
    return next((font for font in _fonts(size) if _has(font, character)), None)


def _fonts(size: int) -> Iterator[_Font]:
    yield from _own_fonts(size)
    for path in _system_fonts():
        try:
            yield ImageFont.truetype(path, size)
        except OSError:  # a damaged file, or a bitmap font of one size, such as an emoji font
            continue


@cache
def _own_fonts(size: int) -> tuple[_Font, _Font]:
    return ImageFont.load_default(size), ImageFont.truetype(_SHIPPED_FONT, size)


@cache
def _system_fonts() -> list[Path]:
    """Return up to 500 of the system's font files. Those whose names promise many scripts come first."""
    paths = (
        path
        for folder in _FONT_FOLDERS
        if folder.parts[0] != "~" or "HOME" in os.environ
        for path in folder.expanduser().rglob("*.[to]t[cf]")
    )
    return sorted(islice(paths, _MAX_SYSTEM_FONTS), key=lambda path: not re.search("CJK|Noto|Uni|Droid", path.name))


@cache
def _has(font: _Font, character: str) -> bool:
    """Return whether a font has a glyph for a character.

    Pillow draws the same placeholder for every missing glyph, so compare with U+FFFF, which no font has.
    """
    if not character.isprintable():
        return False
    return character == " " or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
