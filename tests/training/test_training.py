"""Training, run as a user runs it, on real MNIST. One tiny model serves all tests that only look at it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.images import normalise
from tests.conftest import Command
from tests.digits import png

TINY = ("train", "mnist", "--limit", "2048", "--epochs", "16")


@pytest.fixture(scope="module")
def tiny(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    done = command("autoencoder", *TINY, "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert "epoch 16 of 16: loss" in done.stderr
    assert "where answering black gives" in done.stdout
    return folder


def test_the_model_card_says_how_it_was_made(tiny: Path) -> None:
    card = json.loads((tiny / "encoder.json").read_text())
    assert (card["name"], card["arch"], card["seed"]) == ("tiny", "seed", 7)
    assert card["data"] == {"source": "mnist/train", "count": 2048, "labels": "not used"}
    assert (card["recipe"]["epochs"], card["recipe"]["loss"]) == (16, "binary_crossentropy")
    assert card["metrics"]["test_mse"] < card["metrics"]["all_black_mse"] / 2
    assert set(card["versions"]) == {"python", "tensorflow", "keras"}


def test_the_trained_files_reconstruct_as_well_as_the_card_says(tiny: Path, queries: list[Image.Image]) -> None:
    encoder = load_encoder(str(tiny))
    inputs = normalise(queries, encoder.spec.input_shape)
    error = float(np.mean(np.square(encoder.decode(encoder.encode(inputs)) - inputs)))
    card = json.loads((tiny / "encoder.json").read_text())
    assert error == pytest.approx(card["metrics"]["test_mse"], rel=0.1)


def test_a_trained_encoder_loads_and_searches(
    command: Command, tiny: Path, store_url: str, queries: list[Image.Image]
) -> None:
    common = ("--store", store_url, "--encoder", str(tiny), "--json")
    assert command("ingest", "load", "mnist", "--limit", "500", *common).returncode == 0
    found = command("encoder-service", "search", "-", *common, stdin=png(queries[0]))
    assert json.loads(found.stdout)["encoder"] == "tiny"
    refused = command("encoder-service", "search", "-", "--store", store_url, stdin=png(queries[0]))
    assert refused.returncode == 3
    assert "gallery 'mnist' was made by encoder 'tiny'" in refused.stderr


def test_the_same_seed_gives_the_same_weights(command: Command, tiny: Path, tmp_path: Path) -> None:
    assert command("autoencoder", *TINY, "--out", str(tmp_path / "again")).returncode == 0
    assert Encoder(tmp_path / "again").spec.fingerprint == Encoder(tiny).spec.fingerprint


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--limit", "256", "--epochs", "1"), "the autoencoder collapsed: its test MSE is 0."),
        (("--limit", "100"), "expected at least 128 images to train on"),
        (("--arch", "resnet"), "architecture 'resnet': expected one of seed"),
    ],
)
def test_what_would_be_no_encoder_is_not_exported(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = command("autoencoder", "train", "mnist", *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_shipped_encoder_has_the_articles_architecture() -> None:
    card = json.loads((Path(__file__).parents[2] / "encoder_service/models/seed/encoder.json").read_text())
    assert card["metrics"]["test_mse"] <= 0.012
    from training.model import seed

    model = seed()
    assert (model.encoder.count_params(), model.encoder.output_shape) == (1904, (None, 128))
