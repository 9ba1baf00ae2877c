"""The parts of training, each in this process."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encoder_service.encoder import MODELS
from gallery.errors import InvalidInputError
from ingest.errors import SourceNotFoundError
from training.cli import main
from training.recipes import train_and_export


def test_tensorflow_is_imported_on_first_use_only() -> None:
    script = "import training, sys; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arch", "options", "says"),
    [
        ("seed", {"limit": 50}, "mnist/train[:50]: expected at least 64 images to train on, got 50"),
        ("seed", {"size": 32}, "architecture seed: expected inputs of (28, 28, 1), got (32, 32, 1)"),
        ("contrastive", {"size": 8}, "expected inputs of at least 16 × 16, got 8 × 8"),
        ("photos", {"size": 8}, "expected inputs of at least 16 × 16, got 8 × 8"),
        ("resnet", {}, "architecture 'resnet': expected one of seed, contrastive, photos"),
        (
            "contrastive",
            {"minutes": 5},
            "--minutes: expected it with a path and --arch photos or contrastive, got datas",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path: Path, arch: str, options: dict[str, int], says: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(says)):
        train_and_export("mnist", arch, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_collapsed_training_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("train", "mnist", "--arch", "seed", "--limit", "64", "--epochs", "1")
    monkeypatch.setattr("sys.argv", ["autoencoder", *few, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: the autoencoder collapsed: after epoch 1, expected an MSE below 0.05")
    assert list(tmp_path.iterdir()) == []


def test_a_resume_that_fails_before_training_keeps_the_checkpoints(tmp_path: Path) -> None:
    checkpoint = tmp_path / ".out.training" / "history.json"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(SourceNotFoundError):
        train_and_export(str(tmp_path / "unplugged"), "contrastive", tmp_path / "out", resume=True)
    assert checkpoint.exists()


def test_the_shipped_encoder_has_the_articles_architecture() -> None:
    card = json.loads((MODELS / "seed" / "encoder.json").read_text())
    assert card["metrics"]["test_mse"] <= 0.012
    from training.model import seed

    model = seed()
    assert (model.encoder.count_params(), model.encoder.output_shape) == (1904, (None, 128))


@pytest.mark.parametrize(("arch", "epochs", "got"), [("seed", None, "--arch seed"), ("photos", 3, "--epochs too")])
def test_minutes_that_would_be_ignored_are_refused(tmp_path: Path, arch: str, epochs: int | None, got: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"got {got}: use --epochs")):
        train_and_export(str(tmp_path), arch, tmp_path / "out", minutes=5, epochs=epochs)


def test_training_ends_early_once_it_no_longer_improves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ingest.progress import Stages
    from tests import digits
    from training import model
    from training.fit import Recipe, fit

    images = digits.read("train")[0][:128, :, :, None]
    recipe = Recipe(epochs=50, batch=64, learning_rate=0, patience=2)  # nothing is learned
    with Stages() as stages:
        history = fit(model.seed(), images[:64], images[64:], recipe, 7, tmp_path, stages)
    assert (len(history.loss), history.best) == (3, 1)
    assert "no better since epoch 1: keeping it" in capsys.readouterr().err


def test_a_training_starts_from_the_weights_of_another_encoder(tmp_path: Path) -> None:
    from training import model, start
    from training.fit import fix_seed

    fix_seed(7)
    trained, new, larger = (model.photos((side, side, 3)) for side in (16, 16, 32))
    start.save(tmp_path, trained.whole.get_weights())
    image = np.random.default_rng(1).random((1, 16, 16, 3), np.float32)
    assert np.abs(new.whole(image) - trained.whole(image)).max() > 0.01
    assert start.load(tmp_path, new)
    assert np.abs(new.whole(image) - trained.whole(image)).max() < 0.001
    assert not start.load(tmp_path, larger)
    assert not start.load(tmp_path / "none", new)


def test_of_very_many_images_no_more_are_held_out_than_fit_into_memory() -> None:
    from training.pixels import split_held_out

    images = np.arange(60_000, dtype=np.uint32).view(np.uint8).reshape(60_000, 1, 1, 4)  # each differs
    rest, held_out = split_held_out(np.array(images), seed=1)
    assert len(held_out) == 5000
    together = np.concatenate([rest, held_out]).reshape(60_000, 4)
    assert len(np.unique(together, axis=0)) == 60_000


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


def test_out_of_distribution_images_are_pieces_of_the_others_and_scribbles() -> None:
    from training.negatives import out_of_distribution

    def joined(x: NDArray[np.float32], y: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [np.concatenate([x[:8], y[8:]], 0), np.concatenate([x[:, :8], y[:, 8:]], 1)]

    images = np.random.default_rng(1).random((12, 17, 17, 3), np.float32)
    pairs = [(x, y) for x in images for y in images if x is not y]
    ways = {
        "turned": [np.rot90(image, turns) for image in images for turns in (1, 3)],
        "flipped": [image[::-1] for image in images],
        "joined": [result for x, y in pairs for result in joined(x, y)],
        "exchanged": [np.roll(image, 8, axis) for image in images for axis in (0, 1)],
        "overlaid": [np.maximum(x, y) for x, y in pairs],
    }
    results = out_of_distribution(images).numpy()
    assert results.shape == images.shape
    for index, (way, expected) in enumerate(ways.items()):
        for result in results[2 * index : 2 * index + 2]:
            assert any(np.array_equal(result, image) for image in expected), way
    scribbles = results[10:]
    assert (scribbles.max((1, 2, 3)) == 1).all()
    assert (np.mean(scribbles == 0, (1, 2, 3)) > 0.5).all()
    assert (scribbles == scribbles[..., :1]).all()  # the pen is grey
    assert all(np.abs(images - result).mean(axis=(1, 2, 3)).min() > 0.05 for result in results)


def test_views_of_photographs_are_altered_copies_in_grey_and_in_colour() -> None:
    from training.views import VIEWS, part

    for channels in (1, 3):
        images = np.random.default_rng(1).random((64, 6, 8, channels), np.float32).repeat(4, 1).repeat(4, 2)
        seen, clean = (view.numpy() for view in VIEWS["photos"].view(images))
        for views in (seen, clean, VIEWS["photos"].partner(images).numpy(), part(images).numpy()):
            assert views.shape == images.shape
            assert views.min() >= 0
            assert views.max() <= 1
            assert np.abs(views - images).mean(axis=(1, 2, 3)).min() > 0.01
    grey = np.ptp(clean, axis=3).max(axis=(1, 2)) < 0.1
    assert 8 < grey.sum() < 32  # 28 % of them


def test_colours_are_described_alike_in_all_parts_of_an_image() -> None:
    from training.model import photos

    colours = photos((32, 32, 3)).colours
    assert colours is not None
    image = np.random.default_rng(1).choice([0.2, 0.8], (1, 32, 1, 1)).repeat(32, 2).repeat(3, 3).astype(np.float32)
    image[..., 0] = 1
    described = colours(np.concatenate([image, image[:, ::-1], 1 - image])).numpy()
    np.testing.assert_allclose(np.square(described).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(described[0], described[1], atol=1e-6)
    assert np.linalg.norm(described[0] - described[2]) > 1


def test_whitening_is_chosen_by_what_is_found_and_may_add_colours() -> None:
    from training.fit import fix_seed
    from training.model import photos
    from training.whiten import choose, whitened

    fix_seed(7)
    model = photos((16, 16, 3))
    grounds = np.random.default_rng(1).integers(0, 256, (160, 1, 1, 3), np.uint8)
    images = np.broadcast_to(grounds, (160, 16, 16, 3)).copy()  # they differ in nothing but their colours
    settings, found = choose(model, images[:120], images[120:], "photos")
    assert settings.colours > 0
    assert found > 0.3
    codes = whitened(model, images[:120], settings).encoder(images[120:] / np.float32(255)).numpy()
    assert codes.shape == (40, 128)
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, rtol=1e-4)


def test_local_whitening_finds_images_of_the_same_kind_better() -> None:
    from training.fit import fix_seed
    from training.model import contrastive
    from training.whiten import Whitening, whitened

    fix_seed(7)
    model = contrastive((16, 16, 1))
    chance = np.random.default_rng(1)
    kinds = chance.integers(0, 200, 1500)
    patterns = chance.random((200, 16, 16, 1))
    images = (255 * (0.4 * patterns[kinds] + 0.6 * chance.random((1500, 1, 16, 1)))).astype(np.uint8)

    def share_right(local: bool) -> float:
        encoder = whitened(model, images, Whitening(local=local)).encoder
        codes = encoder(images / np.float32(255)).numpy()
        np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, rtol=1e-4)
        likeness = codes @ codes.T - 2 * np.eye(len(codes))
        return float((kinds[likeness.argmax(axis=1)] == kinds).mean())

    assert share_right(True) > share_right(False) + 0.03


def test_few_images_are_not_whitened_locally() -> None:
    from training.fit import fix_seed
    from training.model import contrastive
    from training.whiten import choose

    fix_seed(7)
    model = contrastive((16, 16, 1))
    images = np.random.default_rng(1).integers(0, 256, (2200, 16, 16, 1), np.uint8)
    for count, is_local in ((1999, False), (2000, True)):
        assert choose(model, images[:count], images[2000:], "digits", local=True)[0].local == is_local


@pytest.mark.slow
def test_the_default_recipe_gives_the_same_weights_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # with 2,048 held-out images, measuring each epoch would take longer than its few steps
    monkeypatch.setattr("training.fit._MEASURED", 256)
    cards = []
    for name in ("one", "other"):
        cards.append(train_and_export("mnist", "contrastive", tmp_path / name, limit=512, epochs=60))
        assert "training its decoder again, for 20 epochs" in capsys.readouterr().err
    assert cards[0]["fingerprint"] == cards[1]["fingerprint"]
    assert cards[0]["decoder_sha256"] == cards[1]["decoder_sha256"]
    assert cards[0]["recipe"]["whitening"]["decoder_epochs"] == 20
    assert cards[0]["recipe"]["whitening"]["decoder"]["negatives"] > 0
    assert cards[0]["metrics"]["test_mse"] < 0.75 * cards[0]["metrics"]["mean_image_mse"]


def test_statistics_are_those_of_images_as_they_are() -> None:
    import tensorflow as tf
    from keras import Model, layers

    from training.model import FusedNormalization
    from training.statistics import reestimate

    image = layers.Input((4, 4, 1))
    normalisation = FusedNormalization(momentum=0.5)
    model = Model(image, normalisation(image))
    pixels = np.random.default_rng(1).integers(0, 256, (1000, 4, 4, 1), np.uint8)
    model(tf.ones([8, 4, 4, 1]) * 5, training=True)  # statistics of other images
    reestimate(model, pixels, seed=7)
    moving_mean, moving_variance = (
        weight.numpy()[0] for weight in (normalisation.moving_mean, normalisation.moving_variance)
    )
    np.testing.assert_allclose(moving_mean, (pixels / 255).mean(), atol=0.01)
    np.testing.assert_allclose(moving_variance, (pixels / 255).var(), atol=0.01)
    assert normalisation.momentum == 0.5


def test_a_quantised_encoder_is_small_and_gives_nearly_the_same_codes(tmp_path: Path) -> None:
    from training import model
    from training.export import export
    from training.fit import fix_seed

    fix_seed(7)
    autoencoder = model.contrastive((28, 28, 1))
    pixels = np.random.default_rng(1).integers(0, 256, (80, 28, 28, 1), np.uint8)
    card: dict[str, Any] = {"background": 0, "metrics": {}}
    plain, quantised = (
        export(autoencoder, card, pixels, pixels, tmp_path / name, quantise=name == "quantised")
        for name in ("plain", "quantised")
    )
    sizes = [(encoder.folder / "encoder.tflite").stat().st_size for encoder in (plain, quantised)]
    assert sizes[1] < sizes[0] * 0.7
    inputs = pixels.astype(np.float32) / np.float32(255)
    codes, plain_codes = quantised.encode(inputs), plain.encode(inputs)
    assert np.linalg.norm(codes - plain_codes, axis=1).max() < 0.2
    np.testing.assert_array_equal(codes[:64], np.concatenate([quantised.encode(row[None]) for row in inputs[:64]]))
    # differences as small as those between processors are rounded away before they can grow
    rounded = (inputs * np.float32(1 + 1e-6)).clip(0, 1)
    assert np.linalg.norm(quantised.encode(rounded) - codes, axis=1).max() < 1e-4
    assert 0 < json.loads((quantised.folder / "encoder.json").read_text())["quantisation"]["code_change"] < 0.2


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fit._check_collapse", lambda *arguments: None)
    saved: list[int] = []
    savez = np.savez

    def save_once(path: Path, *arrays: Any) -> None:
        saved.append(1)
        if len(saved) > 1:
            path.write_bytes(b"half")
            raise OSError("no space left")
        savez(path, *arrays)

    few = {"limit": 256, "epochs": 2}
    monkeypatch.setattr("numpy.savez", save_once)
    with pytest.raises(OSError, match="no space left"):
        train_and_export("mnist", "seed", tmp_path / "out", **few)  # type: ignore[arg-type]
    monkeypatch.setattr("numpy.savez", savez)
    card = train_and_export("mnist", "seed", tmp_path / "out", resume=True, **few)  # type: ignore[arg-type]
    assert card["epochs"]["trained"] == 2
