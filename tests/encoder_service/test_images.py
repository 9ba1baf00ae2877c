import hashlib
import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from encoder_service.errors import ImageError, ImageTooLargeError
from encoder_service.images import decode, flatness, from_pixels, normalise, png, sha256, silence_pillow, thumbnail_png
from encoder_service.writer import NewImage
from ingest.sources import Item
from tests import digits

GREY = (28, 28, 1)
NINE = Image.fromarray(digits.read("t10k")[0][7])


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def as_input(data: bytes) -> np.ndarray:
    return normalise([decode(data)], GREY)[0, :, :, 0]


EXPECTED = np.asarray(NINE, np.float32) / 255


def test_an_image_of_the_right_size_stays_unchanged() -> None:
    np.testing.assert_array_equal(as_input(saved(NINE, "PNG")), EXPECTED)


def white_nine_on_transparency() -> Image.Image:
    image = Image.new("RGBA", NINE.size, (255, 255, 255, 0))
    image.putalpha(NINE)
    return image


SIXTEEN = Image.fromarray(np.asarray(NINE).astype(np.uint16) * 257)
GIF = {"save_all": True, "append_images": [Image.new("L", NINE.size, 200)]}


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        pytest.param(saved(SIXTEEN, "PNG"), 0.0, id="16-bit PNG"),
        pytest.param(saved(SIXTEEN, "TIFF"), 0.0, id="16-bit TIFF"),
        pytest.param(saved(Image.fromarray(np.asarray(NINE, np.float32) / 255), "TIFF"), 0.0, id="float TIFF"),
        pytest.param(saved(NINE.convert("RGB"), "PNG"), 0.0, id="RGB PNG"),
        pytest.param(saved(NINE.convert("RGB").convert("CMYK"), "TIFF"), 0.01, id="CMYK TIFF"),
        pytest.param(saved(NINE.convert("RGB").convert("CMYK"), "JPEG", quality=100), 0.06, id="CMYK JPEG"),
        pytest.param(saved(NINE.convert("P"), "PNG"), 0.0, id="palette PNG"),
        pytest.param(saved(NINE.convert("RGBA"), "PNG"), 0.0, id="opaque RGBA PNG"),
        pytest.param(saved(white_nine_on_transparency(), "PNG"), 0.005, id="transparent PNG"),
        pytest.param(saved(NINE, "GIF", **GIF), 0.0, id="first frame of a GIF"),
        pytest.param(saved(NINE, "WEBP", lossless=True), 0.0, id="WebP"),
        pytest.param(saved(NINE, "BMP"), 0.0, id="BMP"),
    ],
)
def test_every_file_format_decodes_to_the_same_nine(data: bytes, tolerance: float) -> None:
    np.testing.assert_allclose(as_input(data), EXPECTED, atol=tolerance + 1e-6)


def test_transparent_parts_get_the_background() -> None:
    clear = decode(saved(Image.new("RGBA", (5, 5), (9, 9, 9, 0)), "PNG"))
    assert normalise([clear], GREY).max() == 0
    assert normalise([clear], GREY, background=255).min() == 1


@pytest.mark.parametrize(("mode", "format_name"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "GIF"), ("RGBA", "TIFF")])
@pytest.mark.parametrize(("ink", "background"), [(0, 0), (20, 0), (255, 255), (240, 255), (255, 0), (0, 255), (128, 0)])
def test_ink_on_transparency_is_never_lost(mode: str, format_name: str, ink: int, background: int) -> None:
    image = Image.new("LA", (28, 28), (ink, 0))
    image.paste((ink, 255), (8, 4, 16, 24))
    pixels = normalise([decode(saved(image.convert(mode), format_name))], GREY, background)
    assert abs(float(pixels[0, 12, 12, 0]) - float(pixels[0, 0, 0, 0])) > 0.45
    if abs(ink - background) > 100:  # then the encoder's own ground stays
        assert pixels[0, 0, 0, 0] == background / 255


def test_a_transparent_picture_keeps_the_background_if_much_of_it_differs() -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    image.paste((200, 200, 200, 255), (0, 0, 64, 24))
    image.paste((0, 0, 0, 0), (0, 60, 64, 64))
    assert normalise([image], GREY, background=0)[0, -1].max() == 0


RAMP = np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64)


