"""Adam as a function is Keras's Adam without momentum."""

from common.inner_adam import adam_updates

import keras
import numpy as np
import tensorflow as tf


def test_equals_keras_adam_with_beta_1_of_0():
    random = np.random.default_rng(0)
    shapes, rate = ((3, 2), (4,)), 0.01
    start = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    theirs = [keras.Variable(value) for value in start]
    optimizer = keras.optimizers.Adam(rate, beta_1=0.0)
    ours, squares = start, [np.zeros(shape, np.float32) for shape in shapes]
    for count in range(1, 6):
        gradients = [random.normal(size=shape).astype(np.float32) for shape in shapes]
        optimizer.apply([tf.constant(g) for g in gradients], theirs)
        updates, squares = adam_updates(gradients, squares, count, rate)
        ours = [w - u for w, u in zip(ours, updates)]
        for mine, keras_own in zip(ours, theirs):
            np.testing.assert_allclose(mine, keras_own.numpy(), rtol=1e-5, atol=1e-7)


def test_the_first_step_is_as_long_for_every_gradient():
    gradient, zero = np.array([2.0, -0.5], np.float32), np.zeros(2, np.float32)
    (update,), (square,) = adam_updates([gradient], [zero], 1, 0.1)
    np.testing.assert_allclose(update, [0.1, -0.1], rtol=1e-4)
    np.testing.assert_allclose(square, [0.004, 0.00025], rtol=1e-4)


def test_without_a_gradient_nothing_moves():
    zero = np.zeros(2, np.float32)
    (update,), _ = adam_updates([zero], [zero], 1, 0.1)
    np.testing.assert_array_equal(update, [0, 0])
