"""FGSM and PGD against hand calculation, on linear models, and within their bounds."""

import math

from common import attacks
from common.errors import UserError

import numpy as np
import pytest
import tensorflow as tf

WEIGHTS = tf.constant([1.0, -2.0])


def logistic_loss(x):
    """ln(1 + exp(-w . x)): the loss of class 1 under w = (1, -2)."""
    return tf.nn.softplus(-tf.reduce_sum(WEIGHTS * x, axis=-1))


def linear_loss(x):
    return tf.reduce_sum(WEIGHTS * x)


def curved_loss(x):
    """Highest at 0.5: a long step from below jumps over it."""
    return -tf.reduce_sum((x - 0.5) ** 2)


def test_fgsm_worked_by_hand():
    # w . x = 0.5 - 0.5 = 0; dL/dx = -w / 2 = (-0.5, 1), so x' = x + 0.1 (-1, 1); the margin falls
    # by epsilon |w|_1 = 0.3.
    x = tf.constant([[0.5, 0.25]])
    attacked = attacks.fgsm(logistic_loss, x, 0.1)
    np.testing.assert_allclose(attacked, [[0.4, 0.35]], rtol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(WEIGHTS * attacked), -0.3, rtol=1e-5)
    assert float(logistic_loss(x)[0]) == pytest.approx(math.log(2))
    assert float(logistic_loss(attacked)[0]) == pytest.approx(0.8544, abs=1e-4)


@pytest.mark.parametrize("method", [attacks.fgsm, attacks.pgd])
def test_an_attack_keeps_its_bounds_and_raises_the_loss(method):
    random = np.random.default_rng(0)
    x = tf.constant(random.uniform(size=(4, 3, 5, 2)), tf.float32)
    options = {} if method is attacks.fgsm else {"seed": (0, 1)}
    for epsilon in (0.05, 0.3, 1.0):
        attacked = method(logistic_loss, x, epsilon, **options)
        assert attacked.shape == x.shape
        assert np.max(np.abs(attacked - x)) <= epsilon + 1e-6
        assert np.mean(np.abs(attacked - x)) > 0.5 * min(epsilon, 0.5)
        assert np.min(attacked) >= 0
        assert np.max(attacked) <= 1
        assert np.all(logistic_loss(attacked) > logistic_loss(x))


@pytest.mark.parametrize("seed", [None, (0, 1), (3, 4)])
def test_on_a_linear_loss_pgd_arrives_where_fgsm_is_at_once(seed):
    x = tf.constant([[0.2, 0.4], [-3.0, 7.0]])  # no range, so that nothing is clipped
    corner = attacks.fgsm(linear_loss, x, 0.25, bounds=None)
    np.testing.assert_allclose(corner - x, [[0.25, -0.25]] * 2, rtol=1e-6)
    for steps, step_size in ((5, 0.1), (10, 0.05), (1, 0.5), (7, None)):  # steps * size >= 2 eps
        found = attacks.pgd(linear_loss, x, 0.25, steps, step_size, seed, bounds=None)
        np.testing.assert_allclose(found, corner, rtol=1e-5)
    short = attacks.pgd(linear_loss, x, 0.25, 2, 0.1, bounds=None)
    np.testing.assert_allclose(short - x, [[0.2, -0.2]] * 2, rtol=1e-5)


def test_pgd_stays_where_fgsm_jumps_over_the_summit():
    x = tf.constant([0.4])
    assert float(curved_loss(attacks.fgsm(curved_loss, x, 0.4))) < float(curved_loss(x))
    found = attacks.pgd(curved_loss, x, 0.4, steps=20)
    assert float(found[0]) == pytest.approx(0.5, abs=0.051)  # a step is 0.05 long


def test_the_range_of_the_data_is_kept():
    x = tf.constant([[0.95, 0.02], [1.0, 0.0]])
    np.testing.assert_allclose(attacks.fgsm(linear_loss, x, 0.1), [[1, 0], [1, 0]])
    wide = attacks.fgsm(linear_loss, x, 0.1, bounds=(-1, 2))
    np.testing.assert_allclose(wide, [[1.05, -0.08], [1.1, -0.1]], rtol=1e-5)


def test_where_the_loss_does_not_look_nothing_moves():
    # sign(0) = 0: of a pixel without gradient, and of all of them
    x = tf.constant([[0.5, 0.5]])
    first_only = attacks.fgsm(lambda x: x[..., 0], x, 0.1)
    np.testing.assert_allclose(first_only, [[0.6, 0.5]])
    for method in (attacks.fgsm, attacks.pgd):
        np.testing.assert_array_equal(method(lambda x: tf.constant(3.0), x, 0.1), x)
        np.testing.assert_array_equal(method(logistic_loss, x, 0.0), x)


def test_the_attack_is_a_constant_to_whoever_learns_from_it():
    weight = tf.Variable(2.0)
    x = tf.constant([0.5])
    for method in (attacks.fgsm, attacks.pgd):
        with tf.GradientTape() as tape:
            attacked = method(lambda x: (weight * x) ** 2, x, 0.1)
            loss = tf.reduce_sum(weight * attacked)
            moved = tf.reduce_sum(attacked)
        gradients = tape.gradient([loss, moved], weight)
        np.testing.assert_allclose(gradients, 0.6, rtol=1e-6)  # x' alone: no way through x'


def test_the_seed_decides_the_start_of_pgd():
    x = tf.fill([50], 0.5)
    flat = [
        attacks.pgd(lambda x: tf.constant(0.0), x, 0.2, seed=seed).numpy()
        for seed in ((0, 1), (0, 1), (0, 2))
    ]
    np.testing.assert_array_equal(flat[0], flat[1])
    assert np.any(flat[0] != flat[2])
    assert np.max(np.abs(flat[0] - 0.5)) <= 0.2 + 1e-6
    assert np.std(flat[0]) == pytest.approx(0.4 / 12**0.5, rel=0.3)  # uniform


def test_an_attack_works_in_a_graph():
    x = tf.constant([[0.5, 0.25]])
    for method in (attacks.fgsm, attacks.pgd):
        in_graph = tf.function(lambda x, epsilon, method=method: method(logistic_loss, x, epsilon))
        np.testing.assert_allclose(in_graph(x, 0.1), method(logistic_loss, x, 0.1), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [-0.1, 1.5, float("nan"), float("inf")])
def test_an_impossible_epsilon_is_refused(epsilon):
    with pytest.raises(UserError, match="--epsilon must be between 0 and 1") as refusal:
        attacks.check_epsilon(epsilon, "--epsilon")
    assert str(epsilon) in str(refusal.value)


@pytest.mark.parametrize("epsilon", [0, 0.1, 1])
def test_a_possible_epsilon_is_not(epsilon):
    attacks.check_epsilon(epsilon)
