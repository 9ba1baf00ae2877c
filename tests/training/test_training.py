"""The command `autoencoder`, on real MNIST. One tiny model serves all tests that only look."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import portalocker
import pytest
from PIL import Image

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.images import normalise
from tests import digits
from tests.commands import BIN, Command
from tests.digits import png

# Enough steps for an MSE of 0.6 times the mean image's, where 0.8 counts as collapsed. Another number of CPU cores
# rounds differently and moves the MSE by a few per cent.
TINY = ("train", "mnist", "--arch", "seed", "--limit", "4096", "--epochs", "3")


@pytest.fixture(scope="session")
def tiny(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder, trained once even where pytest runs as several processes."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "models" / "tiny"
    with portalocker.Lock(shared / "tiny.lock", timeout=120):
        if not folder.exists():
            done = command("autoencoder", *TINY, "--out", str(folder))
            assert done.returncode == 0, done.stderr
            assert "epoch 3 of 3: loss" in done.stderr
            assert f"next: ingest load mnist --encoder {folder}\n" in done.stdout
            assert "(if every answer were the mean image: 0.06" in done.stdout
    return folder


def test_a_training_without_a_name_is_wrong_usage(command: Command) -> None:
    done = command("autoencoder", "train", "mnist")
    assert done.returncode == 2
    assert done.stderr == "error: expected a name for the encoder, such as --name photos, or --out FOLDER\n"


def test_tensorflow_prints_no_lines_on_the_processor(command_process: Command, tmp_path: Path) -> None:
    done = command_process("autoencoder", "train", "/no/such/folder", "--out", str(tmp_path / "encoder"))
    assert done.returncode == 4
    assert done.stderr.startswith("error: no source '/no/such/folder'")


def test_the_model_card_says_how_it_was_made(tiny: Path) -> None:
    card = json.loads((tiny / "encoder.json").read_text())
    assert (card["format"], card["name"], card["arch"], card["seed"]) == (1, "tiny", "seed", 7)
    assert card["data"] == {
        "source": "mnist/train",
        "limit": 4096,
        "count": 4096,
        "held_out_count": 10_000,
        "labels": "not used",
    }
    assert (card["recipe"]["epochs"], card["recipe"]["views"]) == (3, "unchanged")
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


@pytest.mark.parametrize("runs", ["command", pytest.param("command_process", marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_weights(
    request: pytest.FixtureRequest, runs: str, tiny: Path, tmp_path: Path
) -> None:
    command: Command = request.getfixturevalue(runs)
    assert command("autoencoder", *TINY, "--out", str(tmp_path / "again")).returncode == 0
    assert Encoder(tmp_path / "again").spec.fingerprint == Encoder(tiny).spec.fingerprint


def test_channels_that_no_image_has_are_refused(command: Command, tmp_path: Path) -> None:
    done = command("autoencoder", "train", "mnist", "--channels", "2", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (3, "error: channels: expected 1 or 3, got 2\n")
    done = command("autoencoder", "train", "mnist", "--channels", "3", "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "--channels 3: expected a path, got the dataset mnist" in done.stderr


def test_a_split_of_a_dataset_is_refused(command: Command, tmp_path: Path) -> None:
    done = command("autoencoder", "train", "mnist/train", "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "error: expected mnist, got mnist/train" in done.stderr


LONG = ("train", "mnist", "--arch", "seed", "--limit", "1024")


@contextmanager
def started(out: Path, *arguments: str, train: tuple[str, ...] = LONG) -> "Iterator[subprocess.Popen[str]]":
    """Start a training, wait for its second epoch to end, and leave no process behind."""
    training = subprocess.Popen(
        [BIN / "autoencoder", *train, "--out", str(out), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert training.stderr is not None
        assert any(line.startswith("epoch 2 of") for line in training.stderr)
        yield training
    finally:
        training.kill()
        training.communicate()


def test_ctrl_c_keeps_the_best_so_far(tmp_path: Path) -> None:
    with started(tmp_path / "cut", "--epochs", "500") as training:
        training.send_signal(signal.SIGINT)
        stdout, stderr = training.communicate(timeout=300)
    assert training.returncode == 0
    assert "the best so far" in stderr
    card = json.loads((tmp_path / "cut" / "encoder.json").read_text())
    assert 2 <= card["epochs"]["kept"] <= card["epochs"]["trained"] < 500
    assert f"epoch {card['epochs']['kept']} kept" in stdout


@pytest.mark.slow
def test_a_killed_training_resumes_where_it_was(command: Command, tmp_path: Path) -> None:
    with started(tmp_path / "cut", "--epochs", "12") as training:
        training.kill()
    assert not (tmp_path / "cut").exists()
    done = command("autoencoder", *LONG, "--epochs", "12", "--out", str(tmp_path / "cut"), "--resume")
    assert done.returncode == 0, done.stderr
    assert "epoch 1 of" not in done.stderr
    assert "epoch 12 of 12" in done.stderr
    assert len(json.loads((tmp_path / "cut" / "encoder.json").read_text())["history"]["held_out_mse"]) == 12


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 100 digits in grey, each on one of eight strong colours.

    So few steps learn the colours, and come nowhere near a collapse.
    """
    folder = tmp_path / "photos"
    folder.mkdir()
    chance = np.random.default_rng(1)
    for index, digit in enumerate(digits.read("train")[0][:100]):
        ink = Image.fromarray(digit).resize((60, 48))
        ground = Image.new("RGB", ink.size, tuple(int(v) for v in chance.choice([0, 255], 3)))
        Image.composite(Image.new("RGB", ink.size, "grey"), ground, ink).save(folder / f"{index}.jpg")
    return folder


