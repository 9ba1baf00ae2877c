"""The contact sheet: every letter and every ink can be seen."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from encoder_service.sheet import draw_sheet
from gallery import Hit


def captions(label: str) -> bytes:
    """Return the pixels above and below the hit's tile."""
    sheet = np.asarray(draw_sheet(None, "q", [Hit("key", 0.5, label)]).convert("L"))
    return sheet[:33, 190:].tobytes()


@pytest.mark.parametrize(("label", "other"), [("ünï", "ünö"), ("Ελλη", "Ελλα"), ("жук", "жор"), ("שלום", "שלוע")])
def test_letters_of_other_scripts_are_told_apart(label: str, other: str) -> None:
    assert captions(label) != captions(other) != captions("?" * len(other))


def test_a_letter_and_its_composed_form_look_the_same() -> None:
    assert captions("e\u0301te\u0301") == captions("\u00e9t\u00e9")


def test_what_no_font_has_is_a_question_mark() -> None:
    assert captions("\U000f0000") == captions("?") == captions("\x1b")


def test_a_long_caption_keeps_within_its_tile() -> None:
    for text in ("long " * 50, "日本" * 60, "é" * 1024):
        sheet = np.asarray(draw_sheet(None, text, [Hit("k", 0.5, "")]).convert("L"))
        assert sheet[:, 185:199].min() == 255


@pytest.mark.parametrize("ink", [0, 128, 236, 255])
def test_ink_on_transparency_is_seen(ink: int) -> None:
    image = Image.new("LA", (64, 64), (ink, 0))
    ImageDraw.Draw(image).rectangle((20, 20, 40, 40), fill=(ink, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    for sheet in (draw_sheet(image, "q", []), draw_sheet(None, "q", [Hit("k", 0.5, "", file.getvalue())])):
        tile = np.asarray(sheet.convert("L"))[34:202, -180 if sheet.width > 350 else 16 :][:168, :168]
        assert np.ptp(tile[2:-2, 2:-10].astype(int)) > 40
