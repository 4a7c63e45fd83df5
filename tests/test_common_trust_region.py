"""Trust-region steps: worked values, the exact Hessian, and the promises that a step keeps."""

from common.policy_gradient import gaussian_policy, mean_divergence
from common.trust_region import (
    TrustRegion,
    conjugate_gradients,
    flat,
    local_model,
    step_scale,
    unflat,
)

import keras
import numpy as np
import pytest
import tensorflow as tf


def variable(*numbers):
    return keras.Variable(np.array(numbers, np.float32))


def quadratic(x, *curvature):
    """1/2 sum F x^2: its outputs are x itself."""
    return lambda outputs: 0.5 * tf.reduce_sum(np.array(curvature, np.float32) * outputs**2)


def step(optimizer, x, loss, divergence):
    report = optimizer.step(lambda: x.value + 0.0, loss, divergence, [x])
    return {name: float(value) for name, value in report.items()}


def test_direction_and_length_worked_by_hand():
    # F = diag(2, 4), g = (2, 4), delta = 0.01: s = F^-1 g = (1, 1), s F s = 6,
    # sqrt(2 * 0.01 / 6) = 0.057735, and the quadratic model of the divergence is delta
    curvature = tf.constant([2.0, 4.0])
    direction = conjugate_gradients(lambda v: curvature * v, tf.constant([2.0, 4.0]))
    np.testing.assert_allclose(direction, [1, 1], rtol=1e-6)
    scale = step_scale(direction, curvature * direction, 0.01)
    assert float(scale) == pytest.approx(0.057735, abs=1e-6)
    assert 0.5 * 6 * float(scale) ** 2 == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("graph", [False, True])
def test_a_step_on_a_linear_loss_goes_as_far_as_it_may(graph):
    x = variable(0, 0)
    optimizer = TrustRegion(max_kl=0.01, damping=0.0)
    optimizer.build([x])

    def loss(outputs):
        return tf.reduce_sum(outputs * [2.0, 4.0])

    def divergence(outputs):  # a little less than its quadratic model, or rounding decides
        return 0.999 * quadratic(x, 2, 4)(outputs)

    def take():
        return optimizer.step(lambda: x.value + 0.0, loss, divergence, [x])

    report = tf.function(take)() if graph else take()
    expected = 0.057735 / 0.999**0.5
    np.testing.assert_allclose(x.numpy(), [-expected / 1] * 2, rtol=2e-3)
    assert float(report["kl"]) == pytest.approx(0.01, rel=1e-3)
    assert float(report["kl"]) <= 0.01
    assert float(report["improvement"]) == pytest.approx(6 * expected, rel=2e-3)
    assert float(report["accepted"]) == 1
    assert int(optimizer.iterations) == 1


def test_conjugate_gradients_solve_and_rest():
    random = np.random.default_rng(0)
    root = random.normal(size=(12, 12))
    matrix, target = tf.constant(root @ root.T + np.eye(12)), tf.constant(random.normal(size=12))
    calls = []

    def product(vector):
        calls.append(1)
        return tf.linalg.matvec(matrix, vector)

    found = conjugate_gradients(product, target, steps=20)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, target), rtol=1e-4)
    assert len(calls) < 20  # it rests when it is there
    np.testing.assert_array_equal(conjugate_gradients(product, 0 * target), 0 * target)


def test_flat_and_back():
    tensors = [tf.constant([[1.0, 2], [3, 4]]), tf.constant(5.0), tf.constant([6.0])]
    np.testing.assert_array_equal(flat(tensors), [1, 2, 3, 4, 5, 6])
    for ours, theirs in zip(unflat(flat(tensors), tensors), tensors):
        np.testing.assert_array_equal(ours, theirs)


