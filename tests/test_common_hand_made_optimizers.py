"""The hand-made optimisers take the steps of Keras's."""

from common.hand_made_optimizers import HAND_MADE

import keras
import numpy as np
import pytest
import tensorflow as tf

KERAS = {
    "SGD": lambda rate: keras.optimizers.SGD(rate),
    "Nesterov": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "RMSprop": lambda rate: keras.optimizers.RMSprop(rate),
    "Adam": lambda rate: keras.optimizers.Adam(rate),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_takes_the_steps_of_keras(name):
    start = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    rule, optimizer = HAND_MADE[name](tf.constant(0.03)), KERAS[name](0.03)
    variable, theta = keras.Variable(start), tf.constant(start)
    state = rule.initial_state(theta)
    for step in range(8):
        optimizer.apply([tf.sin(3 * theta) + step % 3], [variable])
        update, state = rule.update(tf.sin(3 * theta) + step % 3, state)
        theta += update
        np.testing.assert_allclose(theta, variable.numpy(), rtol=1e-5, atol=1e-6)


def test_nesterov_and_adam_by_hand():
    # v = -0.1; the first step is m v - rate g = -0.09 - 0.1, the second v = -0.19: -0.171 - 0.1
    rule = HAND_MADE["Nesterov"](0.1)
    first, state = rule.update(tf.constant(1.0), rule.initial_state(tf.constant(0.0)))
    second, _ = rule.update(tf.constant(1.0), state)
    np.testing.assert_allclose([first, second], [-0.19, -0.271], rtol=1e-6)
    # Adam's first step has the size of the rate, whatever the gradient's.
    rule = HAND_MADE["Adam"](0.1)
    for gradient in (5.0, -0.01):
        update, _ = rule.update(tf.constant(gradient), rule.initial_state(tf.constant(0.0)))
        np.testing.assert_allclose(update, -0.1 * np.sign(gradient), rtol=1e-3)
