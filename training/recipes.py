"""Train an encoder from start to end: choose a recipe for a source, train, and export the encoder."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import MODELS, PHOTOS_ENCODER
from gallery.errors import LookalikeError
from ingest.progress import Stages
from ingest.sources import SourceName, open_source
from ingest.sources.datasets import DATASETS
from training import model, start
from training.errors import RecipeError, TrainingError
from training.export import export
from training.fit import History, Recipe, all_black_mse, constant_mse, fit, fix_seed, inputs, seconds_per_step
from training.model import Autoencoder
from training.pictures import draw
from training.pixels import read_pixels, split_held_out
from training.statistics import reestimate
from training.whiten import FLOOR, choose, whitened

# The architectures, by name: the function that builds the autoencoder, and the settings of its training.
ARCHITECTURES = {
    "seed": (model.seed, Recipe(epochs=30, batch=64, learning_rate=3e-3)),
    "contrastive": (
        model.contrastive,
        Recipe(
            epochs=30,
            batch=256,
            learning_rate=2e-3,
            reconstruct=8.0,
            decoded=0.25,
            contrast=1.0,
            temperature=0.15,
            local_whitening=True,
        ),
    ),
    "photos": (
        model.photos,
        Recipe(epochs=8, batch=128, learning_rate=2e-3, reconstruct=2.0, decoded=0.25, contrast=1.0, temperature=0.1),
    ),
}
# Weight of the loss that trains the decoder to answer out-of-distribution images with black. This loss is used only for
# the datasets. In a folder of the user's, mirrored or rotated images may be normal.
_NEGATIVES = 2.5
# Augmentations for each dataset. Mirrored digits are no digits, but a mirrored shoe is still a shoe.
_VIEWS = {"mnist": "digits", "fashion-mnist": "clothes"}
# Framing rule of each dataset, with which searches adapt a query to the dataset's images.
_FRAMINGS = {"mnist": "digit"}

# How images of folders are brought to the inputs' aspect ratio, by number of channels. Colour images are squeezed,
# because photographs may have bars, or be wide or tall. Grey images are not: a squeezed drawing would lose its shape.
_FITS = {1: "crop", 3: "squeeze"}

# Minimum number of training steps by architecture. To reach it, training on a small source has more epochs than the
# recipe says.
_MIN_STEPS = {"seed": 1500, "contrastive": 1500, "photos": 1000}
# Peak learning rate of a training that starts from another encoder's weights.
_TUNING_RATE = 1e-3
# Training on a folder ends early if this fraction of its epochs has passed since the best epoch. With a fifth,
# trainings ended before the learning rate fell, because the loss on few held-out images varies from epoch to epoch.
_PATIENCE = 0.5
# Duration of the decoder's own training, as a fraction of the encoder's.
_DECODER_SHARE = 0.2
# Minimum number of training steps per epoch. To reach it, training on a small source has smaller batches.
_MIN_STEPS_PER_EPOCH = 8
# Number of held-out images for the pictures.
_PICTURED = 500


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, with the settings and the history of its training.

    Attributes:
        model: The autoencoder with the weights of its best epoch.
        recipe: The settings of the training.
        history: The history of the training.
        weights: The weights of the best epoch, before the encoder was whitened.
        whitening: Fields of the model card about the whitening, and about the training of the decoder afterwards;
            empty if the encoder is not whitened.
    """

    model: Autoencoder
    recipe: Recipe
    history: History
    weights: list[NDArray[np.float32]]
    whitening: dict[str, Any]


