"""Spreading codes more evenly over their directions, after training.

A contrastive code spends most of its length on a few directions; among neighbours, the many others count for too
little. Whitening evens that out, and full whitening overdoes it: noise counts as much as content. So the spread of each
principal direction is raised to a power between 1 (nothing) and 0 (full whitening), chosen without labels.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from training.fit import inputs
from training.model import Autoencoder
from training.views import VIEWS

_POWERS = (1.0, 0.75, 0.5, 0.35, 0.25)
_SAMPLED = 20_000
_JUDGED = 2_000


def whitened(
    model: Autoencoder, train: NDArray[np.uint8], held_out: NDArray[np.uint8], views: str
) -> tuple[Autoencoder, float]:
    """Return the model with an encoder whose codes are more even, and the power that was chosen.

    The power is the one with which most distorted held-out images find their own original, by code, among the others.
    The encoder is fixed from here on; the decoder is to be trained again.

    Args:
        model: Trained; its codes have length 1, and so will the new ones.
        train: (n, h, w, c), 0 to 255; principal directions are taken from a sample of it.
        held_out: (m, h, w, c), never trained on.
        views: Name of the distortions, one of `VIEWS`.
    """
    sample = np.linspace(0, len(train) - 1, min(_SAMPLED, len(train)), dtype=int)
    codes = model.encoder.predict(inputs(train[sample]), batch_size=1024, verbose=0)
    mean = codes.mean(axis=0)
    spread, directions = np.linalg.eigh(np.cov((codes - mean).T))
    originals = tf.constant(inputs(held_out[:_JUDGED]))
    pair = [model.encoder.predict(x, batch_size=1024, verbose=0) for x in (VIEWS[views](originals)[0], originals)]

    def matrix(power: float) -> NDArray[np.float32]:
        # relative to the widest, so that directions with next to no spread stay small
        stretch = (np.maximum(spread, 1e-9) / spread.max()) ** ((power - 1) / 2)
        return np.asarray(directions * stretch, np.float32)  # (128, 128)

    power = max(_POWERS, key=lambda power: _found(*((codes - mean) @ matrix(power) for codes in pair)))
    even = layers.Dense(len(mean), name="whitening")
    x = even(model.encoder.output)
    encoder = keras.Model(model.encoder.input, layers.UnitNormalization()(x), name="encoder")
    even.set_weights([matrix(power), -mean @ matrix(power)])
    encoder.trainable = False
    whole = keras.Model(encoder.input, model.decoder(encoder(encoder.input)), name="autoencoder")
    return Autoencoder(encoder, model.decoder, whole), power


def _found(views: NDArray[np.float32], originals: NDArray[np.float32]) -> float:
    """Return which part of the views, (m, 128), is nearest to its own original."""
    views, originals = (codes / np.linalg.norm(codes, axis=1, keepdims=True) for codes in (views, originals))
    return float((np.argmax(views @ originals.T, axis=1) == np.arange(len(views))).mean())
