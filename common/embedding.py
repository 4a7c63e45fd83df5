"""From images to points in a plane of features, for the learners that compare points."""

import keras
import tensorflow as tf


def embed(network, *inputs, training=False):
    """Embeds the items of one or more sets, of all tasks, in one call of the network.

    In training, batch normalisation thus takes its statistics over support and query together, as
    the authors' code of prototypical networks does; otherwise it uses its moving averages, and an
    embedding depends on its own item alone.

    Args:
        network: A model from `(items, ...)` to `(items, ...)`.
        inputs: Sets of items, each `(tasks, items of the set, ...)`.
        training: Passed to the network.

    Returns:
        A list with a tensor `(tasks, items of the set, ...)` for each of the `inputs`, float32 or
        float64, also where the network computes with fewer bits.
    """
    sizes = [part.shape[1] for part in inputs]
    items = tf.concat(inputs, axis=1)  # (tasks, all items, ...)
    tasks = tf.shape(items)[0]
    embeddings = network(tf.reshape(items, [-1, *items.shape[2:]]), training=training)
    precise = keras.backend.result_type(embeddings.dtype, "float32")
    embeddings = tf.reshape(
        tf.cast(embeddings, precise), [tasks, sum(sizes), *embeddings.shape[1:]]
    )
    return tf.split(embeddings, sizes, axis=1)


def squared_distances(a, b):
    """Squared Euclidean distances `(tasks, n, m)` of points `(tasks, n, d)` and `(tasks, m, d)`."""
    squares = tf.reduce_sum(a**2, -1)[:, :, None] + tf.reduce_sum(b**2, -1)[:, None, :]
    return tf.maximum(squares - 2 * tf.matmul(a, b, transpose_b=True), 0)


def cosine_similarities(a, b):
    """Cosines `(tasks, n, m)` of the angles between `(tasks, n, d)` and `(tasks, m, d)`."""
    return tf.matmul(tf.math.l2_normalize(a, -1), tf.math.l2_normalize(b, -1), transpose_b=True)


def class_shares(labels, n_way, dtype=tf.float32):
    """Of each class, which share each item has: `(tasks, n_way, items)`; rows sum to one.

    `class_shares(labels, n_way) @ embeddings` are the means of the classes.

    Args:
        labels: int `(tasks, items)` in 0..n_way-1, each class at least once.
        n_way: Number of classes, an integer or a scalar tensor.
        dtype: Of the result.
    """
    belongs = tf.one_hot(labels, n_way, axis=1, dtype=dtype)  # (tasks, n_way, items)
    return belongs / tf.reduce_sum(belongs, axis=2, keepdims=True)


def distance_statistics(values):
    """Minimum, maximum, variance, skewness and excess kurtosis over the items.

    Args:
        values: `(tasks, items, n)`, distances of the items to n points.

    Returns:
        `(tasks, n, 5)`; where all items have the same value, the last three are 0, 0 and -3.
    """
    centred = values - tf.reduce_mean(values, axis=1, keepdims=True)
    second, third, fourth = (tf.reduce_mean(centred**power, axis=1) for power in (2, 3, 4))
    spread = tf.maximum(second, 1e-6)  # also where it is 0, without a gradient that is not finite
    shape = [second, third / spread**1.5, fourth / spread**2 - 3]
    return tf.stack([tf.reduce_min(values, 1), tf.reduce_max(values, 1), *shape], axis=-1)
