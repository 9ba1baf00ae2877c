"""Turn a trained encoder's codes into those that are searched: whiten them partially, and add colours.

The codes of a contrastive encoder have most of their variance in a few principal directions. All other directions
contribute too little to the distances between codes. Full whitening would give all directions the same variance, but
then noise would count as much as content. Partial whitening raises the variance of each direction to a power between
1 (no change) and 0 (full whitening).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from training.fit import batches, inputs
from training.model import Autoencoder
from training.views import VIEWS, part

POWER = 0.15
"""Exponent of the variance of each principal direction: 1 changes nothing, 0 is full whitening."""
FLOOR = 1e-3
"""Variances below this fraction of the largest variance are treated as this fraction, to avoid amplifying noise."""

Change = Callable[[tf.Tensor], tf.Tensor]

# Number of training images from which the covariance is estimated: plenty for a 128-by-128 matrix, and encoded in
# seconds.
_SAMPLED = 20_000
# Size of the part of a code that describes colours, if the code has such a part.
_COLOUR_SIZE = 32
# Exponent of the variance of each principal direction of the colours.
_COLOUR_POWER = 0.5
# Values of `Whitening.power` and of `Whitening.colours` that `choose` compares.
_POWERS = (0.15, 0.3, 0.5, 0.7)
_COLOURS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
# Minimum number of changed images that `choose` searches for, and maximum number of training images to search among.
_LOOKED_FOR, _AMONG = 1000, 4000


@dataclass(frozen=True, slots=True)
class Whitening:
    """Settings of a whitening.

    Attributes:
        power: Exponent of the variance of each principal direction.
        colours: Length of the part of a code that describes colours, if the rest has length 1. 0 means no such part.
    """

    power: float = POWER
    colours: float = 0.0


def whitened(model: Autoencoder, train: NDArray[np.uint8], settings: Whitening) -> Autoencoder:
    """Return the model with a partially whitened encoder, which is frozen. Its decoder must be trained again.

    Args:
        model: Trained, with codes of length 1. If `settings.colours` is not 0, it has `colours`.
        train: (n, h, w, c) uint8, 0 to 255. The principal directions are estimated from a sample of it.
        settings: The power, and the weight of the colours.

    Returns:
        The same decoder behind a new encoder, whose codes have length 1 and the same size too.
    """
    rows, image = _spread(train, _SAMPLED), model.encoder.input
    size = model.encoder.output_shape[1]
    if not settings.colours:
        x = _even(model.encoder.output, _codes(model.encoder, train, rows), settings.power, size, "")
    else:
        assert model.colours is not None
        codes, described = _codes(model.encoder, train, rows), _codes(model.colours, train, rows)
        form = _even(model.encoder.output, codes, settings.power, size - _COLOUR_SIZE, "form_")
        colours = _even(model.colours(image), described, _COLOUR_POWER, _COLOUR_SIZE, "colour_")
        length = float(np.hypot(1, settings.colours))
        weighed = layers.Rescaling(settings.colours / length)(colours)
        x = layers.Concatenate(name="joined")([layers.Rescaling(1 / length)(form), weighed])
    encoder = keras.Model(image, x, name="encoder")
    encoder.trainable = False
    whole = keras.Model(encoder.input, model.decoder(encoder(encoder.input)), name="autoencoder")
    return Autoencoder(encoder, model.decoder, whole)


def choose(
    model: Autoencoder, train: NDArray[np.uint8], held_out: NDArray[np.uint8], views: str
) -> tuple[Whitening, float]:
    """Choose the settings with which changed images find their image most often, without labels.

    The changed images are views of held-out images, which are searched among the held-out images and some of the
    training images. With photographs, half of them are parts of held-out images, searched among other parts of the same
    images.

    Args:
        model: Trained, with codes of length 1.
        train: (n, h, w, c) uint8, 0 to 255.
        held_out: (m, h, w, c) uint8, 0 to 255, never trained on.
        views: Name of the augmentations, one of `VIEWS`.

    Returns:
        The settings, and the share of changed images whose nearest image is their own.
    """
    sample, held_out = _spread(train, _SAMPLED), held_out[:_LOOKED_FOR]
    stored = np.concatenate([held_out, train[_spread(train, _AMONG)]])
    rows = np.tile(np.arange(len(held_out)), -(-_LOOKED_FOR // len(held_out)))
    shares = {
        Whitening(power, colours): 0.0 for power in _POWERS for colours in (_COLOURS if model.colours else (0.0,))
    }
    sampled = _codes(model.encoder, train, sample)
    changes: list[tuple[Change, Change | None]] = [(lambda images: VIEWS[views].view(images)[0], None)]
    if views == "photos":
        changes.append((part, part))
    for change, change_stored in changes:
        asked, among = _changed(held_out[rows], change), _changed(stored, change_stored)
        form = [_codes(model.encoder, images) for images in (asked, among)]
        colours = np.zeros(1, np.float32)
        if model.colours:
            matrix, mean = _matrix(_codes(model.colours, train, sample), _COLOUR_POWER, _COLOUR_SIZE)
            one, other = (_unit((_codes(model.colours, images) - mean) @ matrix) for images in (asked, among))
            colours = one @ other.T
        for settings in shares:
            size = sampled.shape[1] - (_COLOUR_SIZE if settings.colours else 0)
            matrix, mean = _matrix(sampled, settings.power, size)
            one, other = (_unit((codes - mean) @ matrix) for codes in form)
            nearest = (one @ other.T + settings.colours**2 * colours).argmax(axis=1)
            shares[settings] += float((nearest == rows).mean()) / len(changes)
    return max(shares.items(), key=lambda item: item[1])


def _even(codes: Any, sample: NDArray[np.float32], power: float, size: int, name: str) -> Any:
    """Whiten a model's codes by those of a sample, keep `size` principal directions, and bring them to length 1."""
    matrix, mean = _matrix(sample, power, size)
    whitening = layers.Dense(size, name=f"{name}whitening")
    x = layers.UnitNormalization(name=f"{name}even")(whitening(codes))
    whitening.set_weights([matrix, -mean @ matrix])
    return x


def _matrix(sample: NDArray[np.float32], power: float, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrix, (m, size), and the mean, (m,), that whiten codes like those of a sample, (n, m)."""
    mean = sample.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov((sample - mean).T))  # in ascending order
    variances, directions = variances[-size:], directions[:, -size:]
    stretch = np.maximum(variances / variances.max(), FLOOR) ** ((power - 1) / 2)
    return np.asarray(directions * stretch, np.float32), np.asarray(mean, np.float32)


def _spread(images: NDArray[np.uint8], most: int) -> NDArray[np.intp]:
    """Return the rows of at most this many images, evenly from all."""
    return np.linspace(0, len(images) - 1, min(most, len(images)), dtype=int)


def _codes(model: keras.Model, images: NDArray[np.uint8], rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
    return np.concatenate([model(inputs(batch), training=False) for batch in batches(images, rows)])


def _changed(images: NDArray[np.uint8], change: Change | None) -> NDArray[np.uint8]:
    if change is None:
        return images
    changed = (change(tf.constant(inputs(batch))).numpy() for batch in batches(images))
    return np.concatenate([(views * 255).round().astype(np.uint8) for views in changed])


def _unit(codes: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(codes / np.linalg.norm(codes, axis=1, keepdims=True), np.float32)
