"""Pictures that are like none of the data, made of nothing else: what a decoder is to learn not to give back.

A decoder gives back more than it was taught: one of digits has all the strokes for a letter. When it is taught to
answer pieces of its own images, wrongly put together, with nothing, it leaves out other pictures too, and their error
shows it. The source is Munawar et al., "Limiting the Reconstruction Capability of Generative Neural Network Using
Negative Learning", 2017.
"""

from collections.abc import Callable

import tensorflow as tf


def strange(images: tf.Tensor) -> tf.Tensor:
    """Make of square images, (n, h, h, c), n at least 5, about as many that are none: n // 5 in each of five ways.

    A quarter of a turn, flipped top to bottom, halves of two joined, halves exchanged, one laid over another. Some
    stay what they were, such as a flipped 8: what is given back of those fades a little.
    """
    ways = (_turned, _flipped, _joined, _exchanged, _overlaid)
    each = tf.shape(images)[0] // len(ways)
    images = tf.random.shuffle(images)
    others = tf.roll(images, 1, 0)
    parts = [slice(i * each, (i + 1) * each) for i in range(len(ways))]
    return tf.concat([way(images[part], others[part]) for way, part in zip(ways, parts, strict=True)], 0)


def _turned(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    turned = _transposed(images)
    return tf.where(_half_of(images), turned[:, ::-1], turned[:, :, ::-1])


def _flipped(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return images[:, ::-1]


def _joined(images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    middle = images.shape[1] // 2
    return _either_way(lambda x, y: tf.concat([x[:, :middle], y[:, middle:]], 1), images, others)


def _exchanged(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return _either_way(lambda x, _: tf.roll(x, images.shape[1] // 2, 1), images, images)


def _overlaid(images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    return tf.maximum(images, others)


def _either_way(change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Change half of the images from top to bottom and the others from left to right."""
    sideways = _transposed(change(_transposed(images), _transposed(others)))
    return tf.where(_half_of(images), change(images, others), sideways)


def _transposed(images: tf.Tensor) -> tf.Tensor:
    return tf.transpose(images, [0, 2, 1, 3])


def _half_of(images: tf.Tensor) -> tf.Tensor:
    return tf.random.uniform([tf.shape(images)[0], 1, 1, 1]) < 0.5