def with_one(value: float, values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[0, 0] = value
    return values


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(with_one(1.0001, RAMP), id="one pixel above 1"),
        pytest.param(with_one(9e9, RAMP), id="one huge pixel"),
        pytest.param(with_one(np.inf, RAMP), id="infinity"),
        pytest.param(with_one(-np.inf, RAMP), id="minus infinity"),
        pytest.param(with_one(np.nan, RAMP), id="NaN"),
        pytest.param(RAMP * 1.2, id="0 to 1.2"),
        pytest.param(RAMP * 10, id="0 to 10"),
        pytest.param(RAMP * 0.01, id="0 to 0.01"),
        pytest.param(RAMP * 255.4, id="0 to 255.4"),
        pytest.param(RAMP * 65535, id="0 to 65,535"),
        pytest.param(RAMP * 2 - 1, id="-1 to 1"),
        pytest.param(RAMP * 3000 - 500, id="metres of height"),
        pytest.param((RAMP * 255).astype(np.uint16), id="8 of 16 bits"),
        pytest.param(with_one(300, (RAMP * 255).astype(np.uint16)), id="8 of 16 bits and one stray pixel"),
        pytest.param((RAMP * 1023).astype(np.uint16), id="10-bit camera"),
        pytest.param((RAMP * 4095).astype(np.uint16), id="12-bit camera"),
        pytest.param((RAMP * 65535).astype(np.uint16), id="16 bits"),
        pytest.param((RAMP * 100_000).astype(np.int32), id="32 bits"),
    ],
)
def test_values_of_any_range_become_the_same_picture(values: np.ndarray) -> None:
    image = np.asarray(decode(saved(Image.fromarray(values), "TIFF")), int)
    np.testing.assert_allclose(image.ravel()[1:], (RAMP * 255).ravel()[1:], atol=1.6)


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -5])
def test_values_without_a_range_are_decoded(value: float) -> None:
    assert decode(saved(Image.fromarray(np.full((5, 5), value, np.float32)), "TIFF")).mode == "L"


def test_a_small_bright_part_of_a_dark_picture_of_16_bits_stays() -> None:
    values = np.zeros((480, 640), np.uint16)
    values[100:140, 200:220] = 60_000
    assert decode(saved(Image.fromarray(values), "PNG")).getextrema() == (0, 233)


def test_a_photograph_is_rotated_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown rotated by 90° clockwise
    upright = decode(saved(NINE.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(NINE))


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        pytest.param(0x100, 2, 4, b"abc\0", id="text for a width"),
        pytest.param(0x11A, 1, 4, b"\1\2\3\4", id="bytes for a resolution"),
        pytest.param(0x10F, 11, 1, struct.pack("<f", 1.5), id="number for a maker"),
        pytest.param(0x106, 3, 2, b"\1\0\2\0", id="two values for one"),
    ],
)
def test_a_photograph_with_malformed_exif_is_rotated_upright(tag: int, kind: int, count: int, value: bytes) -> None:
    orientation = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    exif = struct.pack("<2sHIH", b"II", 42, 8, 2) + struct.pack("<HHI", tag, kind, count) + value + orientation
    upright = decode(saved(Image.new("RGB", (30, 20)), "JPEG", exif=b"Exif\0\0" + exif + bytes(4)))
    assert upright.size == (20, 30)


def test_a_png_with_texts_and_a_profile_of_any_length_is_decoded() -> None:
    texts = PngImagePlugin.PngInfo()
    for index in range(80):
        texts.add_text(f"prompt {index}", "x" * 900_000, zip=True)
    texts.add_itxt("workflow", "x" * 1_500_000, zip=True)
    data = saved(NINE, "PNG", pnginfo=texts, icc_profile=bytes(1_500_000))
    np.testing.assert_array_equal(as_input(data), EXPECTED)


PHOTO = Image.effect_noise((640, 480), 60).convert("RGB")


@pytest.mark.parametrize("missing", [1, 2, 10, 500])
@pytest.mark.parametrize("size", [(640, 480), (200, 200)])
def test_a_jpeg_without_its_last_bytes_is_decoded(missing: int, size: tuple[int, int]) -> None:
    whole = saved(PHOTO.crop((0, 0, *size)), "JPEG", quality=90)
    cut = decode(whole[:-missing])
    rows = size[1] * 95 // 100
    np.testing.assert_array_equal(np.asarray(cut)[: rows - 16], np.asarray(decode(whole))[: rows - 16])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_jpeg_that_lacks_a_part_of_its_pixels_is_rejected(part: float, progressive: bool) -> None:
    whole = saved(PHOTO, "JPEG", progressive=progressive)
    with pytest.raises(ImageError, match="truncated"):
        decode(whole[: int(part * len(whole))])