def test_too_long_a_step_is_shortened():
    # The divergence is ten times its quadratic model away from 0: 0.8^k must fall below 1/10^(1/2)
    x = variable(0)

    def divergence(outputs):
        size = tf.reduce_sum(outputs**2)
        return tf.where(size > 1e-6, 10 * size, 0.5 * size)

    report = step(TrustRegion(damping=0.0), x, lambda outputs: tf.reduce_sum(outputs), divergence)
    tried = 0.02**0.5 * 0.8 ** np.arange(15)
    longest = max(length for length in tried if 10 * length**2 <= 0.01)
    assert float(x.numpy()[0]) == pytest.approx(-longest, rel=1e-4)
    assert 0 < report["kl"] <= 0.01


@pytest.mark.parametrize("elsewhere", [100.0, np.nan, np.inf])
def test_where_no_length_will_do_nothing_is_changed(elsewhere):
    x = variable(0.25, -0.5)

    def loss(outputs):
        change = outputs - [0.25, -0.5]
        return tf.where(tf.reduce_any(change != 0), elsewhere, tf.reduce_sum(change))

    def divergence(outputs):
        return quadratic(x, 1, 1)(outputs - [0.25, -0.5])

    report = step(TrustRegion(), x, loss, divergence)
    np.testing.assert_array_equal(x.numpy(), [0.25, -0.5])
    assert report == {"loss": 0.0, "kl": 0.0, "improvement": 0.0, "accepted": 0.0}


def policy_model(after_a_step):
    """A small policy, in itself or as a function of weights from before a gradient step."""
    network = gaussian_policy(hidden=(4,), seed=1)
    values = [tf.identity(v.value) + 0.1 for v in network.trainable_variables]
    x = np.random.default_rng(0).normal(size=(1, 30, 2)).astype(np.float32)
    y = tf.ones((1, 30, 4))

    def outputs(values=values):
        weights = values
        if after_a_step:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                inner = tf.reduce_mean(network.stateless_call(weights, [], x[0])[0] ** 2)
            slopes = tape.gradient(inner, weights)
            weights = [w - 0.1 * slope for w, slope in zip(weights, slopes)]
        return network.stateless_call(weights, [], x[0])[0][None]

    old = outputs()
    return outputs, values, lambda new: mean_divergence(y, old, new)


@pytest.mark.parametrize("after_a_step", [False, True])
def test_products_are_those_of_the_whole_hessian(after_a_step):
    outputs, values, divergence = policy_model(after_a_step)
    _, _, product = local_model(outputs, tf.reduce_sum, divergence, values)
    size = flat(values).shape[0]

    vector = tf.Variable(flat(values))
    with tf.GradientTape() as second:
        with tf.GradientTape() as first:
            value = divergence(outputs(unflat(vector, values)))
        slope = first.gradient(value, vector)
    hessian = second.jacobian(slope, vector).numpy()

    np.testing.assert_allclose(value, 0, atol=1e-6)  # at the old policy
    np.testing.assert_allclose(slope, np.zeros(size), atol=1e-6)
    ours = np.stack([product(row) for row in np.eye(size, dtype=np.float32)])
    np.testing.assert_allclose(ours, hessian, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours, ours.T, rtol=1e-3, atol=1e-4)  # u F v = v F u
    assert np.abs(hessian).max() > 0.1
    assert np.linalg.eigvalsh(ours).min() > -1e-4


def test_gradient_is_that_of_the_loss_through_the_outputs():
    outputs, values, divergence = policy_model(True)

    def loss(new):
        return tf.reduce_sum(tf.sin(new))

    old_loss, gradient, product = local_model(outputs, loss, divergence, values, damping=0.5)
    with tf.GradientTape() as tape:
        tape.watch(values)
        expected = loss(outputs(values))
    np.testing.assert_allclose(old_loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, flat(tape.gradient(expected, values)), atol=1e-5)
    _, _, undamped = local_model(outputs, loss, divergence, values)
    np.testing.assert_allclose(product(gradient) - undamped(gradient), gradient / 2, rtol=1e-2)
