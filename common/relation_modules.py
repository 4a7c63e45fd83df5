"""The two networks of relation networks: f makes maps of an image, g judges pairs of maps.

The first convolution of g sees two maps laid on one another. A convolution is linear: there it is
the sum of a convolution over each. So every map is convolved once, and only the sums are formed
for every pair: for n and m maps n + m convolutions instead of n * m.
"""

import math

from common.errors import UserError
from common.networks import normalization

import keras
import tensorflow as tf
from keras import layers

SMALLEST = 22  # pixels: f and g together halve an image four times, and f cuts off its edges


def embedding_module(input_shape, filters=64, norm="fused"):
    """f: four blocks, pooled after the first two, whose convolutions have no padding.

    Args:
        input_shape: `(height, width, channels)` of an image.
        filters: Filters of each convolution.
        norm: See `networks.conv4`.

    Returns:
        A `keras.Model` from `(items, 28, 28, 1)` to maps `(items, 5, 5, filters)`.

    Raises:
        UserError: If the image is too small.
    """
    if min(input_shape[:2]) < SMALLEST:
        raise UserError(
            f"expected images of at least {SMALLEST} x {SMALLEST} pixels for a relation network, "
            f"found {input_shape[0]} x {input_shape[1]}; resize them"
        )
    bias = norm not in ("batch", "fused")  # its mean would be subtracted again
    x = images = keras.Input(input_shape)
    for padding, pool in (("valid", True), ("valid", True), ("same", False), ("same", False)):
        x = block([x], layers.Conv2D(filters, 3, padding=padding, use_bias=bias), norm, pool)
    return keras.Model(images, x, name="embedding_module")


def relation_module(map_shape, filters=64, norm="fused"):
    """g: two pooled blocks over a pair of maps, 8 units with ReLU, and one score with a sigmoid.

    Args:
        map_shape: `(height, width, channels)` of the maps.
        filters: Filters of each convolution.
        norm: See `networks.conv4`.

    Returns:
        A `keras.Model` from `[(tasks, n_way, *map_shape), (tasks, queries, *map_shape)]` to
        `(tasks * queries * n_way, 1)`.
    """
    bias = norm not in ("batch", "fused")
    pair = [keras.Input((None, *map_shape)), keras.Input((None, *map_shape))]
    x = block(pair, PairConvolution(filters, use_bias=bias), norm, pool=True)
    x = block([x], layers.Conv2D(filters, 3, padding="same", use_bias=bias), norm, pool=True)
    x = layers.Dense(8, "relu")(layers.Flatten()(x))
    return keras.Model(pair, layers.Dense(1, "sigmoid")(x), name="relation_module")


def description_module(n_attributes, map_shape, hidden=64):
    """f_1: a perceptron with one hidden layer whose outputs, after a ReLU, are shaped as maps.

    Args:
        n_attributes: Number of attributes of a description.
        map_shape: `(height, width, channels)` of the maps.
        hidden: Units of the hidden layer.

    Returns:
        A `keras.Model` from `(descriptions, n_attributes)` to `(descriptions, *map_shape)`.
    """
    described = keras.Input((n_attributes,))
    x = layers.Dense(math.prod(map_shape), "relu")(layers.Dense(hidden, "relu")(described))
    return keras.Model(described, layers.Reshape(map_shape)(x), name="description_module")


def block(x, convolution, norm, pool):
    """What f and g consist of: convolution, normalisation, ReLU and, if asked for, pooling."""
    x = layers.ReLU()(normalization(norm)(convolution(*x)))
    return layers.MaxPooling2D()(x) if pool else x


@keras.saving.register_keras_serializable("meta_learning")
class PairConvolution(keras.layers.Layer):
    """A 3 x 3 convolution of every pair of maps, one of each set, laid on one another.

    Equal to `Conv2D(filters, 3, padding="same")` over the concatenated channels of each pair.

    Args:
        filters: Number of filters.
        use_bias: Whether to add a bias.
        kernel_initializer: Of the kernel `(3, 3, channels of both, filters)`.
    """

    def __init__(self, filters, use_bias=True, kernel_initializer="glorot_uniform", **options):
        super().__init__(**options)
        self.filters, self.use_bias = filters, use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, first_shape, second_shape):
        self.channels = [first_shape[-1], second_shape[-1]]
        self.kernel = self.add_weight(
            (3, 3, sum(self.channels), self.filters), self.kernel_initializer, name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, first, second):
        """Convolves the pairs.

        Args:
            first: `(tasks, n, height, width, channels)`.
            second: `(tasks, m, height, width, channels)`, the channels may differ.

        Returns:
            `(tasks * m * n, height, width, filters)`; the pair of `first[t, i]` and
            `second[t, j]` is number `(t * m + j) * n + i`.
        """
        first_kernel, second_kernel = tf.split(self.kernel, self.channels, axis=2)
        first, second = convolve(first, first_kernel), convolve(second, second_kernel)
        if self.use_bias:
            second = second + self.bias
        pairs = first[:, None] + second[:, :, None]  # (tasks, m, n, height, width, filters)
        return tf.reshape(pairs, [-1, *pairs.shape[3:]])

    def compute_output_shape(self, first_shape, second_shape):
        return (None, *first_shape[2:-1], self.filters)

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        options = {"filters": self.filters, "use_bias": self.use_bias}
        return {**super().get_config(), **options, "kernel_initializer": initializer}


def convolve(maps, kernel):
    """Convolves maps `(tasks, n, height, width, channels)`; their size stays."""
    merged = tf.reshape(maps, [-1, *maps.shape[2:]])  # (tasks * n, height, width, channels)
    outputs = tf.nn.conv2d(merged, kernel, 1, "SAME")
    return tf.reshape(outputs, [*tf.unstack(tf.shape(maps)[:2]), *outputs.shape[1:]])