def test_colours_are_converted_from_the_pictures_profile() -> None:
    """In a profile whose red and green are swapped, the stored green is seen as red."""
    profile = bytearray(
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"s\0R\0G\0B", b"m\0i\0n\0e")
    )
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 1], profile[green : green + 1] = b"g", b"r"
    decoded = decode(saved(Image.new("RGB", (8, 8), (0, 255, 0)), "PNG", icc_profile=bytes(profile)))
    red_level, green_level, _ = np.asarray(decoded)[4, 4]
    assert red_level > 200 > 60 > green_level


def test_a_picture_with_an_srgb_profile_or_none_that_can_be_read_stays_unchanged() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile"):
        np.testing.assert_array_equal(np.asarray(decode(saved(PHOTO, "PNG", icc_profile=profile))), np.asarray(PHOTO))


@pytest.mark.parametrize(("mode", "format_name"), [("RGB", "JPEG"), ("RGB", "JPEG2000"), ("P", "PNG")])
def test_a_large_picture_is_halved(mode: str, format_name: str) -> None:
    large = Image.linear_gradient("L").resize((4600, 3601)).convert(mode)
    decoded = decode(saved(large, format_name))
    assert decoded.size == (2300, 1801)
    as_it_was = normalise([large.convert("RGB")], GREY)
    np.testing.assert_allclose(normalise([decoded], GREY), as_it_was, atol=0.01)


def test_heic_is_decoded_or_the_extra_is_named() -> None:
    with pytest.raises(ImageError, match="HEIC needs the extra `heif`" if "HEIF" not in Image.OPEN else "can't be"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))


@pytest.mark.parametrize("fit", ["crop", "squeeze"])
@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (3000, 7), (28, 29), (640, 480)])
@pytest.mark.parametrize("shape", [GREY, (16, 24, 3)])
def test_any_size_becomes_an_input(size: tuple[int, int], shape: tuple[int, int, int], fit: str) -> None:
    inputs = normalise([decode(saved(Image.new("L", size, 128), "PNG"))], shape, fit=fit)
    assert inputs.shape == (1, *shape)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, 128 / 255, atol=0.005)


def test_a_webp_that_would_take_too_much_memory_is_rejected() -> None:
    file = bytearray(saved(NINE, "WEBP", lossless=True))
    width, height = 8000, 8000
    file[21:25] = (width - 1 | height - 1 << 14).to_bytes(4, "little")  # the size in the header of a lossless WebP
    with pytest.raises(ImageTooLargeError, match="at most 48,000,000 pixels in a WebP file, got 8,000 × 8,000"):
        decode(bytes(file))


