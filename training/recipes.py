"""From a source's name to an encoder's folder: which architecture, which recipe, which invariances."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery.errors import LookalikeError
from ingest.progress import Stages
from ingest.sources import SourceName, open_source
from ingest.sources.datasets import DATASETS
from training import model
from training.errors import RecipeError
from training.export import export
from training.fit import Recipe, all_black_mse, constant_mse, fit, fix_seed, inputs, mse
from training.pictures import draw
from training.pixels import held_apart, read_pixels
from training.whiten import POWER, whitened

# A new architecture is one function in model.py and one line here.
ARCHITECTURES = {
    "seed": (model.seed, Recipe(epochs=30, batch=64, learning_rate=3e-3)),
    "contrastive": (
        model.contrastive,
        Recipe(epochs=30, batch=256, learning_rate=2e-3, reconstruct=8.0, contrast=1.0),
    ),
}
# Weight of giving back nothing of strange images made of a dataset's own. What is strange to a folder, nobody knows.
_STRANGE = 2.5
# What an encoder of each source is to overlook. Mirrored digits are others; a mirrored shoe is a shoe.
_VIEWS = {"mnist": "digits", "fashion-mnist": "clothes"}

# A small folder is seen more often, until there have been so many steps.
_FEWEST_STEPS = 1500
_FEWEST_STEPS_AN_EPOCH = 8
_PARITY_SAMPLES = 256
_PICTURED = 500


def train_and_export(
    source: str,
    arch: str,
    out: Path,
    *,
    size: int = 28,
    channels: int = 1,
    seed: int = 7,
    epochs: int | None = None,
    limit: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train an architecture on a source and write the encoder with its model card and pictures.

    Args:
        source: `mnist` or `fashion-mnist`, whose test split is held out, or a folder, of which a tenth is or, if that
            is less, 5,000 images.
        arch: One of `ARCHITECTURES`.
        out: Folder for the encoder; its name is the encoder's.
        size: Height and width of the encoder's inputs.
        channels: 1 (grey) or 3 (RGB).
        seed: Random seed.
        epochs: Instead of the recipe's.
        limit: Train on at most so many images.
        resume: Go on with a training into this folder that was cut off.

    Returns:
        The model card.

    Raises:
        RecipeError: There is no such architecture, or too little to train on.
        InputShapeError: The architecture does not take inputs of this size.
        CollapseError: The model learned nothing; nothing is written.
        ParityError: The exported files don't match the model; nothing is written.
    """
    if arch not in ARCHITECTURES:
        raise RecipeError(f"architecture {arch!r}: expected one of {', '.join(ARCHITECTURES)}")
    build, recipe = ARCHITECTURES[arch]
    fix_seed(seed)
    autoencoder = build((size, size, channels))
    background = 0 if source in DATASETS else 255
    state = out.parent / f".{out.name}.training"
    if not resume:
        shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True, exist_ok=True)
    try:
        with Stages() as stages:
            train, held_out = _read(source, (size, size, channels), background, limit, seed, state, stages)
            recipe = _fitted(recipe, source, len(train), epochs)
            history = fit(autoencoder, train, held_out, recipe, seed, state, stages)
            whitening = {}
            if recipe.contrast:
                autoencoder = whitened(autoencoder, train)
                again = replace(
                    recipe,
                    contrast=0.0,
                    epochs=-(-recipe.epochs // 3),
                    views="unchanged",
                    strange=_STRANGE if source in DATASETS else 0.0,
                )
                stages.say(
                    f"the codes are settled; now their decoder, for {again.epochs} epochs (stopped in the first, go on "
                    "with --resume)"
                )
                # a decoder belongs to the codes of so many epochs, and to no others
                learnt = fit(autoencoder, train, held_out, again, seed, state / f"decoder-{len(history.loss)}", stages)
                whitening = {
                    "power": POWER,
                    "decoder_epochs": len(learnt.loss),
                    "decoder_kept": learnt.best,
                    "decoder_strange": again.strange,
                }
    except LookalikeError:
        shutil.rmtree(state)
        raise
    card = {
        "data": {"source": SourceName.parse(source).origin, "count": len(train), "labels": "not used"},
        "arch": arch,
        "background": background,
        "recipe": {**asdict(recipe), "whitening": whitening},
        "seed": seed,
        "epochs": {"trained": len(history.loss), "kept": history.best},
        "metrics": {
            "test_mse": mse(autoencoder, held_out),
            "mean_image_mse": constant_mse(held_out),
            "all_black_mse": all_black_mse(held_out),
        },
        "history": {"train_loss": history.train_loss, "held_out_loss": history.loss, "held_out_mse": history.mse},
    }
    encoder = export(autoencoder, card, inputs(held_out[:_PARITY_SAMPLES]), out)
    draw(out, encoder, history, inputs(held_out[:_PICTURED]))
    shutil.rmtree(state, ignore_errors=True)
    written: dict[str, Any] = json.loads((out / "encoder.json").read_bytes())
    return written


def _read(
    source: str,
    shape: tuple[int, int, int],
    background: int,
    limit: int | None,
    seed: int,
    state: Path,
    stages: Stages,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    train = read_pixels(open_source(source, "train", limit), shape, background, state / "train.pixels", stages)
    if source not in DATASETS:
        return held_apart(train, seed)
    return train, read_pixels(open_source(source, "test"), shape, background, state / "test.pixels", stages)


def _fitted(recipe: Recipe, source: str, count: int, epochs: int | None) -> Recipe:
    """Fit a recipe to the source and to how many images there are."""
    batch = min(recipe.batch, count // _FEWEST_STEPS_AN_EPOCH)
    enough = max(recipe.epochs, -(-_FEWEST_STEPS // (count // batch)))
    views = _VIEWS.get(source, "photos") if recipe.contrast else recipe.views
    return replace(recipe, batch=batch, epochs=epochs or enough, views=views)
