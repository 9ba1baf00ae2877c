"""The architectures, each as an encoder and a decoder, with shapes at the line ends."""

from dataclasses import dataclass

import keras
from keras import layers

from encoder_service.errors import InputShapeError


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """An encoder and a decoder that have yet to learn, or have.

    Attributes:
        encoder: (n, h, w, c) in [0, 1] to (n, 128).
        decoder: (n, 128) to (n, h, w, c) in [0, 1].
        whole: One after the other.
    """

    encoder: keras.Model
    decoder: keras.Model
    whole: keras.Model


def seed(input_shape: tuple[int, int, int] = (28, 28, 1)) -> Autoencoder:
    """Build the article's autoencoder to the letter: 1,904 parameters to encode, 2,481 to decode.

    The source is "Building Autoencoders in Keras" (François Chollet, blog.keras.io, 2016), the convolutional one.

    Raises:
        InputShapeError: The input is not (28, 28, 1), the only shape it is made for.
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
    x = _resized(8)(x)  # (n, 8, 8, 8)
    x = _conv(8)(x)  # (n, 8, 8, 8)
    x = _resized(16)(x)  # (n, 16, 16, 8)
    x = _conv(16, padding="valid")(x)  # (n, 14, 14, 16)
    x = _resized(28)(x)  # (n, 28, 28, 16)
    x = _conv(1, activation="sigmoid")(x)  # (n, 28, 28, 1)
    decoder = keras.Model(code, x, name="decoder")
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))


def _conv(filters: int, activation: str = "relu", padding: str = "same") -> keras.Layer:
    return layers.Conv2D(filters, 3, activation=activation, padding=padding)


def _halve() -> keras.Layer:
    return layers.MaxPooling2D(2, padding="same")


def _resized(size: int) -> keras.Layer:
    # UpSampling2D(2) gives the same and can't be exported: Keras makes it of steps that LiteRT does not have.
    return layers.Resizing(size, size, interpolation="nearest")
