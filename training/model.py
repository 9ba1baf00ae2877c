"""Architectures of autoencoders. Comments at the ends of lines give the shape of each layer's output."""

from dataclasses import dataclass

import keras
import tensorflow as tf
from keras import layers

from encoder_service.errors import InputShapeError


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """An encoder and its decoder, trained or not.

    Attributes:
        encoder: Maps (n, h, w, c) in [0, 1] to (n, 128).
        decoder: Maps (n, 128) to (n, h, w, c) in [0, 1].
        whole: The encoder followed by the decoder, with the same weights.
        colours: Maps the same inputs as the encoder to (n, m), a description of their colours, which is not trained.
            `whiten.whitened` joins it to the code. None if the model does not describe colours.
    """

    encoder: keras.Model
    decoder: keras.Model
    whole: keras.Model
    colours: keras.Model | None = None


def seed(input_shape: tuple[int, int, int] = (28, 28, 1)) -> Autoencoder:
    """Build the convolutional autoencoder of "Building Autoencoders in Keras" (F. Chollet, blog.keras.io, 2016).

    The encoder has 1,904 parameters, and the decoder has 2,481.

    Raises:
        InputShapeError: The input shape is not (28, 28, 1), the only shape for which the article's layers fit together.
    """
    if input_shape != (28, 28, 1):
        raise InputShapeError(f"architecture seed: expected inputs of (28, 28, 1), got {input_shape}")
    image = layers.Input(input_shape)
    x = _conv(16)(image)  # (n, 28, 28, 16)
    x = _halve()(x)  # (n, 14, 14, 16)
    x = _conv(8)(x)  # (n, 14, 14, 8)
    x = _halve()(x)  # (n, 7, 7, 8)
    x = _conv(8)(x)  # (n, 7, 7, 8)
    x = _halve()(x)  # (n, 4, 4, 8)
    encoder = keras.Model(image, layers.Flatten()(x), name="encoder")  # (n, 128)

    code = layers.Input((128,))
    x = layers.Reshape((4, 4, 8))(code)  # (n, 4, 4, 8)
    x = _conv(8)(x)  # (n, 4, 4, 8)
    x = _resized(8, 8)(x)  # (n, 8, 8, 8)
    x = _conv(8)(x)  # (n, 8, 8, 8)
    x = _resized(16, 16)(x)  # (n, 16, 16, 8)
    x = _conv(16, padding="valid")(x)  # (n, 14, 14, 16)
    x = _resized(28, 28)(x)  # (n, 28, 28, 16)
    x = _conv(1, activation="sigmoid")(x)  # (n, 28, 28, 1)
    decoder = keras.Model(code, x, name="decoder")
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))


def contrastive(input_shape: tuple[int, int, int]) -> Autoencoder:
    """Build a convolutional autoencoder for contrastive training. Its codes have Euclidean length 1.

    For inputs of (28, 28, 1), the encoder has about 450,000 parameters and encodes an input in about 0.1 ms on one
    thread.

    Args:
        input_shape: (height, width, channels), with a height and width of at least 16 pixels.

    Raises:
        InputShapeError: The height or width is less than 16 pixels.
    """
    height, width, channels = input_shape
    _check_size("contrastive", height, width)
    sizes = [(height, width)]
    image = layers.Input(input_shape)
    x = image
    for filters in (32, 64):
        x = _halve()(_block(filters)(x))
        sizes.append(x.shape[1:3])
    while min(sizes[-1]) > 8:
        x = _halve()(_block(64)(x))
        sizes.append(x.shape[1:3])
    x = _block(128)(x)  # (n, 7, 7, 128) for inputs of (28, 28, 1)
    x = _block(112, strides=2)(x)  # (n, 4, 4, 112)
    smallest = x.shape[1:3]
    x = layers.Dense(128)(layers.Flatten()(x))
    encoder = keras.Model(image, layers.UnitNormalization()(x), name="encoder")  # (n, 128)

    decoder = _decoder([*sizes, smallest], channels)  # (n, 28, 28, 1)
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))


def photos(input_shape: tuple[int, int, int]) -> Autoencoder:
    """Build a convolutional autoencoder for contrastive training on photographs. Its codes have Euclidean length 1.

    The encoder uses features at each place of the image, and also the mean of each feature over all places. A part of a
    photograph has the photograph's features at other places, and the means do not depend on places. If the images have
    colours, a histogram, which is not trained, describes these separately. For inputs of (64, 64, 3), the encoder has
    about 500,000 parameters.

    Args:
        input_shape: (height, width, channels), with a height and width of at least 16 pixels.

    Raises:
        InputShapeError: The height or width is less than 16 pixels.
    """
    height, width, channels = input_shape
    _check_size("photos", height, width)
    image = layers.Input(input_shape)
    x = _block(24, strides=2)(image)  # (n, 32, 32, 24)
    sizes = [(height, width), x.shape[1:3]]
    x = _block(64, strides=2)(x)  # (n, 16, 16, 64)
    sizes.append(x.shape[1:3])
    while min(sizes[-1]) > 16:
        x = _block(64)(_halve()(x))
        sizes.append(x.shape[1:3])
    means = [layers.GlobalAveragePooling2D()(x)]
    x = _block(128)(_halve()(x))  # (n, 8, 8, 128)
    means.append(layers.GlobalAveragePooling2D()(x))
    sizes.append(x.shape[1:3])
    x = _block(112, strides=2)(x)  # (n, 4, 4, 112)
    sizes.append(x.shape[1:3])
    overall = layers.BatchNormalization(momentum=0.95)(layers.Concatenate()(means))  # (n, 192)
    x = layers.Dense(128)(layers.Concatenate()([overall, layers.Flatten()(x)]))
    encoder = keras.Model(image, layers.UnitNormalization()(x), name="encoder")  # (n, 128)
    decoder = _decoder(sizes, channels)
    whole = keras.Model(image, decoder(encoder(image)), name="autoencoder")
    return Autoencoder(encoder, decoder, whole, _colours(input_shape) if channels == 3 else None)


