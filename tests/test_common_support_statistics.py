"""Queries normalised as the support set: against plain Keras, task by task."""

from common import networks
from common.support_statistics import SupportNormalizedNetwork

import keras
import numpy as np
import pytest
import tensorflow as tf


def weights_of(network, n_tasks, seed=0):
    random = np.random.default_rng(seed)
    return [
        tf.constant(random.normal(size=(n_tasks, *v.shape)), tf.float32)
        for v in network.trainable_variables
    ]


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_equals_keras_with_the_moving_averages_of_the_support_set(norm):
    network = networks.conv4((8, 8, 1), 3, filters=4, blocks=2, norm=norm)
    random = np.random.default_rng(1)
    support, queries = random.uniform(size=(2, 2, 5, 8, 8, 1)).astype(np.float32)
    weights = weights_of(network, 2)
    ours = SupportNormalizedNetwork(network)(weights, support, queries)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    for task in range(2):
        for variable, weight in zip(network.trainable_variables, weights):
            variable.assign(weight[task])
        network(support[task], training=True)
        expected = network(queries[task], training=False)
        np.testing.assert_allclose(ours[task], expected, rtol=1e-3, atol=1e-4)


def test_a_single_number_by_hand():
    # Support 1 and 3: mean 2, variance 1. The query 5 becomes 3, whatever other queries there are.
    norm = keras.layers.BatchNormalization(epsilon=0, center=False, scale=False)
    start = keras.initializers.Constant(2)
    linear = keras.layers.Dense(1, use_bias=False, kernel_initializer=start)
    network = keras.Sequential([keras.Input((1,)), norm, linear])
    weights = [tf.constant([[[2.0]]])]
    support = tf.constant([[[1.0], [3.0]]])
    for queries in ([5.0], [5.0, -100.0]):
        outputs = SupportNormalizedNetwork(network)(
            weights, support, tf.reshape(queries, (1, -1, 1))
        )
        np.testing.assert_allclose(outputs[0, 0], [6.0], rtol=1e-5)  # 3 times 2
    assert norm.momentum == 0.99  # the network itself stays as it was
