"""Build synthetic out-of-distribution images from pieces of the training images.

A search flags queries with a large reconstruction error as unusual. But a decoder also reconstructs images that are
unlike its training images: a decoder of digits knows all the strokes of letters. So the decoder is trained to answer
images of wrongly assembled pieces with black. It then reconstructs other out-of-distribution images badly too, and
their error becomes large. The method is from Munawar et al., "Limiting the Reconstruction Capability of Generative
Neural Network Using Negative Learning", 2017.
"""

from collections.abc import Callable

import tensorflow as tf


def out_of_distribution(images: tf.Tensor) -> tf.Tensor:
    """Build out-of-distribution images in five ways, n // 5 images in each.

    The ways are, in this order: rotate an image by 90°, flip it top to bottom, join halves of two images, exchange the
    halves of one image, and overlay two images. Some results still look like the training images, such as a flipped 8.
    Training on these makes the reconstructions of real images slightly darker.

    Args:
        images: Square training images, (n, h, h, c) in [0, 1], with n at least 5.

    Returns:
        (5 * (n // 5), h, h, c) in [0, 1].
    """
    ways = (_rotated, _flipped, _joined, _exchanged, _overlaid)
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
