"""Training, run as a user runs it, on real MNIST. One tiny model serves all tests that only look at it."""

import json
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.images import normalise
from gallery.errors import InvalidInputError
from tests import digits
from tests.commands import BIN, Command
from tests.digits import png

TINY = ("train", "mnist", "--arch", "seed", "--limit", "2048", "--epochs", "10")


@pytest.fixture(scope="module")
def tiny(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    done = command("autoencoder", *TINY, "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert "epoch 10 of 10: loss" in done.stderr
    assert "where the mean image gives" in done.stdout
    return folder


def test_the_model_card_says_how_it_was_made(tiny: Path) -> None:
    card = json.loads((tiny / "encoder.json").read_text())
    assert (card["name"], card["arch"], card["seed"]) == ("tiny", "seed", 7)
    assert card["data"] == {"source": "mnist/train", "count": 2048, "labels": "not used"}
    assert (card["recipe"]["epochs"], card["recipe"]["views"]) == (10, "unchanged")
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


def test_a_collapsed_training_is_not_exported(command: Command, tmp_path: Path) -> None:
    done = command("autoencoder", *TINY[:-1], "1", "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "the autoencoder collapsed: after epoch 1 its MSE is 0." in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arch", "options", "says"),
    [
        ("seed", {"limit": 50}, "mnist/train[:50]: expected at least 64 images to train on, got 50"),
        ("seed", {"size": 32}, "architecture seed: expected inputs of (28, 28, 1), got (32, 32, 1)"),
        ("contrastive", {"size": 8}, "expected inputs of at least 16 × 16, got 8 × 8"),
        ("resnet", {}, "architecture 'resnet': expected one of seed, contrastive"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path: Path, arch: str, options: dict[str, int], says: str) -> None:
    from training.recipes import train_and_export

    with pytest.raises(InvalidInputError, match=re.escape(says)):
        train_and_export("mnist", arch, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_channels_that_no_image_has_are_refused(command: Command, tmp_path: Path) -> None:
    done = command("autoencoder", "train", "mnist", "--channels", "2", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (3, "error: channels: expected 1 or 3, got 2\n")


def started(out: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a training and wait for its second epoch to end."""
    training = subprocess.Popen(
        [BIN / "autoencoder", "train", "mnist", "--arch", "seed", "--limit", "2048", "--out", str(out), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert training.stderr is not None
    for line in training.stderr:
        if line.startswith("epoch 10 of"):
            break
    return training


def test_ctrl_c_keeps_the_best_so_far(tmp_path: Path) -> None:
    training = started(tmp_path / "cut", "--epochs", "500")
    training.send_signal(signal.SIGINT)
    stdout, stderr = training.communicate(timeout=60)
    assert training.returncode == 0
    assert "the best so far" in stderr
    card = json.loads((tmp_path / "cut" / "encoder.json").read_text())
    assert 10 <= card["epochs"]["kept"] <= card["epochs"]["trained"] < 500
    assert f"epoch {card['epochs']['kept']} kept" in stdout


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(command: Command, tmp_path: Path) -> None:
    training = started(tmp_path / "cut", "--epochs", "12")
    training.kill()
    training.communicate()
    assert not (tmp_path / "cut").exists()
    done = command("autoencoder", *TINY[:-1], "12", "--out", str(tmp_path / "cut"), "--resume")
    assert done.returncode == 0, done.stderr
    assert "epoch 1 of" not in done.stderr
    assert "epoch 12 of 12" in done.stderr
    assert len(json.loads((tmp_path / "cut" / "encoder.json").read_text())["history"]["held_out_mse"]) == 12


def test_a_folder_of_pictures_gets_an_encoder_of_its_own(command: Command, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    chance = np.random.default_rng(1)
    for index, digit in enumerate(digits.read("train")[0][:200]):
        ink = Image.fromarray(digit).resize((60, 48))
        ground = Image.new("RGB", ink.size, tuple(int(v) for v in chance.integers(60, 256, 3)))
        Image.composite(Image.new("RGB", ink.size), ground, ink).save(photos / f"{index}.jpg")
    (photos / "bad.jpg").write_bytes(b"not an image")
    out = tmp_path / "models" / "mine"
    size = ("--size", "24", "--epochs", "30")
    trained = command("autoencoder", "train", str(photos), "--out", str(out), *size)
    assert trained.returncode == 0, trained.stderr
    assert "passed over photos/bad.jpg" in trained.stderr
    card = json.loads((out / "encoder.json").read_text())
    assert (card["input_shape"], card["recipe"]["views"], card["data"]["count"]) == ([24, 24, 3], "photos", 180)
    for name in ("losses.png", "reconstructions.png", "map.png"):
        with Image.open(out / name) as drawn:
            assert min(drawn.size) > 200

    store = ("--store", f"edge:{tmp_path / 'store'}", "--encoder", str(out))
    assert command("ingest", "load", str(photos), *store).returncode == 0
    found = command("encoder-service", "search", str(photos / "0.jpg"), "--json", *store)
    assert json.loads(found.stdout)["hits"][0]["key"] == "photos/0.jpg"
    assert json.loads(found.stdout)["hits"][0]["distance"] < 1e-3


def test_the_shipped_encoder_has_the_articles_architecture() -> None:
    card = json.loads((Path(__file__).parents[2] / "encoder_service/models/seed/encoder.json").read_text())
    assert card["metrics"]["test_mse"] <= 0.012
    from training.model import seed

    model = seed()
    assert (model.encoder.count_params(), model.encoder.output_shape) == (1904, (None, 128))


def test_of_very_many_images_no_more_are_held_out_than_memory_likes() -> None:
    from training.pixels import held_apart

    images = np.arange(60_000, dtype=np.uint32).view(np.uint8).reshape(60_000, 1, 1, 4)  # each another one
    rest, held_out = held_apart(np.array(images), seed=1)
    assert len(held_out) == 5000
    together = np.concatenate([rest, held_out]).reshape(60_000, 4)
    assert len(np.unique(together, axis=0)) == 60_000


@pytest.mark.slow
def test_the_default_recipe_gives_the_same_weights_too(command: Command, tmp_path: Path) -> None:
    short = ("train", "mnist", "--limit", "1024", "--epochs", "30")
    cards = []
    for name in ("one", "other"):
        done = command("autoencoder", *short, "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert "now their decoder, for 10 epochs" in done.stderr
        cards.append(json.loads((tmp_path / name / "encoder.json").read_text()))
    assert cards[0]["fingerprint"] == cards[1]["fingerprint"]
    assert cards[0]["decoder_sha256"] == cards[1]["decoder_sha256"]
    assert cards[0]["recipe"]["whitening"]["decoder_epochs"] == 10


def test_fused_normalisation_does_what_keras_does_and_nothing_when_frozen() -> None:
    from keras import layers

    from training.model import FusedNormalization

    images = np.random.default_rng(1).random((64, 9, 7, 3), np.float32)
    fused, keras = FusedNormalization(momentum=0.5), layers.BatchNormalization(momentum=0.5)
    np.testing.assert_allclose(fused(images, training=True), keras(images, training=True), atol=1e-4)
    for ours, theirs in zip(fused.get_weights(), keras.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_allclose(fused(images, training=False), keras(images, training=False), atol=1e-2)

    fused.trainable = False
    before = fused.get_weights()
    np.testing.assert_array_equal(fused(images + 1, training=True), fused(images + 1, training=False))
    np.testing.assert_array_equal(fused.get_weights(), before)


def test_strange_images_are_made_of_the_others_whatever_their_size() -> None:
    from training.negatives import strange

    images = np.random.default_rng(1).random((10, 17, 17, 3), np.float32)
    made = strange(images).numpy()
    assert made.shape == images.shape
    assert all(np.abs(images - one).mean(axis=(1, 2, 3)).min() > 0.05 for one in made)