@pytest.mark.slow
def test_a_killed_training_on_a_folder_resumes_with_the_epochs_it_had(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    train = ("train", str(photos), "--size", "16")
    with started(tmp_path / "cut", "--epochs", "20", train=train) as training:
        training.kill()
    done = command("autoencoder", *train, "--minutes", "100", "--out", str(tmp_path / "cut"), "--resume")
    assert done.returncode == 0, done.stderr
    assert "epoch 1 of 20" not in done.stderr
    assert "epoch 20 of 20" in done.stderr
    assert len(json.loads((tmp_path / "cut" / "encoder.json").read_text())["history"]["held_out_mse"]) == 20


def test_a_folder_of_pictures_gets_an_encoder_of_its_own(command: Command, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"not an image")
    out = tmp_path / "models" / "mine"
    size = ("--size", "16", "--epochs", "20")
    trained = command("autoencoder", "train", str(photos), "--out", str(out), *size)
    assert trained.returncode == 0, trained.stderr
    assert "skipped photos/bad.jpg" in trained.stderr
    assert "training for 160 steps of 11 images, then training the decoder: about" in trained.stderr
    card = json.loads((out / "encoder.json").read_text())
    assert (card["input_shape"], card["recipe"]["views"], card["data"]["count"]) == ([16, 16, 3], "photos", 90)
    assert (card["arch"], card["fit"]) == ("photos", "squeeze")
    assert card["recipe"]["whitening"]["found"] > 0.1  # by chance, one in 100 would be found
    for name in ("losses.png", "reconstructions.png", "map.png"):
        with Image.open(out / name) as drawn:
            assert min(drawn.size) > 200

    store = ("--store", f"edge:{tmp_path / 'store'}", "--encoder", str(out))
    assert command("ingest", "load", str(photos), *store).returncode == 0
    found = command("encoder-service", "search", str(photos / "0.jpg"), "--json", *store)
    assert json.loads(found.stdout)["hits"][0]["key"] == "photos/0.jpg"
    assert json.loads(found.stdout)["hits"][0]["distance"] < 1e-3
