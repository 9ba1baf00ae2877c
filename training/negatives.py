"""Synthetic out-of-distribution images, built from pieces of the training images.

The decoder is trained *not* to reconstruct them. A decoder can reconstruct more than its training images: one trained
on digits has all the strokes that a letter needs. After it has learned to answer wrongly assembled pieces of its own
images with black, it reconstructs other foreign images badly too, and their reconstruction error shows that they are
foreign. The source is Munawar et al., "Limiting the Reconstruction Capability of Generative Neural Network Using
Negative Learning", 2017.
"""

from collections.abc import Callable

import tensorflow as tf


def out_of_distribution(images: tf.Tensor) -> tf.Tensor:
    """Build out-of-distribution images, n // 5 in each of five ways.

    In order: turned by a quarter, flipped top to bottom, halves of two images joined, the two halves of one image
    exchanged, two images overlaid. Some results still look like the data, such as a flipped 8. Training on them makes
    the reconstruction of the real ones slightly darker.

    Args:
        images: Square, (n, h, h, c) in [0, 1], n at least 5.

    Returns:
        (5 * (n // 5), h, h, c) in [0, 1].
    """
    ways = (_turned, _flipped, _joined, _exchanged, _overlaid)
    each = tf.shape(images)[0] // len(ways)
    images = tf.random.shuffle(images)
    others = tf.roll(images, 1, 0)
    parts = [slice(i * each, (i + 1) * each) for i in range(len(ways))]
    return tf.concat([way(images[part], others[part]) for way, part in zip(ways, parts, strict=True)], 0)


def _turned(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    transposed = _transposed(images)
    return tf.where(_coin(images), transposed[:, ::-1], transposed[:, :, ::-1])


def _flipped(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return images[:, ::-1]


def _joined(images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    middle = images.shape[1] // 2
    return _either_axis(lambda x, y: tf.concat([x[:, :middle], y[:, middle:]], 1), images, others)


def _exchanged(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return _either_axis(lambda x, _: tf.roll(x, images.shape[1] // 2, 1), images, images)


def _overlaid(images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    return tf.maximum(images, others)


def _either_axis(
    change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], images: tf.Tensor, others: tf.Tensor
) -> tf.Tensor:
    """Apply a change along the rows to a random half of the images, and along the columns to the others."""
    along_columns = _transposed(change(_transposed(images), _transposed(others)))
    return tf.where(_coin(images), change(images, others), along_columns)


def _transposed(images: tf.Tensor) -> tf.Tensor:
    return tf.transpose(images, [0, 2, 1, 3])


def _coin(images: tf.Tensor) -> tf.Tensor:
    """Toss a coin for each image: (n, 1, 1, 1), bool."""
    return tf.random.uniform([tf.shape(images)[0], 1, 1, 1]) < 0.5
