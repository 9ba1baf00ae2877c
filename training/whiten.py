"""Turn a trained encoder's codes into those that are searched: whiten them, and add colours.

The codes of a contrastive encoder have most of their variance in a few principal directions. All other directions
contribute too little to the distances between codes. Full whitening would give all directions the same variance, but
then noise would count as much as content. Partial whitening raises the variance of each direction to a power between
1 (no change) and 0 (full whitening).

Local whitening is a second step: it gives the *differences between neighbours* the same variance in all directions.
Directions in which images of the same kind differ then count less, and those that tell kinds apart count more. This is
the relevant component analysis of Bar-Hillel et al., "Learning a Mahalanobis Metric from Equivalence Constraints",
2005, with mutual nearest neighbours for the pairs of images that are known to be of the same kind.
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
# Number of training images among which local whitening looks for neighbours: the more, the more alike they are. The
# search for the neighbours of 60,000 takes 20 s on two cores.
_PAIRED = 60_000
# Two images are mutual neighbours if each is among this many nearest images of the other.
_NEIGHBOURS = 5
# Minimum number of training images for local whitening. Fewer have too few mutual neighbours for a 128-by-128 matrix.
_MIN_LOCAL = 2000
# Size of the part of a code that describes colours, if the code has such a part.
_COLOUR_SIZE = 32
# Exponent of the variance of each principal direction of the colours.
_COLOUR_POWER = 0.5
# Values of `Whitening.power` and of `Whitening.colours` that `choose` compares.
_POWERS = (0.15, 0.3, 0.5, 0.7)
_COLOURS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
# A changed image finds its original if fewer other images than this are nearer. With 1, a folder in which photographs
# come in series would be judged by which image of a series is nearest.
_FOUND = 5
# Minimum number of changed images that `choose` searches for, and maximum number of training images to search among.
_LOOKED_FOR, _AMONG = 1000, 4000


@dataclass(frozen=True, slots=True)
class Whitening:
    """Settings of a whitening.

    Attributes:
        power: Exponent of the variance of each principal direction.
        colours: Length of the part of a code that describes colours, if the rest has length 1. 0 means no such part.
        local: Whether local whitening follows. It can't be combined with colours.
    """

    power: float = POWER
    colours: float = 0.0
    local: bool = False


def whitened(model: Autoencoder, train: NDArray[np.uint8], settings: Whitening) -> Autoencoder:
    """Return the model with a whitened encoder, which is frozen. Its decoder must be trained again.

    Args:
        model: Trained, with codes of length 1. Its `colours` must not be None unless `settings.colours` is 0.
        train: (n, h, w, c) uint8, 0 to 255. The principal directions are estimated from a sample of it.
        settings: The power, the weight of the colours, and whether local whitening follows.

    Returns:
        A model of a new encoder and the same decoder. The new codes have length 1 and the same size as the old ones.
    """
    rows, image = _spread(train, _PAIRED if settings.local else _SAMPLED), model.encoder.input
    size = model.encoder.output_shape[1]
    if not settings.colours:
        matrix, mean = _matrix(_codes(model.encoder, train, rows), settings.power, size, settings.local)
        x = _even(model.encoder.output, matrix, mean, "")
    else:
        assert model.colours is not None
        codes, described = _codes(model.encoder, train, rows), _codes(model.colours, train, rows)
        form = _even(model.encoder.output, *_matrix(codes, settings.power, size - _COLOUR_SIZE), "form_")
        colours = _even(model.colours(image), *_matrix(described, _COLOUR_POWER, _COLOUR_SIZE), "colour_")
        length = float(np.hypot(1, settings.colours))
        weighed = layers.Rescaling(settings.colours / length)(colours)
        x = layers.Concatenate(name="joined")([layers.Rescaling(1 / length)(form), weighed])
    encoder = keras.Model(image, x, name="encoder")
    encoder.trainable = False
    whole = keras.Model(encoder.input, model.decoder(encoder(encoder.input)), name="autoencoder")
    return Autoencoder(encoder, model.decoder, whole)


def choose(
    model: Autoencoder, train: NDArray[np.uint8], held_out: NDArray[np.uint8], views: str, *, local: bool = False
) -> tuple[Whitening, float]:
    """Choose the settings with which most changed images find their original among the five nearest, without labels.

    The changed images are views of held-out images. They are searched for among the held-out images and some of the
    training images. For the views `photos`, there is a second test of equal weight: the changed images are parts of
    held-out images, and the images that are searched are parts of the same held-out and training images.

    Args:
        model: Trained, with codes of length 1.
        train: (n, h, w, c) uint8, 0 to 255.
        held_out: (m, h, w, c) uint8, 0 to 255, never trained on.
        views: Name of the augmentations, one of `VIEWS`.
        local: Whether to whiten locally, if there are at least 2,000 training images. Then there is no choice, and the
            power is `POWER`.

    Returns:
        The settings, and the share of changed images that find their original.
    """
    local = local and len(train) >= _MIN_LOCAL
    sample, held_out = _spread(train, _PAIRED if local else _SAMPLED), held_out[:_LOOKED_FOR]
    stored = np.concatenate([held_out, train[_spread(train, _AMONG)]])
    rows = np.tile(np.arange(len(held_out)), -(-_LOOKED_FOR // len(held_out)))
    powers, weights = (POWER,) if local else _POWERS, _COLOURS if model.colours and not local else (0.0,)
    shares = {Whitening(power, colours, local): 0.0 for power in powers for colours in weights}
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
            matrix, mean = _matrix(sampled, settings.power, size, local)
            one, other = (_unit((codes - mean) @ matrix) for codes in form)
            likeness = one @ other.T + settings.colours**2 * colours
            own = likeness[np.arange(len(rows)), rows]
            is_found = (likeness > own[:, None]).sum(axis=1) < _FOUND
            shares[settings] += float(is_found.mean()) / len(changes)
    return max(shares.items(), key=lambda item: item[1])


def _even(codes: Any, matrix: NDArray[np.float32], mean: NDArray[np.float32], name: str) -> Any:
    """Add layers that whiten the output of a model, (n, m), and scale the result to length 1.

    Args:
        codes: The output of a model, (n, m).
        matrix: The whitening, (m, size).
        mean: The mean of the model's codes, (m,).
        name: Prefix of the layers' names.
    """
    whitening = layers.Dense(matrix.shape[1], name=f"{name}whitening")
    x = layers.UnitNormalization(name=f"{name}even")(whitening(codes))
    whitening.set_weights([matrix, -mean @ matrix])
    return x


def _matrix(
    sample: NDArray[np.float32], power: float, size: int, local: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrix, (m, size), and the mean, (m,), that whiten codes like those of a sample.

    Args:
        sample: Codes, (n, m).
        power: Exponent of the variance of each principal direction.
        size: Number of principal directions to keep, those with the largest variance.
        local: Whether local whitening follows.
    """
    mean = sample.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov((sample - mean).T))  # in ascending order
    variances, directions = variances[-size:], directions[:, -size:]
    stretch = np.maximum(variances / variances.max(), FLOOR) ** ((power - 1) / 2)
    matrix = directions * stretch
    if local:
        matrix = matrix @ _local(_unit((sample - mean) @ matrix))
    return np.asarray(matrix, np.float32), np.asarray(mean, np.float32)


def _local(codes: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return the matrix of a local whitening, (m, m), estimated on n codes, (n, m), of length 1."""
    own = np.arange(len(codes))[:, None]
    nearest = np.concatenate(
        [
            tf.math.top_k(tf.matmul(part, codes, transpose_b=True), min(_NEIGHBOURS + 1, len(codes))).indices
            for part in np.array_split(codes, -(-len(codes) // 512))
        ]
    )  # (n, 6), with the image itself
    is_mutual = (nearest[nearest] == own[:, :, None]).any(axis=2) & (nearest != own)
    rows, columns = np.nonzero(is_mutual)
    differences = codes[rows] - codes[nearest[rows, columns]]
    variances, directions = np.linalg.eigh(differences.T @ differences / max(len(rows), 1))
    most = max(variances.max(), 1e-12)  # 0 if all neighbours are equal
    return np.asarray((directions * np.maximum(variances / most, FLOOR) ** -0.5) @ directions.T)


def _spread(images: NDArray[np.uint8], most: int) -> NDArray[np.intp]:
    """Return the indices of at most `most` images, evenly spaced."""
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
