import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoder_service.encoder import MODELS, Encoder, load_encoder
from encoder_service.errors import EncoderDamagedError, EncoderNotFoundError, InputShapeError
from encoder_service.images import normalise
from gallery.errors import InvalidCodeError
from ingest.sources import Item
from tests.digits import Digits


@pytest.fixture(scope="module")
def inputs() -> NDArray[np.float32]:
    items: list[Item] = list(Digits(150))
    return normalise([item.image() for item in items], (28, 28, 1))


def test_a_code_is_128_finite_numbers(encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    codes = encoder.encode(inputs)
    assert codes.shape == (150, 128)
    assert codes.dtype == np.float32
    assert np.isfinite(codes).all()


def test_an_image_has_one_code_alone_or_among_others(encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    alone = np.concatenate([encoder.encode(inputs[i : i + 1]) for i in range(len(inputs))])
    np.testing.assert_allclose(encoder.encode(inputs), alone, atol=1e-5)


def test_threads_get_the_same_codes(encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: encoder.encode(inputs), range(32)))
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_no_inputs_have_no_codes(encoder: Encoder) -> None:
    assert encoder.encode(np.zeros((0, 28, 28, 1), np.float32)).shape == (0, 128)


def test_the_decoder_gives_the_picture_back(encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    pictures = encoder.decode(encoder.encode(inputs))
    assert pictures.shape == inputs.shape
    # an all-black answer would be ten times as far off
    assert np.mean(np.square(pictures - inputs)) < 0.013


CANONICAL = json.loads((Path(__file__).parent / "canonical_codes.json").read_text())


def test_every_shipped_encoder_has_canonical_codes() -> None:
    assert sorted(CANONICAL) == sorted(card.parent.name for card in MODELS.glob("*/encoder.json"))


@pytest.mark.parametrize("name", CANONICAL)
def test_the_shipped_encoders_still_give_their_canonical_codes(name: str, inputs: NDArray[np.float32]) -> None:
    encoder = load_encoder(name)
    assert encoder.spec.fingerprint == CANONICAL[name]["fingerprint"]
    np.testing.assert_allclose(encoder.encode(inputs[:2]), CANONICAL[name]["codes"], atol=1e-4)


def test_inputs_of_another_shape_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputShapeError, match=r"expected shape \(n, \*\(28, 28, 1\)\), got \(1, 28, 28, 3\)"):
        encoder.encode(np.zeros((1, 28, 28, 3), np.float32))


@pytest.mark.parametrize("code", [np.full((1, 128), np.nan, np.float32), np.zeros((1, 127), np.float32)])
def test_codes_that_are_none_are_not_decoded(encoder: Encoder, code: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidCodeError):
        encoder.decode(code)


def test_an_encoder_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(EncoderNotFoundError, match=r"no encoder 'seeed': expected one of .*seed"):
        load_encoder("seeed")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("encoder.tflite", b"other weights"),
        ("decoder.tflite", None),
        ("encoder.json", b"{}"),
        ("encoder.json", b"cut o"),
    ],
)
def test_an_encoder_whose_files_are_not_whole_is_refused(tmp_path: Path, file: str, content: bytes | None) -> None:
    folder = shutil.copytree(MODELS / "seed", tmp_path / "seed")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(EncoderDamagedError, match=file.split(".")[0]):
        load_encoder(str(folder))
