"""The contact sheet: a query beside its hits, each with label and distance."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from gallery import Hit

_TILE = 168
_GAP = 16
_CAPTION = 46
_HEADING = 34
_COLUMNS = 6
_PAPER, _INK, _FAINT, _EMPTY = "#ffffff", "#1c1c22", "#70707c", "#ececf0"


def draw_sheet(query: Image.Image | None, query_name: str, hits: Sequence[Hit]) -> Image.Image:
    """Draw the query and its hits, six pictures a row.

    Args:
        query: The query's picture; None where there is none to show.
        query_name: What stands under it.
        hits: The hits, nearest first, with their thumbnails.
    """
    rows = max(1, -(-(len(hits) + 1) // _COLUMNS))
    columns = min(_COLUMNS, len(hits) + 1)
    width = _GAP + columns * (_TILE + _GAP)
    sheet = Image.new("RGB", (max(width, 2 * _TILE), rows * (_HEADING + _TILE + _CAPTION) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _cell(sheet, draw, 0, "query", query, query_name, "")
    for place, hit in enumerate(hits, start=1):
        picture = Image.open(io.BytesIO(hit.thumbnail_png)) if hit.thumbnail_png else None
        title = f"label {hit.label}" if hit.label else f"hit {place}"
        _cell(sheet, draw, place, title, picture, hit.key, f"distance {hit.distance:.3f}")
    return sheet


def _cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, place: int, title: str, picture: Image.Image | None, *lines: str
) -> None:
    x = _GAP + place % _COLUMNS * (_TILE + _GAP)
    y = place // _COLUMNS * (_HEADING + _TILE + _CAPTION)
    draw.text((x, y + 10), _shortened(draw, title, 17), _INK, ImageFont.load_default(17))
    box = (x, y + _HEADING, x + _TILE, y + _HEADING + _TILE)
    draw.rectangle(box, _EMPTY)
    if picture:
        picture = _scaled(picture)
        corner = (x + (_TILE - picture.width) // 2, y + _HEADING + (_TILE - picture.height) // 2)
        sheet.paste(picture, corner, picture if picture.mode == "RGBA" else None)
    for index, line in enumerate(lines):
        spot = (x, y + _HEADING + _TILE + 5 + index * 18)
        draw.text(spot, _shortened(draw, line, 13), _FAINT, ImageFont.load_default(13))


def _scaled(picture: Image.Image) -> Image.Image:
    """Fill the tile: whole multiples with hard pixels for tiny pictures, smooth scaling for larger ones."""
    if picture.mode not in ("L", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    longest = max(picture.size)
    factor = _TILE // longest if longest <= _TILE // 3 else _TILE / longest
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if longest <= _TILE // 3 else Image.Resampling.LANCZOS)


def _shortened(draw: ImageDraw.ImageDraw, text: str, size: int) -> str:
    """Cut the middle out of a text that is wider than a tile."""
    font = ImageFont.load_default(size)
    text = text.encode("utf-8", "replace").decode().replace("\n", " ")
    short, keep = text, len(text)
    while draw.textlength(short, font) > _TILE and keep > 2:
        keep -= 1
        short = f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
    return short
