"""The contact sheet: an image of a query and its hits, each with label and distance."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from gallery import Hit

# Sizes in pixels: the side of a tile, the gap between tiles, and the heights of the text below and above a tile.
_TILE = 168
_GAP = 16
_CAPTION = 46
_HEADING = 34
_COLUMNS = 6
_BACKGROUND, _TEXT, _FAINT_TEXT, _EMPTY_TILE = "#ffffff", "#1c1c22", "#70707c", "#ececf0"


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
    draw.text((x, y + 10), _shortened(draw, title, 17), _TEXT, ImageFont.load_default(17))
    draw.rectangle((x, y + _HEADING, x + _TILE, y + _HEADING + _TILE), _EMPTY_TILE)
    if image:
        image = _scaled(image)
        corner = (x + (_TILE - image.width) // 2, y + _HEADING + (_TILE - image.height) // 2)
        sheet.paste(image, corner, image if image.mode == "RGBA" else None)
    for number, line in enumerate(lines):
        position = (x, y + _HEADING + _TILE + 5 + number * 18)
        draw.text(position, _shortened(draw, line, 13), _FAINT_TEXT, ImageFont.load_default(13))


def _scaled(image: Image.Image) -> Image.Image:
    """Scale an image to the tile: tiny ones by a whole factor with hard edges, larger ones smoothly."""
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGB")
    longest = max(image.size)
    factor = _TILE // longest if longest <= _TILE // 3 else _TILE / longest
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST if longest <= _TILE // 3 else Image.Resampling.LANCZOS)


def _shortened(draw: ImageDraw.ImageDraw, text: str, size: int) -> str:
    """Replace the middle of a text that is wider than a tile by an ellipsis."""
    font = ImageFont.load_default(size)
    text = text.encode("utf-8", "replace").decode().replace("\n", " ")
    short, keep = text, len(text)
    while draw.textlength(short, font) > _TILE and keep > 2:
        keep -= 1
        short = f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
    return short
