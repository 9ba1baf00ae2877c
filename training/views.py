"""Random augmentations: variations that the encoder should map to the same code."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True, slots=True)
class Views:
    """The augmentations for one kind of image. Both functions take images, (n, h, w, c) in [0, 1].

    Attributes:
        view: Returns a view of each image for the encoder, with noise, and the same view without noise, which the
            decoder must reconstruct. Both have the shape of the images.
        partner: Returns a second view of each image, whose code should be that of the first view. It has the shape of
            the images.
    """

    view: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    partner: Callable[[tf.Tensor], tf.Tensor]


def unchanged(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return each image as it is, twice."""
    return images, images


def digits(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bend, rotate, scale, shear and shift each image, thicken or thin its strokes, and add noise."""
    x = _bent(images, 1.0)
    x = _placed(x, degrees=20, shift=0.09, scale=0.2, shear=0.3)
    clean = _thicker_or_thinner(x)
    return _noisy(clean, 0.1), clean


def clothes(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirror, rotate, scale, shear and shift each image, change its brightness, erase a patch and add noise."""
    x = _placed(_mirrored(images), degrees=6, shift=0.09, scale=0.18, shear=0.05)
    clean = _relit(x)
    return _noisy(_patched(clean), 0.04), clean


def photos(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Vary each image as `clothes` does, but more strongly. Pixels from outside the image are reflected, not black."""
    x = _placed(_mirrored(images), degrees=8, shift=0.1, scale=0.25, shear=0.08, beyond="REFLECT")
    clean = _relit(x)
    return _noisy(_patched(clean), 0.04), clean


VIEWS: dict[str, Views] = {
    "unchanged": Views(unchanged, lambda images: images),
    "digits": Views(digits, lambda images: digits(images)[0]),
    "clothes": Views(clothes, lambda images: clothes(images)[0]),
    "photos": Views(photos, lambda images: photos(images)[0]),
}


def _each(images: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Draw one uniform random number for each image."""
    return tf.random.uniform([tf.shape(images)[0], 1, 1, 1], low, high)  # (n, 1, 1, 1)


def _placed(
    images: tf.Tensor, *, degrees: float, shift: float, scale: float, shear: float, beyond: str = "CONSTANT"
) -> tf.Tensor:
    """Transform each image by a random affine map about its centre.

    Args:
        images: (n, h, w, c).
        degrees: Maximum rotation in each direction.
        shift: Maximum shift, as a fraction of the width and of the height.
        scale: Maximum of the scaling factor's logarithm. Width and height are scaled independently.
        shear: Maximum shear factor.
        beyond: Fill mode for pixels from outside the image, as in TensorFlow's `ImageProjectiveTransformV3`:
            "CONSTANT" (black) or "REFLECT".

    Returns:
        The transformed images, (n, h, w, c).
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]

    def up_to(limit: float) -> tf.Tensor:
        return tf.random.uniform([count], -limit, limit)

    angle, wide, high = up_to(math.radians(degrees)), tf.exp(up_to(scale)), tf.exp(up_to(scale))
    slant, right, down = up_to(shear), up_to(shift * width), up_to(shift * height)
    a, b = tf.cos(angle) * wide, (slant * tf.cos(angle) - tf.sin(angle)) * high
    c, d = tf.sin(angle) * wide, (slant * tf.sin(angle) + tf.cos(angle)) * high
    x, y = (width - 1) / 2, (height - 1) / 2  # the image's centre
    zero = tf.zeros([count])
    to_source = tf.stack([a, b, x - a * x - b * y + right, c, d, y - c * x - d * y + down, zero, zero], 1)  # (n, 8)
    return _transformed(images, to_source, beyond)


def _bent(images: tf.Tensor, pixels: float) -> tf.Tensor:
    """Displace the pixels of each image along a smooth random vector field.

    The field has 4 × 4 normally distributed vectors, interpolated to the size of the image.

    Args:
        images: (n, h, w, 1). Other numbers of channels are not supported.
        pixels: Standard deviation of the vectors, in pixels.

    Returns:
        The displaced images, (n, h, w, 1).
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    field = tf.image.resize(tf.random.normal([count, 4, 4, 2], stddev=pixels), [height, width], method="bicubic")
    rows, columns = tf.meshgrid(tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32), indexing="ij")
    y = tf.clip_by_value(rows + field[..., 0], 0.0, height - 1.001)  # (n, h, w)
    x = tf.clip_by_value(columns + field[..., 1], 0.0, width - 1.001)
    top, left = tf.floor(y), tf.floor(x)
    corner = tf.reshape(tf.cast(top, tf.int32) * width + tf.cast(left, tf.int32), [count, -1])
    flat = tf.reshape(images, [count, -1])

    def at(step: int) -> tf.Tensor:
        return tf.reshape(tf.gather(flat, corner + step, batch_dims=1), tf.shape(y))

    upper = at(0) * (1 - x + left) + at(1) * (x - left)
    lower = at(width) * (1 - x + left) + at(width + 1) * (x - left)
    return (upper * (1 - y + top) + lower * (y - top))[..., None]


def _thicker_or_thinner(images: tf.Tensor) -> tf.Tensor:
    """Thicken the strokes in a quarter of the images and thin them in another quarter, each by a random amount."""
    thick = tf.nn.max_pool2d(images, 2, 1, "SAME")
    thin = -tf.nn.max_pool2d(-images, 2, 1, "SAME")
    choice, degree = _each(images, 0, 1), _each(images, 0, 1)
    changed = tf.where(choice < 0.25, thick, tf.where(choice > 0.75, thin, images))
    return degree * changed + (1 - degree) * images


def _mirrored(images: tf.Tensor) -> tf.Tensor:
    return tf.where(_each(images, 0, 1) < 0.5, images[:, :, ::-1], images)


def _transformed(images: tf.Tensor, to_source: tf.Tensor, beyond: str = "CONSTANT") -> tf.Tensor:
    """Transform images, (n, h, w, c), by projections (n, 8) from output to input pixels, as TensorFlow defines them."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=to_source,
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=beyond,
    )


def _relit(images: tf.Tensor) -> tf.Tensor:
    """Apply a random gamma and a random brightness to each image."""
    toned = tf.pow(tf.maximum(images, 1e-4), tf.exp(_each(images, -0.6, 0.6)))
    return tf.clip_by_value(toned * tf.exp(_each(images, -0.5, 0.2)), 0.0, 1.0)


def _patched(images: tf.Tensor) -> tf.Tensor:
    """In three of five images, cover a random rectangle with a random grey. Its sides are 1/7 to 3/7 of the image's."""
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]

    def span(length: int) -> tf.Tensor:
        size = tf.random.uniform([count, 1], length / 7, length * 3 / 7)
        begin = tf.random.uniform([count, 1]) * (length - size)
        position = tf.range(length, dtype=tf.float32)[None]
        return (position >= begin) & (position < begin + size)  # (n, length)

    patch = (span(height)[:, :, None] & span(width)[:, None, :])[..., None]  # (n, h, w, 1)
    return tf.where(patch & (_each(images, 0, 1) < 0.6), _each(images, 0, 1), images)


def _noisy(images: tf.Tensor, deviation: float) -> tf.Tensor:
    return tf.clip_by_value(images + tf.random.normal(tf.shape(images), stddev=deviation), 0.0, 1.0)
