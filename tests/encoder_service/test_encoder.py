import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoder_service.encoder import MODELS, Encoder, load_encoder
from encoder_service.errors import EncoderDamagedError, EncoderNotFoundError, InputShapeError
from encoder_service.images import normalise
from gallery import open_store
from gallery.errors import InvalidCodeError, NewerFormatError
from ingest.sources import Item
from tests.commands import Command
from tests.digits import Digits, build, png


@pytest.fixture(scope="module")
def inputs() -> NDArray[np.float32]:
    items: list[Item] = list(Digits(150))
    return normalise([item.image() for item in items], (28, 28, 1))


def test_a_code_is_128_finite_numbers(encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    codes = encoder.encode(inputs)
    assert codes.shape == (150, 128)
    assert codes.dtype == np.float32
    assert np.isfinite(codes).all()


def test_an_image_has_the_same_code_alone_and_in_a_batch(encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    alone = np.concatenate([encoder.encode(inputs[i : i + 1]) for i in range(len(inputs))])
    np.testing.assert_allclose(encoder.encode(inputs), alone, atol=1e-5)


def test_concurrent_threads_get_the_same_codes(encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: encoder.encode(inputs), range(32)))
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_no_inputs_have_no_codes(encoder: Encoder) -> None:
    assert encoder.encode(np.zeros((0, 28, 28, 1), np.float32)).shape == (0, 128)


def test_the_decoder_reconstructs_the_inputs(encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    reconstructions = encoder.decode(encoder.encode(inputs))
    assert reconstructions.shape == inputs.shape
    # the error of all-black reconstructions would be ten times as large
    assert np.mean(np.square(reconstructions - inputs)) < 0.013


RELEASE_0_1_0 = Path(__file__).parents[1] / "data" / "release-0.1.0"
CANONICAL = json.loads((Path(__file__).parent / "canonical_codes.json").read_text())


def test_every_shipped_encoder_has_canonical_codes() -> None:
    shipped = [json.loads(card.read_text())["fingerprint"] for card in MODELS.rglob("encoder.json")]
    assert sorted(shipped) == sorted(entry["fingerprint"] for entry in CANONICAL.values())


@pytest.mark.parametrize("name", CANONICAL)
def test_the_shipped_encoders_still_return_their_canonical_codes(name: str) -> None:
    encoder = load_encoder(name.split()[0], CANONICAL[name]["fingerprint"])
    assert encoder.spec.fingerprint == CANONICAL[name]["fingerprint"]
    codes = encoder.encode_images([item.image() for item in Digits(2)])
    np.testing.assert_allclose(codes, CANONICAL[name]["codes"], atol=1e-4)


def test_inputs_of_another_shape_are_rejected(encoder: Encoder) -> None:
    with pytest.raises(InputShapeError, match=r"expected shape \(n, \*\(28, 28, 1\)\), got \(1, 28, 28, 3\)"):
        encoder.encode(np.zeros((1, 28, 28, 3), np.float32))


@pytest.mark.parametrize("code", [np.full((1, 128), np.nan, np.float32), np.zeros((1, 127), np.float32)])
def test_invalid_codes_are_not_decoded(encoder: Encoder, code: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidCodeError):
        encoder.decode(code)


def test_an_unknown_encoder_is_reported_with_the_known_ones() -> None:
    with pytest.raises(EncoderNotFoundError, match=r"no encoder 'seeed': expected one of .*seed"):
        load_encoder("seeed")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("encoder.tflite", b"other weights"),
        ("decoder.tflite", None),
        ("encoder.json", b"{}"),
        ("encoder.json", b"[]"),
        ("encoder.json", b"trunc"),
    ],
)
def test_an_encoder_with_a_missing_or_altered_file_is_rejected(
    tmp_path: Path, file: str, content: bytes | None
) -> None:
    folder = shutil.copytree(MODELS / "seed", tmp_path / "seed")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(EncoderDamagedError, match=file.split(".")[0]):
        load_encoder(str(folder))


def test_a_model_card_of_release_0_1_without_a_format_number_is_read(encoder: Encoder) -> None:
    assert load_encoder(str(RELEASE_0_1_0 / "encoder")).spec == encoder.spec


def test_a_model_card_of_a_newer_release_is_rejected(tmp_path: Path) -> None:
    folder = shutil.copytree(MODELS / "seed", tmp_path / "seed")
    card = json.loads((folder / "encoder.json").read_text())
    assert card["format"] == 1
    (folder / "encoder.json").write_text(json.dumps({**card, "format": 2}))
    with pytest.raises(NewerFormatError, match=r"made by a newer Lookalike: expected format 1 or older, got 2"):
        load_encoder(str(folder))


SCRIPT = """
import sys, threading
from encoder_service import load_encoder
load_encoder("seed")
ended = threading.Event()
def log():
    count = 0
    while not ended.is_set():
        print(count, file=sys.stderr, flush=True)
        count += 1
    print(count)
logging = threading.Thread(target=log)
logging.start()
for _ in range(10):
    load_encoder("mnist")
ended.set()
logging.join()
"""


def test_loading_encoders_writes_nothing_to_stderr_and_loses_no_line_of_another_thread() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr.split() == [str(count) for count in range(int(done.stdout))]
    assert int(done.stdout) > 10


def test_a_gallery_that_an_earlier_release_made_is_searched_and_extended_with_its_encoder(
    command: Command, store_url: str, queries: list[Image.Image]
) -> None:
    encoder = load_encoder("mnist", CANONICAL["mnist 5546e28c"]["fingerprint"])
    assert encoder.spec.fingerprint != load_encoder("mnist").spec.fingerprint
    build(open_store(store_url), encoder, "mnist", count=50)
    added = command("ingest", "load", "mnist", "--limit", "60", "--gallery", "mnist", "--store", store_url)
    assert added.returncode == 0, added.stderr
    assert open_store(store_url).spec("mnist").fingerprint == encoder.spec.fingerprint
    found = command("encoder-service", "search", "-", "--store", store_url, "--json", stdin=png(queries[0]))
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["hits"]
