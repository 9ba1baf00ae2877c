"""Partially whiten the codes of a trained encoder.

The codes of a contrastive encoder have most of their variance in a few principal directions. All other directions
contribute too little to the distances between codes. Full whitening would give all directions the same variance, but
then noise would count as much as content. Partial whitening raises the variance of each direction to a power between
1 (no change) and 0 (full whitening).
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
"""Variances below this fraction of the largest variance are treated as this fraction, to avoid amplifying noise."""

# Number of training images from which the covariance is estimated: plenty for a 128-by-128 matrix, and encoded in
# seconds.
_SAMPLED = 20_000


def whitened(model: Autoencoder, train: NDArray[np.uint8]) -> Autoencoder:
    """Partially whiten the codes of a model's encoder. The decoder must then be trained again.

    Args:
        model: A trained model, whose codes have length 1.
        train: Training images, (n, h, w, c) uint8, 0 to 255. The principal directions are estimated from a sample.

    Returns:
        A model with a new encoder, whose codes have length 1 too and whose weights are frozen, and the same decoder.
    """
    rows = np.linspace(0, len(train) - 1, min(_SAMPLED, len(train)), dtype=int)
    codes = np.concatenate([model.encoder(inputs(batch), training=False) for batch in batches(train, rows)])
    mean = codes.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov((codes - mean).T))
    stretch = np.maximum(variances / variances.max(), FLOOR) ** ((POWER - 1) / 2)
    matrix = np.asarray(directions * stretch, np.float32)  # (128, 128)
    whitening = layers.Dense(len(mean), name="whitening")
    x = whitening(model.encoder.output)
    encoder = keras.Model(model.encoder.input, layers.UnitNormalization(name="even")(x), name="encoder")
    whitening.set_weights([matrix, -mean @ matrix])
    encoder.trainable = False
    whole = keras.Model(encoder.input, model.decoder(encoder(encoder.input)), name="autoencoder")
    return Autoencoder(encoder, model.decoder, whole)
