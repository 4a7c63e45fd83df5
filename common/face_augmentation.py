"""Pictures changed a little, for training only: mirrored, moved, turned, scaled, lit otherwise."""

import keras
import tensorflow as tf


def augment(
    images: tf.Tensor,
    seed: tf.Tensor,
    mirror: float = 0.5,
    shift: float = 0.06,
    turn: float = 0.15,
    zoom: float = 0.1,
    contrast: float = 0.3,
) -> tf.Tensor:
    """Changes each picture in its own way; a function of the seed alone, for use in `tf.data`.

    Moving, turning and scaling about the middle are one bilinear interpolation; what comes from
    beyond an edge is the edge.

    Args:
        images: float32 `(n, height, width, channels)` in 0..1.
        seed: int32 `(2,)`.
        mirror: Share of the pictures whose left and right are exchanged.
        shift: Largest shift, as a share of the height and width.
        turn: Largest angle, in radians.
        zoom: Sizes change by a factor between `1 - zoom` and `1 + zoom`.
        contrast: Contrast changes by a factor between `1 - contrast` and `1 + contrast`, and
            brightness by up to half of `contrast` of the range.

    Returns:
        float32 in 0..1, of the shape of `images`.
    """
    images = tf.cast(images, tf.float32)
    n, height, width = tf.unstack(tf.shape(images)[:3])
    size = tf.cast([width, height], tf.float32)
    seeds = iter(tf.unstack(tf.random.experimental.stateless_split(seed, 7)))

    def draw(low: float, high: float) -> tf.Tensor:  # one number for each picture
        return tf.random.stateless_uniform([n], next(seeds), low, high)

    flip = tf.where(draw(0.0, 1.0) < mirror, -1.0, 1.0)
    angle, scale = draw(-turn, turn), 1.0 / draw(1.0 - zoom, 1.0 + zoom)
    cos, sin = scale * tf.cos(angle), scale * tf.sin(angle)
    middle_x, middle_y = tf.unstack((size - 1.0) / 2.0)
    moved_x, moved_y = (draw(-shift, shift) * side for side in tf.unstack(size))
    # Where a pixel (x, y) of the result comes from: a x + b y + c, d x + e y + f.
    a, b, d, e = flip * cos, -flip * sin, sin, cos
    c = middle_x - a * middle_x - b * middle_y + moved_x
    f = middle_y - d * middle_x - e * middle_y + moved_y
    zero = tf.zeros_like(a)
    matrix = tf.stack([a, b, c, d, e, f, zero, zero], axis=-1)  # (n, 8)
    images = keras.ops.image.affine_transform(images, matrix, fill_mode="nearest")
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    factor, brightness = draw(1.0 - contrast, 1.0 + contrast), draw(-contrast / 2, contrast / 2)
    images = mean + (images - mean) * factor[:, None, None, None]
    return tf.clip_by_value(images + brightness[:, None, None, None], 0.0, 1.0)
