"""Weights to start a training from, in the file start.npz beside an encoder's other files.

LiteRT's files can't be trained further: their encoders are whitened, and their layers are merged. The weights here are
those of the model before it was whitened, rounded to 16 bits to halve the file.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.model import Autoencoder

_FILE = "start.npz"


def save(folder: Path, weights: list[NDArray[np.float32]]) -> None:
    """Write the weights of an autoencoder, as `keras.Model.get_weights` returns them, to an encoder's folder."""
    np.savez_compressed(folder / _FILE, *(array.astype(np.float16) for array in weights))


def load(folder: Path, model: Autoencoder) -> bool:
    """Give a new model the weights in an encoder's folder.

    Returns:
        False, with the model unchanged, if the folder has no such weights, or has those of another architecture.
    """
    if not (folder / _FILE).exists():
        return False
    with np.load(folder / _FILE) as file:
        weights = [file[name].astype(np.float32) for name in file.files]
    if [array.shape for array in weights] != [array.shape for array in model.whole.get_weights()]:
        return False
    model.whole.set_weights(weights)
    return True
