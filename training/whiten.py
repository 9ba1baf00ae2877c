"""Partial whitening of codes after training.

A contrastive code has most of its variance in a few principal directions, so the many others contribute too little to
the distance between neighbours. Full whitening overcorrects: noise then counts as much as content. Partial whitening
raises the variance of each principal direction to a power between 1 (no change) and 0 (full whitening).
"""

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from training.fit import batches, inputs
from training.model import Autoencoder

POWER = 0.15
"""Exponent of the variance of each principal direction: 1 changes nothing, 0 is full whitening."""
FLOOR = 1e-3
"""Floor on a direction's variance relative to the widest, so near-constant directions are not amplified into noise."""

# Training images from which the covariance is estimated: plenty for a 128-by-128 matrix, and encoded in seconds.
_SAMPLED = 20_000


def whitened(model: Autoencoder, train: NDArray[np.uint8]) -> Autoencoder:
    """Return the model with a partially whitened encoder, which is frozen. Its decoder must be trained again.

    Args:
        model: Trained, with codes of length 1.
        train: (n, h, w, c) uint8, 0 to 255. The principal directions are estimated from a sample of it.

    Returns:
        The same decoder behind a new encoder, whose codes have length 1 too.
    """
    rows = np.linspace(0, len(train) - 1, min(_SAMPLED, len(train)), dtype=int)
    codes = np.concatenate([model.encoder(inputs(batch), training=False) for batch in batches(train, rows)])
    mean = codes.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov((codes - mean).T))
    stretch = np.maximum(variances / variances.max(), FLOOR) ** ((POWER - 1) / 2)
    matrix = np.asarray(directions * stretch, np.float32)  # (128, 128)
    even = layers.Dense(len(mean), name="whitening")
    x = even(model.encoder.output)
    encoder = keras.Model(model.encoder.input, layers.UnitNormalization(name="even")(x), name="encoder")
    even.set_weights([matrix, -mean @ matrix])
    encoder.trainable = False
    whole = keras.Model(encoder.input, model.decoder(encoder(encoder.input)), name="autoencoder")
    return Autoencoder(encoder, model.decoder, whole)
