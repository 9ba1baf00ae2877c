"""From a source's name to an encoder's folder: which recipe goes with which architecture."""

import json
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
from training.fit import Recipe, fit, fix_seed

# A new architecture is one function in model.py and one line here.
ARCHITECTURES = {"seed": (model.seed, Recipe(epochs=30, batch=64, learning_rate=3e-3))}

_PARITY_SAMPLES = 256


def train_and_export(
    source: str, arch: str, out: Path, *, seed: int = 7, epochs: int | None = None, limit: int | None = None
) -> dict[str, Any]:
    """Train an architecture on a dataset's train split and write the encoder.

    Args:
        source: `mnist` or `fashion-mnist`.
        arch: One of `ARCHITECTURES`.
        out: Folder for the encoder.
        seed: Random seed.
        epochs: Instead of the recipe's.
        limit: Train on at most so many images.

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
    with Stages() as stages:
        train, test = (_inputs(source, split, limit, stages) for split in ("train", "test"))
        fix_seed(seed)
        autoencoder = build()
        metrics = fit(autoencoder, train, test, recipe, stages)
    card = {
        "data": {"source": f"{source}/train", "count": len(train), "labels": "not used"},
        "arch": arch,
        "recipe": {**asdict(recipe), "loss": "binary_crossentropy", "optimizer": "adam, cosine decay"},
        "seed": seed,
        "metrics": metrics,
    }
    export(autoencoder, card, test[:_PARITY_SAMPLES], out)
    written: dict[str, Any] = json.loads((out / "encoder.json").read_bytes())
    return written


def _inputs(source: str, split: str, limit: int | None, stages: Stages) -> NDArray[np.float32]:
    items = open_source(source, split, limit)
    with stages.stage(f"reading {split}", len(items)) as advance:
        pictures = []
        for item in items:
            pictures.append(item.image)
            advance(1)
    return normalise(pictures, (28, 28, 1))
