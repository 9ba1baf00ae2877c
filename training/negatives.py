"""Synthetic out-of-distribution images, built from pieces of the training images and from random curves.

The decoder is trained *not* to reconstruct them. A decoder can reconstruct more than its training images: one trained
on digits has all the strokes that a letter needs. When it has learned to answer scribbles and wrongly assembled pieces
of its own images with black, it reconstructs other foreign images badly too, and their reconstruction error shows that
they are foreign. The source is Munawar et al., "Limiting the Reconstruction Capability of Generative Neural Network
Using Negative Learning", 2017.
"""

from collections.abc import Callable

import tensorflow as tf

# Largest number of curves in a scribble.
_CURVES = 4


def out_of_distribution(images: tf.Tensor) -> tf.Tensor:
    """Build out-of-distribution images, n // 6 in each of six ways.

    In order: turned by a quarter, flipped top to bottom, halves of two images joined, the two halves of one image
    exchanged, two images overlaid, and a scribble of random curves. Some results still look like the data, such as a
    flipped 8. Training on them makes the reconstruction of the real ones slightly darker.

    Args:
        images: Square, (n, h, h, c) in [0, 1], n at least 6.

    Returns:
        (6 * (n // 6), h, h, c) in [0, 1].
    """
    ways = (_rotated, _flipped, _joined, _exchanged, _overlaid, _scribbled)
    each = tf.shape(images)[0] // len(ways)
    images = tf.random.shuffle(images)
    others = tf.roll(images, 1, 0)
    parts = [slice(i * each, (i + 1) * each) for i in range(len(ways))]
    return tf.concat([way(images[part], others[part]) for way, part in zip(ways, parts, strict=True)], 0)


def _rotated(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
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


def _scribbled(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    """Draw two to four curves with one pen on black: quadratic Bézier curves, from nearly straight to round."""
    count, side = tf.shape(images)[0], images.shape[1]
    ends = tf.random.uniform([count, _CURVES, 3, 1, 2], 0.15 * side, 0.85 * side)  # start, control point, end
    t = tf.linspace(0.0, 1.0, side)[:, None]
    curve = (
        (1 - t) ** 2 * ends[:, :, 0] + 2 * t * (1 - t) * ends[:, :, 1] + t**2 * ends[:, :, 2]
    )  # (n, curves, side, 2)
    drawn = tf.random.uniform([count, 1, 1, 1], 2, _CURVES + 1, tf.int32) > tf.range(_CURVES)[:, None, None]
    points = tf.reshape(tf.where(drawn, curve, -2.0 * side), [count, 1, -1, 2])  # curves not drawn are far outside
    rows, columns = tf.meshgrid(tf.range(side, dtype=tf.float32), tf.range(side, dtype=tf.float32), indexing="ij")
    pixels = tf.reshape(tf.stack([columns, rows], -1), [1, -1, 1, 2])
    distance = tf.sqrt(tf.reduce_min(tf.reduce_sum(tf.square(pixels - points), -1), 2))  # (n, side * side)
    radius = tf.random.uniform([count, 1], 0.02, 0.06) * side
    ink = tf.clip_by_value(radius + 0.5 - distance, 0.0, 1.0)  # anti-aliased over one pixel
    return tf.tile(tf.reshape(ink, [count, side, side, 1]), [1, 1, 1, images.shape[3]])


def _either_axis(
    change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], images: tf.Tensor, others: tf.Tensor
) -> tf.Tensor:
    """Apply a change along the rows or along the columns of each image, at random."""
    along_columns = _transposed(change(_transposed(images), _transposed(others)))
    return tf.where(_coin(images), change(images, others), along_columns)


def _transposed(images: tf.Tensor) -> tf.Tensor:
    return tf.transpose(images, [0, 2, 1, 3])


def _coin(images: tf.Tensor) -> tf.Tensor:
    """Draw a random boolean for each image, (n, 1, 1, 1)."""
    return tf.random.uniform([tf.shape(images)[0], 1, 1, 1]) < 0.5
