"""Distances, cosines and class means against NumPy; embedding of several sets at once."""

from common.embedding import class_shares, cosine_similarities, embed, squared_distances

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    return random.normal(size=(2, 4, 3)), random.normal(size=(2, 5, 3))


def test_squared_distances_worked_by_hand():
    a, b = tf.constant([[(0.0, 0.0), (1.0, 1.0)]]), tf.constant([[(3.0, 4.0), (1.0, 0.0)]])
    np.testing.assert_allclose(squared_distances(a, b), [[(25, 1), (13, 1)]])


def test_squared_distances_are_those_of_differences(pair):
    a, b = pair
    expected = np.sum((a[:, :, None] - b[:, None]) ** 2, axis=-1)
    np.testing.assert_allclose(squared_distances(*map(tf.constant, pair)), expected, rtol=1e-10)


def test_squared_distances_are_never_negative():
    random = np.random.default_rng(0)
    far = tf.constant(random.normal(1e4, 1, (1, 50, 8)), tf.float32)  # where rounding is coarse
    assert np.min(squared_distances(far, far)) >= 0


def test_cosines_of_known_angles():
    a = tf.constant([[(2.0, 0.0), (1.0, 1.0)]])
    b = tf.constant([[(0.0, 3.0), (5.0, 0.0), (-1.0, -1.0)]])
    half = 0.5**0.5
    np.testing.assert_allclose(
        cosine_similarities(a, b), [[(0, 1, -half), (half, half, -1)]], atol=1e-6
    )


def test_cosines_ignore_length(pair):
    a, b = map(tf.constant, pair)
    expected = cosine_similarities(a, b)
    np.testing.assert_allclose(cosine_similarities(100 * a, 0.1 * b), expected, rtol=1e-10)


def test_class_shares_make_means():
    labels = tf.constant([[1, 0, 1, 2], [2, 2, 1, 0]])
    shares = class_shares(labels, 3)
    np.testing.assert_allclose(tf.reduce_sum(shares, -1), np.ones((2, 3)))
    items = tf.constant([[(1.0,), (2.0,), (3.0,), (4.0,)], [(1.0,), (2.0,), (3.0,), (4.0,)]])
    np.testing.assert_allclose((shares @ items)[..., 0], [(2, 2, 4), (4, 3, 1.5)])


def test_several_sets_are_embedded_in_one_call():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, keras.layers.BatchNormalization()(inputs))
    random = np.random.default_rng(0)
    a, b = (tf.constant(random.normal(size=(2, n, 4)), tf.float32) for n in (3, 5))
    first, second = embed(network, a, b)
    assert (first.shape, second.shape) == ((2, 3, 4), (2, 5, 4))
    np.testing.assert_allclose(second[1], network(b[1]), rtol=1e-6)
    # In training the statistics are those of both sets and all tasks together.
    both = tf.concat(embed(network, a, b, training=True), axis=1)
    np.testing.assert_allclose(tf.reduce_mean(both, (0, 1)), np.zeros(4), atol=1e-5)


def test_embeddings_keep_their_maps_and_their_precision():
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(2, 3, dtype="mixed_bfloat16")(inputs)
    (embedded,) = embed(keras.Model(inputs, maps), tf.ones((2, 3, 8, 8, 1)))
    assert embedded.shape == (2, 3, 6, 6, 2)
    assert embedded.dtype == tf.float32