def _check_size(architecture: str, height: int, width: int) -> None:
    if min(height, width) < 16:
        raise InputShapeError(
            f"architecture {architecture}: expected inputs of at least 16 × 16, got {height} × {width}"
        )


def _decoder(sizes: list[tuple[int, int]], channels: int) -> keras.Model:
    """Build a decoder, which turns codes, (n, 128), into larger and larger feature maps, and finally into images.

    Args:
        sizes: (height, width) of the images, followed by those of the feature maps, largest first.
        channels: Channels of the images.
    """
    (height, width), smallest = sizes[0], sizes[-1]
    code = layers.Input((128,))
    x = layers.Dense(smallest[0] * smallest[1] * 32, use_bias=False)(code)
    x = layers.Reshape((*smallest, 32))(layers.ReLU()(_norm()(x)))  # (n, 4, 4, 32)
    for size in reversed(sizes[1:-1]):
        x = _block(32 if min(size) < 14 else 16)(_resized(*size)(x))  # (n, 7, 7, 32), (n, 14, 14, 16)
    x = layers.Conv2D(channels, 3, padding="same", activation="sigmoid")(_resized(height, width)(x))
    return keras.Model(code, x, name="decoder")


def _colours(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build a model that maps images, (n, h, w, 3), to their colour histograms, (n, 216)."""
    image = layers.Input(input_shape)
    return keras.Model(image, ColourHistogram()(layers.AveragePooling2D(2)(image)), name="colours")


class ColourHistogram(layers.Layer):
    """The square roots of a soft histogram of colours, with six levels each of red, green and blue.

    In each channel, a pixel counts toward the two nearest levels, and more toward the nearer one. Distances between
    square roots (Hellinger distances) give rare colours more weight, as in Arandjelović and Zisserman, "Three things
    everyone should know to improve object retrieval", 2012.
    """

    _LEVELS = 6

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Describe images, (n, h, w, 3) in [0, 1], by (n, 216) numbers in [0, 1]."""
        pixels = inputs.shape[1] * inputs.shape[2]
        values = tf.reshape(inputs, [-1, pixels, 3, 1]) * (self._LEVELS - 1)
        near = tf.nn.relu(1 - tf.abs(values - tf.range(self._LEVELS, dtype=inputs.dtype)))  # (n, pixels, 3, 6)
        red, green, blue = tf.unstack(near, axis=2)
        pairs = tf.reshape(red[:, :, :, None] * green[:, :, None, :], [-1, pixels, self._LEVELS**2])
        counts = tf.matmul(pairs, blue, transpose_a=True)  # (n, 36, 6)
        return tf.sqrt(tf.reshape(counts, [-1, self._LEVELS**3]) / pixels)


def _conv(filters: int, activation: str = "relu", padding: str = "same") -> keras.Layer:
    return layers.Conv2D(filters, 3, activation=activation, padding=padding)


def _halve() -> keras.Layer:
    return layers.MaxPooling2D(2, padding="same")


def _resized(height: int, width: int) -> keras.Layer:
    # UpSampling2D(2) would give the same result, but can't be exported: Keras builds it from operations that LiteRT
    # does not have.
    return layers.Resizing(height, width, interpolation="nearest")


def _block(filters: int, strides: int = 1) -> keras.Sequential:
    convolution = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)
    return keras.Sequential([convolution, _norm(), layers.ReLU()])


def _norm() -> keras.Layer:
    return FusedNormalization(momentum=0.95)


class FusedNormalization(layers.BatchNormalization):
    """Batch normalisation as one fused operation. Training on a CPU is five times as fast as with Keras's own layer.

    The result is the same, except for the moving variance, which is n / (n - 1) times Keras's: it is the sample
    variance.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Normalise a batch, (n, h, w, c), by its own mean and variance in training. Otherwise, do as Keras does."""
        if not (training and self.trainable) or len(inputs.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        empty = tf.zeros([0])
        fused = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=empty, variance=empty, epsilon=self.epsilon
        )
        for moving, batch in ((self.moving_mean, fused.batch_mean), (self.moving_variance, fused.batch_variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * batch)
        return fused.y
