"""Policy gradients: values worked by hand, NumPy, finite differences, invariants."""

import math

from common.navigation import Navigation, Paths
from common.policy_gradient import (
    advantages,
    as_examples,
    discounted_sums,
    gaussian_policy,
    kl_divergence,
    linear_baseline,
    log_probability,
    mean_divergence,
    policy_gradient_loss,
    surrogate_loss,
)
from common.task_batching import TaskBatchedNetwork

import keras
import numpy as np
import pytest
import tensorflow as tf

TASKS, TRAJECTORIES, HORIZON = 2, 4, 6


def some_paths(seed=0, ends=()):
    """Paths of random numbers; `ends` are `(task, trajectory, moves)` of those that end early."""
    random = np.random.default_rng(seed)
    shape = (TASKS, TRAJECTORIES, HORIZON)
    alive = np.ones(shape)
    for task, trajectory, moves in ends:
        alive[task, trajectory, moves:] = 0
    observations, actions = random.normal(size=(2, *shape, 2))
    rewards = -random.uniform(size=shape) * alive
    return Paths(*(tf.constant(p, tf.float32) for p in (observations, actions, rewards, alive)))


def policy_outputs(mean, std):
    return tf.constant([*mean, *np.log(std)], tf.float32)


# By hand.


def test_returns_worked_by_hand():
    # -1 - 0.99 - 0.9801, -1 - 0.99, -1
    found = discounted_sums(tf.constant([-1.0, -1, -1]), 0.99)
    np.testing.assert_allclose(found, [-2.9701, -1.99, -1], rtol=1e-6)
    np.testing.assert_array_equal(discounted_sums(tf.constant([1.0, 2, 4]), 0.0), [1, 2, 4])
    np.testing.assert_array_equal(discounted_sums(tf.constant([1.0, 2, 4]), 1.0), [7, 6, 4])


def test_divergence_worked_by_hand():
    # KL(N(0, 1) || N(0.3, 0.5^2)) = ln 0.5 + (1 + 0.09) / 0.5 - 1/2
    old, new = policy_outputs([0], [1]), policy_outputs([0.3], [0.5])
    assert float(kl_divergence(old, new)) == pytest.approx(0.98685, abs=1e-5)
    assert float(kl_divergence(old, old)) == 0
    # summed over the axes, not averaged
    old, new = policy_outputs([0, 0], [1, 1]), policy_outputs([0.3, 0.3], [0.5, 0.5])
    assert float(kl_divergence(old, new)) == pytest.approx(2 * 0.98685, abs=1e-5)


def test_log_probability_is_that_of_a_normal_distribution():
    outputs, action = policy_outputs([0.5, -1], [2, 0.5]), tf.constant([1.5, -1.0])
    one = -0.125 - math.log(2) - 0.5 * math.log(2 * math.pi)
    other = math.log(2) - 0.5 * math.log(2 * math.pi)
    assert float(log_probability(outputs, action)) == pytest.approx(one + other, rel=1e-6)


# Against NumPy.


def baseline_by_numpy(paths, returns, task):
    rows, targets = [], []
    for trajectory in range(TRAJECTORIES):
        for t in range(HORIZON):
            if paths.alive[task, trajectory, t]:
                o = paths.observations[task, trajectory, t].numpy().astype(np.float64)
                rows.append([*o, *o**2, t / 100, (t / 100) ** 2, (t / 100) ** 3, 1])
                targets.append(returns[task, trajectory, t])
    rows, targets = np.array(rows), np.array(targets)
    square = rows.T @ rows + 1e-5 * np.eye(8)
    return rows @ np.linalg.solve(square, rows.T @ targets)


@pytest.mark.parametrize("ends", [(), [(0, 1, 2), (1, 3, 5), (1, 0, 1)]])
def test_baseline_is_fitted_to_each_task_by_least_squares(ends):
    paths = some_paths(ends=ends)
    returns = discounted_sums(paths.rewards, 0.99)
    found = linear_baseline(paths.observations, returns, paths.alive).numpy()
    for task in range(TASKS):
        alive = paths.alive[task].numpy() > 0
        expected = baseline_by_numpy(paths, returns.numpy(), task)
        np.testing.assert_allclose(found[task][alive], expected, rtol=1e-4, atol=1e-5)
        assert not found[task][~alive].any()


@pytest.mark.parametrize("gae_lambda", [1.0, 0.9, 0.0])
def test_advantages_against_a_plain_loop(gae_lambda):
    paths, discount = some_paths(ends=[(0, 1, 2), (1, 3, 5)]), 0.95
    returns = discounted_sums(paths.rewards, discount).numpy()
    baseline = linear_baseline(paths.observations, returns, paths.alive).numpy()
    rewards = paths.rewards.numpy()
    found = advantages(paths, discount, gae_lambda).numpy()
    for task in range(TASKS):
        expected = {}
        for i in range(TRAJECTORIES):
            running, following = 0.0, 0.0
            for t in reversed(range(int(np.sum(paths.alive[task, i])))):
                surprise = rewards[task, i, t] + discount * following - baseline[task, i, t]
                running = surprise + discount * gae_lambda * running
                following = baseline[task, i, t]
                expected[i, t] = running
                if gae_lambda == 1:  # return less baseline, exactly
                    difference = returns[task, i, t] - baseline[task, i, t]
                    assert running == pytest.approx(difference, abs=1e-5)
        values = np.array(list(expected.values()))
        for (i, t), value in expected.items():
            standard = (value - values.mean()) / values.std()
            assert found[task, i, t] == pytest.approx(standard, rel=1e-3, abs=1e-3)
    assert not found[paths.alive.numpy() == 0].any()


