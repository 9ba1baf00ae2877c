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
    """

    encoder: keras.Model
    decoder: keras.Model
    whole: keras.Model


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
    if min(height, width) < 16:
        raise InputShapeError(f"architecture contrastive: expected inputs of at least 16 × 16, got {height} × {width}")
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

    code = layers.Input((128,))
    x = layers.Dense(smallest[0] * smallest[1] * 32, use_bias=False)(code)
    x = layers.Reshape((*smallest, 32))(layers.ReLU()(_norm()(x)))  # (n, 4, 4, 32)
    for size in reversed(sizes[1:]):
        x = _block(32 if min(size) < 14 else 16)(_resized(*size)(x))  # (n, 7, 7, 32), (n, 14, 14, 16)
    x = layers.Conv2D(channels, 3, padding="same", activation="sigmoid")(_resized(height, width)(x))
    decoder = keras.Model(code, x, name="decoder")  # (n, 28, 28, 1)
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))


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