def train_and_export(
    source: str,
    arch: str,
    out: Path,
    *,
    size: int = 28,
    channels: int = 1,
    seed: int = 7,
    epochs: int | None = None,
    minutes: float | None = None,
    limit: int | None = None,
    from_scratch: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Train an architecture on a source and write the encoder with its model card and pictures.

    Args:
        source: `mnist` or `fashion-mnist`, whose test split is held out; or the path of other images. Of these, a tenth
            is held out, but at most 5,000.
        arch: Name of the architecture, a key of `ARCHITECTURES`; empty for the default of the source, which is
            `contrastive` for a dataset and `photos` for other images.
        out: Folder for the encoder. Its name becomes the encoder's name.
        size: Height and width of the encoder's inputs, in pixels.
        channels: 1 (grey) or 3 (RGB).
        seed: Random seed.
        epochs: Passes over the training images; None for the recipe's own number.
        minutes: Train for about this many minutes at this machine's current load; None for as long as `epochs` says.
            Not for datasets, nor for the architecture `seed`.
        limit: Maximum number of images to train on; None for all.
        from_scratch: Whether to start from random weights. Otherwise, a training on a path starts from the weights of
            the shipped encoder `photos`, if that has the same architecture and input shape.
        resume: Whether to resume an interrupted training of this encoder.

    Returns:
        The model card.

    Raises:
        RecipeError: The architecture is unknown, `minutes` can't be kept, or the source has too few images.
        InputShapeError: The architecture does not take inputs of this size.
        SourceNotFoundError: The source does not exist.
        CollapseError: The model has learned nothing. No encoder is written.
        ParityError: The exported files give other results than the trained model. No encoder is written.
    """
    arch = arch or ("contrastive" if source in DATASETS else "photos")
    if arch not in ARCHITECTURES:
        raise RecipeError(f"architecture {arch!r}: expected one of {', '.join(ARCHITECTURES)}")
    build, recipe = ARCHITECTURES[arch]
    is_timed = source not in DATASETS and recipe.contrast > 0
    if minutes and (epochs or not is_timed):
        got = "--epochs too" if is_timed else f"dataset {source}" if source in DATASETS else f"--arch {arch}"
        raise RecipeError(
            f"--minutes: expected it with a path and --arch photos or contrastive, got {got}: use --epochs"
        )
    fix_seed(seed)
    autoencoder = build((size, size, channels))
    started_from = ""
    if source not in DATASETS and not from_scratch and start.load(MODELS / PHOTOS_ENCODER, autoencoder):
        started_from = PHOTOS_ENCODER
        recipe = replace(recipe, learning_rate=_TUNING_RATE)
    background = 0 if source in DATASETS else 255
    fit_to = "crop" if source in DATASETS else _FITS[channels]
    with _state_folder(out, resume) as state:
        with Stages() as stages:
            train, held_out = _read(source, (size, size, channels), background, fit_to, limit, seed, state, stages)
            recipe = _fitted(recipe, _MIN_STEPS[arch], source, len(train), epochs)
            if started_from:
                stages.say(f"starting from the weights of the encoder {started_from} (--from-scratch for random ones)")
            if is_timed:
                recipe = _timed(autoencoder, recipe, train, epochs, minutes, state, stages)
            negatives = _NEGATIVES if source in DATASETS else 0.0
            trained = _train(autoencoder, recipe, negatives, train, held_out, seed, state, stages)
        card = {
            "data": {
                "source": SourceName.parse(source).origin,
                "limit": limit,
                "count": len(train),
                "held_out_count": len(held_out),
                "labels": "not used",
            },
            "arch": arch,
            **({"started_from": started_from} if started_from else {}),
            "background": background,
            "framing": _FRAMINGS.get(source, ""),
            "fit": fit_to,
            "seed": seed,
            **_card(trained, held_out),
        }
        encoder = export(trained.model, card, train, held_out, out, quantise=arch != "seed")
        if arch == "photos":
            start.save(out, trained.weights)
        draw(out, encoder, trained.history, inputs(held_out[:_PICTURED]))
    written: dict[str, Any] = json.loads((out / "encoder.json").read_bytes())
    return written


@contextmanager
def _state_folder(out: Path, resume: bool) -> Iterator[Path]:
    """Create a folder for pixels and checkpoints next to the encoder's folder, and yield it.

    The folder is removed when the training has succeeded or failed. After Ctrl-C or a crash it stays, so that the
    training can be resumed.
    """
    state = out.parent / f".{out.name}.training"
    if not resume:
        shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True, exist_ok=True)
    try:
        yield state
    except LookalikeError as error:
        # A resumed training keeps its checkpoints unless the training itself has failed. It can be resumed again after
        # other errors, such as a dataset that can't be fetched.
        if not resume or isinstance(error, TrainingError):
            shutil.rmtree(state)
        raise
    shutil.rmtree(state, ignore_errors=True)


def _read(
    source: str,
    shape: tuple[int, int, int],
    background: int,
    fit_to: str,
    limit: int | None,
    seed: int,
    state: Path,
    stages: Stages,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the images to train on and the held-out images, each (n, h, w, c)."""
    train = read_pixels(open_source(source, "train", limit), shape, background, fit_to, state / "train.pixels", stages)
    if source not in DATASETS:
        return split_held_out(train, seed)
    return train, read_pixels(open_source(source, "test"), shape, background, fit_to, state / "test.pixels", stages)


def _fitted(recipe: Recipe, min_steps: int, source: str, count: int, epochs: int | None) -> Recipe:
    """Adapt a recipe to a source of `count` images: batch size, number of epochs and augmentations.

    Without `epochs`, training has at least `min_steps` steps.
    """
    batch = min(recipe.batch, count // _MIN_STEPS_PER_EPOCH)
    enough = max(recipe.epochs, -(-min_steps // (count // batch)))
    views = _VIEWS.get(source, "photos") if recipe.contrast else recipe.views
    return replace(recipe, batch=batch, epochs=epochs or enough, views=views)


def _timed(
    autoencoder: Autoencoder,
    recipe: Recipe,
    train: NDArray[np.uint8],
    epochs: int | None,
    minutes: float | None,
    state: Path,
    stages: Stages,
) -> Recipe:
    """Say how long training will take, and fit its epochs to the minutes given.

    A resumed training keeps its epochs unless another number is given.
    """
    steps, file = len(train) // recipe.batch, state / "epochs"
    seconds = steps * seconds_per_step(autoencoder, train, recipe) * (1 + _DECODER_SHARE)  # per epoch
    if file.exists() and not epochs:
        recipe = replace(recipe, epochs=int(file.read_text()))
    elif minutes:
        recipe = replace(recipe, epochs=max(1, int(60 * minutes / seconds)))
    file.write_text(str(recipe.epochs))
    stages.say(
        f"training for {recipe.epochs * steps:,} steps of {recipe.batch} images, then training the decoder: about "
        f"{math.ceil(recipe.epochs * seconds / 60)} min in all"
    )
    return replace(recipe, patience=max(5, math.ceil(_PATIENCE * recipe.epochs)))


def _train(
    autoencoder: Autoencoder,
    recipe: Recipe,
    negatives: float,
    train: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    seed: int,
    state: Path,
    stages: Stages,
) -> Trained:
    """Train a model. If the training is contrastive, whiten the encoder, and train the decoder again for the new codes.

    Args:
        autoencoder: A new model.
        recipe: Settings of the first training.
        negatives: Weight of the loss on out-of-distribution images in the second training, which only the decoder gets.
        train: Images to train on, (n, h, w, c) uint8, 0 to 255.
        held_out: Held-out images, (m, h, w, c) uint8, 0 to 255.
        seed: Seed for the order of the images.
        state: Folder for checkpoints.
        stages: Shows the progress.
    """
    history = fit(autoencoder, train, held_out, recipe, seed, state, stages)
    weights = autoencoder.whole.get_weights()
    if not recipe.contrast:
        return Trained(autoencoder, recipe, history, weights, {})
    # the encoder's training may have been resumed: what follows must not depend on it
    keras.utils.set_random_seed(seed)
    stages.say("whitening the codes")
    settings, found = choose(autoencoder, train, held_out, recipe.views, local=recipe.local_whitening)
    averages = autoencoder.encoder.get_weights()
    reestimate(autoencoder.encoder, train, seed)
    other_settings, other_found = choose(autoencoder, train, held_out, recipe.views, local=recipe.local_whitening)
    is_reestimated = other_found > found
    if is_reestimated:
        settings, found = other_settings, other_found
    else:
        autoencoder.encoder.set_weights(averages)
    autoencoder = whitened(autoencoder, train, settings)
    decoder = replace(
        recipe,
        decoded=1.0,
        contrast=0.0,
        epochs=-(-recipe.epochs // 3),
        views="unchanged",
        negatives=negatives,
        patience=0,
        local_whitening=False,
    )
    stages.say(
        f"the encoder is finished: training its decoder again, for {decoder.epochs} epochs (after Ctrl-C in the first "
        "of them, continue with --resume)"
    )
    # The decoder is trained for the codes of this encoder. A resumed training may give the encoder more epochs or
    # another whitening, which changes the codes. Then the decoder must not continue from its earlier checkpoint.
    decoder_state = state / f"decoder-{len(history.loss)}-{settings.power}-{settings.colours}-{settings.local}"
    decoder_history = fit(autoencoder, train, held_out, decoder, seed, decoder_state, stages)
    whitening = {
        "power": settings.power,
        "floor": FLOOR,
        "colours": settings.colours,
        "local": settings.local,
        "found": found,
        "statistics_reestimated": is_reestimated,
        "decoder": asdict(decoder),
        "decoder_epochs": len(decoder_history.loss),
        "decoder_kept": decoder_history.best,
    }
    return Trained(autoencoder, recipe, history, weights, whitening)


def _card(trained: Trained, held_out: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the fields of the model card about a training: recipe, epochs, metrics and history."""
    history = trained.history
    return {
        "recipe": {**asdict(trained.recipe), "whitening": trained.whitening},
        "epochs": {"trained": len(history.loss), "kept": history.best},
        "metrics": {
            "mean_image_mse": constant_mse(held_out),
            "all_black_mse": all_black_mse(held_out),
        },
        "history": {"train_loss": history.train_loss, "held_out_loss": history.loss, "held_out_mse": history.mse},
    }
