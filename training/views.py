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
    """Return the images unchanged, both as the views to encode and as the images to reconstruct."""
    return images, images


def digits(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bend, rotate, scale, shear and shift each image, thicken or thin its strokes, and add noise."""
    x = _bent(images, 1.0)
    x = _placed(x, degrees=20, shift=0.045, scale=0.2, shear=0.3)
    clean = _thicker_or_thinner(x)
    return _noisy(clean, 0.1), clean


def clothes(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirror, rotate, scale, shear and shift each image a little, change its brightness much and erase a patch."""
    x = _placed(_mirrored(images), degrees=3, shift=0.045, scale=0.09, shear=0.025)
    clean = _relit(x, gamma=0.9, darker=0.9, brighter=0.3)
    return _patched(clean), clean


def photos(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Alter each image as copies of photographs are altered, and continue it at its edges by reflection.

    An image is mirrored, cropped to 50 to 105 % of its sides, turned, and made lighter or darker. Many images are put
    between bars, lose their colours or have them changed, are blurred like a strongly compressed JPEG, captioned,
    patched or made noisy.
    """
    x = _between_bars(images, 0.1, 0.5, 1.05)
    x = _relit(_recoloured(x, 0.7), gamma=0.6, darker=0.5, brighter=0.2)
    clean = _captioned(x, 0.12)
    noise = tf.maximum(_each(images, -0.06, 0.06), 0.0)  # none in half of the images
    return _noisy(_patched(_blurred(clean, 0.3), 0.3), noise), clean


def _photo_parts(images: tf.Tensor) -> tf.Tensor:
    """Mirror, crop and turn each image a little. Its brightness and colours do not change."""
    return _part(images, 0.6, 1.04)


VIEWS: dict[str, Views] = {
    "unchanged": Views(unchanged, lambda images: images),
    "digits": Views(digits, lambda images: digits(images)[0]),
    "clothes": Views(clothes, lambda images: clothes(images)[0]),
    "photos": Views(photos, _photo_parts),
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


def _relit(images: tf.Tensor, *, gamma: float, darker: float, brighter: float) -> tf.Tensor:
    """Apply a random gamma and a random brightness to each image.

    Args:
        images: (n, h, w, c).
        gamma: Maximum of the absolute value of gamma's logarithm.
        darker: Maximum of the absolute value of the brightness factor's logarithm, where the factor is below 1.
        brighter: Maximum of the brightness factor's logarithm.

    Returns:
        The images with other brightness, (n, h, w, c) in [0, 1].
    """
    toned = tf.pow(tf.maximum(images, 1e-4), tf.exp(_each(images, -gamma, gamma)))
    return tf.clip_by_value(toned * tf.exp(_each(images, -darker, brighter)), 0.0, 1.0)


def _patched(images: tf.Tensor, share: float = 0.6) -> tf.Tensor:
    """Cover a random rectangle in a share of the images with a random grey. Its sides are 1/7 to 3/7 of the image's."""
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]

    def span(length: int) -> tf.Tensor:
        size = tf.random.uniform([count, 1], length / 7, length * 3 / 7)
        begin = tf.random.uniform([count, 1]) * (length - size)
        position = tf.range(length, dtype=tf.float32)[None]
        return (position >= begin) & (position < begin + size)  # (n, length)

    patch = (span(height)[:, :, None] & span(width)[:, None, :])[..., None]  # (n, h, w, 1)
    return tf.where(patch & (_each(images, 0, 1) < share), _each(images, 0, 1), images)


def _noisy(images: tf.Tensor, deviation: float | tf.Tensor) -> tf.Tensor:
    """Add normally distributed noise, with one standard deviation for all images, or one for each, (n, 1, 1, 1)."""
    return tf.clip_by_value(images + deviation * tf.random.normal(tf.shape(images)), 0.0, 1.0)


def part(images: tf.Tensor) -> tf.Tensor:
    """Return a random part of each image, (n, h, w, c), of 40 to 70 % of its sides. Its colours do not change."""
    return _part(images, 0.4, 0.7)


def _part(images: tf.Tensor, least: float, most: float) -> tf.Tensor:
    """Mirror half of the images, crop each to `least` to `most` of its sides, and turn half of them by up to 8°."""
    return _transformed(images, _to_part(images, _drawn(images, least, most), _unturned(images)), "REFLECT")


def _between_bars(images: tf.Tensor, share: float, least: float, most: float) -> tf.Tensor:
    """Crop as `_part` does, but show a share of the images almost whole, with black or white bars or borders."""
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    barred = tf.random.uniform([count]) < share
    kind, border, between = (tf.random.uniform([count], *limits) for limits in ((0.0, 3.0), (0.8, 0.97), (0.6, 0.95)))
    one = tf.ones([count])
    across = tf.where(barred, tf.where(kind < 1, border, tf.where(kind < 2, between, one)), one)  # of the view's width
    down = tf.where(barred, tf.where(kind < 1, border, tf.where(kind < 2, one, between)), one)
    whole = tf.random.uniform([count], 0.85, 1.0)
    side = tf.where(barred, whole, _drawn(images, least, most))
    angle = tf.where(barred, 0.0, _unturned(images))
    x = _transformed(images, _to_part(images, side, angle, across, down), "REFLECT")

    def inside(length: int, filled: tf.Tensor) -> tf.Tensor:
        away = tf.abs(tf.range(length, dtype=tf.float32) - (length - 1) / 2) * 2 / length
        return away[None] <= filled[:, None]  # (n, length)

    shown = inside(height, down)[:, :, None] & inside(width, across)[:, None, :]
    return tf.where(shown[..., None], x, tf.cast(_each(images, 0, 1) < 0.35, tf.float32))


def _drawn(images: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return tf.random.uniform([tf.shape(images)[0]], low, high)


def _unturned(images: tf.Tensor) -> tf.Tensor:
    """Draw an angle of up to 8° for half of the images, in radians, and 0 for the others."""
    return tf.where(_drawn(images, 0, 1) < 0.5, _drawn(images, -math.radians(8), math.radians(8)), 0.0)


def _to_part(
    images: tf.Tensor,
    side: tf.Tensor,
    angle: tf.Tensor,
    across: tf.Tensor | float = 1.0,
    down: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """Return projections, (n, 8), to random parts of images, half of them mirrored.

    Args:
        images: (n, h, w, c).
        side: Sides of the part, as a fraction of the image's, (n,). The part's aspect ratio differs from the image's by
            a random factor of up to e^0.3.
        angle: Rotations in radians, (n,).
        across: Fraction of the view's width that the part takes up, (n,); the part lies in the middle.
        down: Fraction of the view's height that the part takes up, (n,).
    """
    height, width = images.shape[1], images.shape[2]
    proportions = tf.exp(_drawn(images, -0.15, 0.15))
    wide, tall = side * proportions, side / proportions
    # a part may reach 3 % beyond the image
    right = _drawn(images, -1, 1) * (tf.maximum(1 - wide, 0.0) / 2 + 0.03) * width
    below = _drawn(images, -1, 1) * (tf.maximum(1 - tall, 0.0) / 2 + 0.03) * height
    slant, flip = _drawn(images, -0.05, 0.05), tf.where(_drawn(images, 0, 1) < 0.5, -1.0, 1.0)
    wide, tall = flip * wide / across, tall / down
    a, b = tf.cos(angle) * wide, (slant * tf.cos(angle) - tf.sin(angle)) * tall
    c, d = tf.sin(angle) * wide, (slant * tf.sin(angle) + tf.cos(angle)) * tall
    x, y = (width - 1) / 2, (height - 1) / 2
    zero = tf.zeros_like(side)
    return tf.stack([a, b, x - a * x - b * y + right, c, d, y - c * x - d * y + below, zero, zero], 1)


def _recoloured(images: tf.Tensor, share: float) -> tf.Tensor:
    """Change the colours of a share of the images: hue by up to 26°, saturation by 0.5 to 1.6, and a tint of up to 6 %.

    Four in ten of the changed images lose their colours altogether. Grey images, (n, h, w, 1), stay as they are.
    """
    if images.shape[3] == 1:
        return images
    count = tf.shape(images)[0]
    turn = _drawn(images, -0.45, 0.45)
    cosine, sine = tf.cos(turn), tf.sin(turn) * math.sqrt(1 / 3)
    same, next_, last = cosine + (1 - cosine) / 3, (1 - cosine) / 3 - sine, (1 - cosine) / 3 + sine
    # rotations about the grey axis
    hue = tf.stack([tf.stack(row, -1) for row in ((same, next_, last), (last, same, next_), (next_, last, same))], 1)
    vivid = tf.exp(_drawn(images, math.log(0.5), math.log(1.6)))
    vivid = tf.where(_drawn(images, 0, 1) < 0.4, 0.0, vivid)[:, None, None]
    grey = tf.ones([3, 1]) * tf.constant([[0.299, 0.587, 0.114]])
    tint = tf.exp(tf.random.uniform([count, 3, 1], -0.06, 0.06))
    matrix = tint * tf.matmul(vivid * tf.eye(3) + (1 - vivid) * grey, hue)  # (n, 3, 3)
    pixels = tf.matmul(tf.reshape(images, [count, -1, 3]), matrix, transpose_b=True)
    changed = tf.clip_by_value(tf.reshape(pixels, tf.shape(images)), 0.0, 1.0)
    return tf.where(_each(images, 0, 1) < share, changed, images)


def _captioned(images: tf.Tensor, share: float) -> tf.Tensor:
    """Cover a strip at the bottom of a share of the images, 8 to 22 % of the height, with black or white."""
    rows = tf.range(images.shape[1], dtype=tf.float32) / images.shape[1]
    below = (rows[None, :, None, None] > _each(images, 0.78, 0.92)) & (_each(images, 0, 1) < share)
    return tf.where(below, tf.cast(_each(images, 0, 1) < 0.3, tf.float32), images)


def _blurred(images: tf.Tensor, share: float) -> tf.Tensor:
    """Blend a share of the images with their means over 3 × 3 pixels, to a random degree."""
    degree = tf.where(_each(images, 0, 1) < share, _each(images, 0, 1), 0.0)
    return images + (tf.nn.avg_pool2d(images, 3, 1, "SAME") - images) * degree