def test_shares_make_a_mean_over_the_moves_that_were_made():
    paths = some_paths(ends=[(0, 1, 2), (1, 3, 5)])
    x, y = as_examples(paths)
    assert x.shape == (TASKS, TRAJECTORIES * HORIZON, 2)
    assert y.shape == (TASKS, TRAJECTORIES * HORIZON, 4)
    alive = paths.alive.numpy().reshape(TASKS, -1)
    np.testing.assert_allclose(y[..., -1], alive / alive.mean(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(x[1, HORIZON], paths.observations[1, 1, 0])
    np.testing.assert_array_equal(y[1, HORIZON, :2], paths.actions[1, 1, 0])


# Invariants.


def test_at_the_old_policy_the_surrogate_is_zero_and_has_the_policy_gradient():
    x, y = as_examples(some_paths(ends=[(0, 1, 2)]))
    old = tf.random.stateless_normal((*x.shape[:2], 4), (0, 1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(old)
        surrogate = surrogate_loss(y, tf.stop_gradient(old), old)
        loss = tf.reduce_mean(policy_gradient_loss(y, old))
        divergence = mean_divergence(y, tf.stop_gradient(old), old)
    assert float(surrogate) == pytest.approx(0, abs=1e-6)
    assert float(divergence) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(tape.gradient(divergence, old), 0 * old, atol=1e-6)
    slopes = tape.gradient(surrogate, old), tape.gradient(loss, old)
    np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-7)
    assert np.abs(slopes[0]).max() > 1e-3


def test_advantages_do_not_see_the_scale_of_the_rewards():
    paths = some_paths()
    found = advantages(paths._replace(rewards=10 * paths.rewards))
    np.testing.assert_allclose(found, advantages(paths), rtol=1e-3, atol=1e-4)


def test_policy_has_one_vector_of_standard_deviations_with_a_floor():
    network = gaussian_policy()
    assert network.count_params() == 2 * 100 + 100 + 100 * 100 + 100 + 100 * 2 + 2 + 2
    outputs = network(np.random.default_rng(0).normal(size=(5, 2))).numpy()
    assert outputs.shape == (5, 4)
    np.testing.assert_array_equal(outputs[:, 2:], 0)
    network.trainable_variables[-1].assign([-100, 0.5])
    outputs = network(np.zeros((5, 2))).numpy()
    np.testing.assert_allclose(outputs[:, 2:], [[math.log(1e-6), 0.5]] * 5, rtol=1e-6)

    batched = TaskBatchedNetwork(network)
    weights = [w * tf.reshape([1.0, 2, 3], [3] + [1] * (len(w.shape) - 1))
               for w in batched.repeated_weights(3)]  # fmt: skip
    x = np.random.default_rng(1).normal(size=(3, 5, 2)).astype(np.float32)
    together = batched(weights, x)
    for task in range(3):
        alone = network.stateless_call([w[task] for w in weights], [], x[task])[0]
        np.testing.assert_allclose(together[task], alone, rtol=1e-4, atol=1e-5)
    again = keras.models.model_from_json(network.to_json())
    again.set_weights(network.get_weights())
    np.testing.assert_array_equal(again(x[0]), network(x[0]))


# Against the definition of a derivative.


def test_policy_gradient_is_the_derivative_of_the_expected_return():
    # Two moves towards a goal; the policy is one Gaussian, the same everywhere.
    world = Navigation(horizon=2, max_move=0.5)
    goals, walkers, seed = tf.constant([[1.0, -0.5]]), 200_000, (0, 1)

    def walk(outputs):
        def policy(positions):
            return tf.broadcast_to(outputs, [*positions.shape[:-1], 4])

        return world.rollout(policy, goals, walkers, seed)

    def expected_return(outputs):  # the same noise for all outputs
        return float(tf.reduce_mean(walk(outputs).returns()))

    outputs = policy_outputs([0.3, 0.2], [0.5, 0.8])
    nudges = 0.02 * np.eye(4, dtype=np.float32)
    expected = [
        (expected_return(outputs + n) - expected_return(outputs - n)) / 0.04 for n in nudges
    ]
    paths = walk(outputs)
    gains = discounted_sums(paths.rewards, 1.0)
    gains -= tf.reduce_mean(gains, axis=1, keepdims=True)  # less noise, the same mean
    y = tf.concat([paths.actions, gains[..., None], tf.ones_like(gains)[..., None]], axis=-1)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = tf.reduce_sum(policy_gradient_loss(y, tf.broadcast_to(outputs, [*gains.shape, 4])))
    found = -tape.gradient(loss, outputs) / walkers
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert np.abs(expected).min() > 0.02
