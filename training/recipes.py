"""From a source's name to an encoder's folder: which architecture, which recipe, which invariances."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder_service.images import normalise
from ingest.progress import Stages
from ingest.sources import open_source
from training import model
from training.errors import RecipeError
from training.export import export
from training.fit import Recipe, constant_mse, fit, fix_seed, inputs, mse

# A new architecture is one function in model.py and one line here.
ARCHITECTURES = {
    "seed": (model.seed, Recipe(epochs=30, batch=64, learning_rate=3e-3)),
    "contrastive": (
        model.contrastive,
        Recipe(epochs=20, batch=256, learning_rate=2e-3, reconstruct=8.0, contrast=1.0),
    ),
}
# What an encoder of each source is to overlook. Mirrored digits are others; a mirrored shoe is a shoe.
_VIEWS = {"mnist": "digits", "fashion-mnist": "clothes"}

_PARITY_SAMPLES = 256


def train_and_export(
    source: str,
    arch: str,
    out: Path,
    *,
    seed: int = 7,
    epochs: int | None = None,
    limit: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train an architecture on a source and write the encoder.

    Args:
        source: `mnist` or `fashion-mnist`, whose test split is held out.
        arch: One of `ARCHITECTURES`.
        out: Folder for the encoder.
        seed: Random seed.
        epochs: Instead of the recipe's.
        limit: Train on at most so many images.
        resume: Go on with a training into this folder that was cut off.

    Returns:
        The model card.

    Raises:
        RecipeError: There is no such architecture, or too little to train on.
        CollapseError: The model learned nothing; nothing is written.
        ParityError: The exported files don't match the model; nothing is written.
    """
    if arch not in ARCHITECTURES:
        raise RecipeError(f"architecture {arch!r}: expected one of {', '.join(ARCHITECTURES)}")
    build, recipe = ARCHITECTURES[arch]
    recipe = replace(recipe, epochs=epochs or recipe.epochs)
    if recipe.contrast:
        recipe = replace(recipe, views=_VIEWS.get(source, "photos"))
    state = out.parent / f".{out.name}.training"
    if not resume:
        shutil.rmtree(state, ignore_errors=True)
    with Stages() as stages:
        train, held_out = (_pixels(source, split, limit, stages) for split in ("train", "test"))
        fix_seed(seed)
        autoencoder = build((28, 28, 1))
        history = fit(autoencoder, train, held_out, recipe, seed, state, stages)
    card = {
        "data": {"source": f"{source}/train", "count": len(train), "labels": "not used"},
        "arch": arch,
        "recipe": asdict(recipe),
        "seed": seed,
        "epochs": {"trained": len(history.loss), "kept": history.best},
        "metrics": {
            "test_mse": mse(autoencoder, held_out),
            "mean_image_mse": constant_mse(held_out),
            "all_black_mse": float(np.square(inputs(held_out)).mean()),
        },
        "history": {"train_loss": history.train_loss, "held_out_loss": history.loss, "held_out_mse": history.mse},
    }
    export(autoencoder, card, inputs(held_out[:_PARITY_SAMPLES]), out)
    shutil.rmtree(state, ignore_errors=True)
    written: dict[str, Any] = json.loads((out / "encoder.json").read_bytes())
    return written


def _pixels(source: str, split: str, limit: int | None, stages: Stages) -> NDArray[np.uint8]:
    items = open_source(source, split, limit)
    with stages.stage(f"reading {split}", len(items)) as advance:
        pictures = []
        for item in items:
            pictures.append(item.image)
            advance(1)
    return (normalise(pictures, (28, 28, 1)) * 255).round().astype(np.uint8)