def photograph(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(1).integers(60, 200, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


SQUEEZED = (64, 64, 3)


def test_all_of_a_wide_image_is_seen_when_squeezed_and_only_its_middle_when_cropped() -> None:
    wide = photograph(400, 200)
    changed = wide.copy()
    changed.paste("red", (0, 0, 60, 200))
    changed.putpixel((0, 0), (0, 0, 255))  # not a bar
    for fit, same in (("crop", True), ("squeeze", False)):
        first, second = (normalise([image], SQUEEZED, fit=fit) for image in (wide, changed))
        assert np.array_equal(first, second) == same, fit


@pytest.mark.parametrize("colour", ["black", "white"])
@pytest.mark.parametrize("bars", [(0, 150), (90, 0), (20, 20)], ids=["above and below", "beside", "border"])
def test_bars_and_borders_do_not_change_what_is_seen(bars: tuple[int, int], colour: str) -> None:
    image = photograph(240, 180)
    framed = Image.new("RGB", (240 + 2 * bars[0], 180 + 2 * bars[1]), colour)
    framed.paste(image, bars)
    alone, inside = (
        normalise([decode(saved(x, "JPEG", quality=85))], SQUEEZED, fit="squeeze") for x in (image, framed)
    )
    assert np.abs(alone - inside).mean() < 0.02
    assert np.abs(alone - normalise([framed], SQUEEZED)).mean() > 0.03


def test_a_small_drawing_on_empty_ground_keeps_its_place() -> None:
    drawing = Image.new("RGB", (64, 64), "white")
    drawing.paste("black", (30, 30, 34, 34))
    np.testing.assert_array_equal(normalise([drawing], SQUEEZED, fit="squeeze"), normalise([drawing], SQUEEZED))


def test_one_white_pixel_is_a_white_input() -> None:
    assert as_input(saved(Image.new("L", (1, 1), 255), "PNG")).min() == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(saved(NINE, "PNG")[:150], id="truncated PNG"),
        pytest.param(saved(Image.effect_noise((200, 200), 90), "JPEG")[:3000], id="truncated JPEG"),
        pytest.param(b"%PDF-1.7 no image", id="not an image"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="only a PNG's first bytes"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", id="EPS, which is a program"),
    ],
)
def test_a_file_that_is_not_an_image_is_rejected_in_one_line(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^image: expected [^\n]*got [^\n]*$"):
        decode(data)


def test_a_file_format_that_may_embed_a_program_is_rejected() -> None:
    size = b"\x1c\x03\x14\0\x02\0\x08\x1c\x03\x1e\0\x02\0\x08"
    iptc = b"\x1c\x03\x3c\0\x02\x01\0" + size + b"\x1c\x03\x78\0\x02\0\x01\x1c\x08\x0a\0\x10%!PS-Adobe-3.0 E"
    with pytest.raises(ImageError, match="expected a format of pixels, such as PNG or JPEG, got IPTC"):
        decode(iptc)


def bomb(side: int) -> bytes:
    """A PNG whose header claims a huge image, without any pixels to decode."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 20_000])
def test_a_decompression_bomb_is_rejected_before_it_is_decoded(side: int) -> None:
    with pytest.raises(ImageTooLargeError, match="at most 64,000,000 pixels"):
        decode(bomb(side))


def test_too_many_bytes_are_rejected() -> None:
    with pytest.raises(ImageTooLargeError, match="at most 10,485,760 bytes, got 10,485,761"):
        decode(b"x" * (10 * 1024 * 1024 + 1))


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (28, 28, 3), (28, 28, 4)])
def test_pixels_make_an_image(shape: tuple[int, ...]) -> None:
    image = from_pixels(np.full(shape, 255, np.uint8))
    assert normalise([image], GREY).min() == 1


@pytest.mark.parametrize("shape", [(28,), (28, 28, 2), (0, 28), (2, 2, 2, 2)])
def test_pixels_of_another_shape_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="expected pixels of shape"):
        from_pixels(np.zeros(shape, np.uint8))


def test_a_thumbnail_is_small_and_keeps_its_proportions() -> None:
    thumbnail = decode(thumbnail_png(Image.new("RGB", (640, 320), "red")))
    assert thumbnail.size == (64, 32)
    np.testing.assert_array_equal(np.asarray(decode(thumbnail_png(NINE))), np.asarray(NINE))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (3, 64), (65, 1)])
def test_a_png_keeps_every_pixel(mode: str, size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 100).convert(mode)
    file = png(image)
    Image.open(io.BytesIO(file)).verify()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), np.asarray(image))


def test_the_content_hash_is_that_of_the_files_bytes_or_of_the_pixels_alone() -> None:
    file, pixels = saved(NINE, "PNG"), np.asarray(NINE)
    expected = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert sha256(file) == NewImage("k", file).sha256 == Item("k", file).sha256 == hashlib.sha256(file).hexdigest()
    assert sha256(pixels) == sha256(NINE) == NewImage("k", NINE).sha256 == Item("k", pixels).sha256 == expected


def test_flatness_is_the_share_of_equal_neighbours() -> None:
    blank = np.full((4, 6, 3), 0.5, np.float32)
    halves = blank.copy()
    halves[:2, :, 1] += 2 / 255
    nearly = blank.copy()
    nearly[:2] += 1 / 255
    noise = np.arange(72, dtype=np.float32).reshape(4, 6, 3) / 72
    np.testing.assert_allclose(flatness(np.stack([blank, halves, nearly, noise])), [1, 5 / 6, 1, 0])


def test_importing_the_decoder_leaves_the_warning_filters_alone() -> None:
    script = "import warnings, numpy; before = warnings.filters[:]; import encoder_service.images; "
    script += "print(warnings.filters == before)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_pillow_can_be_silenced_about_malformed_files() -> None:
    exif = Image.Exif()
    exif[0x010F] = "A maker of cameras"
    file = saved(NINE, "JPEG", exif=exif.tobytes()[:-12])
    with pytest.warns(UserWarning, match="Truncated"):
        decode(file)
    with warnings.catch_warnings():
        silence_pillow()
        assert decode(file).size == (28, 28)
