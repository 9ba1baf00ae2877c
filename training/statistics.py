"""Estimate the statistics of batch normalisation again, on images as they are.

During training, an encoder sees only distorted images, so its moving averages describe distorted images. Searches are
for undistorted images. With the statistics of undistorted images, precision@5 on MNIST rises by about 0.001.
"""

from collections.abc import Iterator

import keras
import numpy as np
from numpy.typing import NDArray

from training.fit import batches, inputs
from training.model import FusedNormalization

# Number of images for the estimate: 80 batches.
_SAMPLED = 20_480


def reestimate(encoder: keras.Model, images: NDArray[np.uint8], seed: int) -> None:
    """Replace the moving averages of an encoder by the means over batches of images.

    Args:
        encoder: A trained encoder. It is changed in place.
        images: (n, h, w, c) uint8, 0 to 255. A random sample of them is used.
        seed: Seed of the sample.
    """
    rows = np.random.default_rng(seed).permutation(len(images))[:_SAMPLED]
    layers = list(_normalisations(encoder))
    momentums = [layer.momentum for layer in layers]
    for count, batch in enumerate(batches(images, rows)):
        for layer in layers:
            layer.momentum = count / (count + 1)  # each batch has the same weight
        encoder(inputs(batch), training=True)
    for layer, momentum in zip(layers, momentums, strict=True):
        layer.momentum = momentum


def _normalisations(model: keras.Model) -> Iterator[FusedNormalization]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _normalisations(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer
