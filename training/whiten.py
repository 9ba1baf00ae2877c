"""Spreading codes more evenly over their directions, after training.

A contrastive code spends most of its length on a few directions; among neighbours, the many others count for too
little. Whitening evens that out, and full whitening overdoes it: noise counts as much as content. So the spread of each
principal direction is raised to a power between 1 (nothing) and 0 (full whitening).
"""

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from training.fit import batches, inputs
from training.model import Autoencoder

POWER = 0.15
"""What a principal direction's spread is raised to."""

# A direction with less than this part of the widest one's spread is left as narrow as one that has it.
_FLOOR = 1e-3
_SAMPLED = 20_000


def whitened(model: Autoencoder, train: NDArray[np.uint8]) -> Autoencoder:
    """Return the model with an encoder whose codes are more even.

    The encoder is fixed from here on; the decoder is to be trained again.

    Args:
        model: Trained; its codes have length 1, and so will the new ones.
        train: (n, h, w, c), 0 to 255; principal directions are taken from a sample of it.
    """
    rows = np.linspace(0, len(train) - 1, min(_SAMPLED, len(train)), dtype=int)
    codes = np.concatenate([model.encoder(inputs(batch), training=False) for batch in batches(train, rows)])
    mean = codes.mean(axis=0)
    spread, directions = np.linalg.eigh(np.cov((codes - mean).T))
    stretch = np.maximum(spread / spread.max(), _FLOOR) ** ((POWER - 1) / 2)
    matrix = np.asarray(directions * stretch, np.float32)  # (128, 128)
    even = layers.Dense(len(mean), name="whitening")
    x = even(model.encoder.output)
    encoder = keras.Model(model.encoder.input, layers.UnitNormalization(name="even")(x), name="encoder")
    even.set_weights([matrix, -mean @ matrix])
    encoder.trainable = False
    whole = keras.Model(encoder.input, model.decoder(encoder(encoder.input)), name="autoencoder")
    return Autoencoder(encoder, model.decoder, whole)
