"""What is measured of optimisers: sums of losses, the choice of rates, made-up gradients."""

from dataclasses import replace

from chapter01_intro.learning_to_learn import Config
from common import optimizer_experiment
from common.hand_made_optimizers import HAND_MADE, SGD
from common.optimisees import OptimiseeSampler, Quadratics
from common.optimizer_experiment import best_rate, sums, updates_of_histories

import numpy as np
import pytest


def test_a_sum_leaves_out_the_start():
    assert sums(np.float32([[5, 1, 2], [0, 3, 4]])).tolist() == [3, 7]


def test_what_diverged_has_an_infinite_sum():
    large = np.finfo(np.float32).max
    losses = np.float32([[1, np.nan, 1], [1, np.inf, -np.inf], [1, np.inf, 1], [1, large, large]])
    assert sums(losses).tolist() == [np.inf, np.inf, np.inf, 2 * float(large)]


def test_the_rate_with_the_least_mean_is_chosen():
    def losses(rate, batches):
        if rate > 1:
            return np.array([[0.0, np.nan], [0.0, 0.0]])  # one function diverges
        return np.array([[100 * rate, rate + 0.01 / rate], [0.0, 1.0]])  # least at 0.1

    assert best_rate(losses, None) == 0.1


def test_rates_are_chosen_on_validation_functions(monkeypatch):
    config = replace(Config.smoke(), validation_episodes=3, eval_episodes=5)
    chosen_on, followed = [], []

    def follower(minimise, new_rule, sampler):
        def losses(rate, batches):
            followed.append((rate, sampler, batches))
            return np.ones((sum(len(theta) for theta, _ in batches), sampler.steps + 1))

        losses.sampler = sampler
        return losses

    def best(losses, batches):
        chosen_on.append((losses.sampler, batches))
        return 0.5

    monkeypatch.setattr(optimizer_experiment, "follower", follower)
    monkeypatch.setattr(optimizer_experiment, "best_rate", best)
    result = optimizer_experiment.measure(SGD(0.1), None, config, {})

    def assert_are(batches, sampler, n_tasks, split):
        expected = list(sampler.fixed(n_tasks, 3, split))
        for (theta, (matrix, _)), (other, (other_matrix, _)) in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(theta, other)
            np.testing.assert_array_equal(matrix, other_matrix)

    kinds = 3
    assert len(chosen_on) == kinds * len(HAND_MADE)
    assert [rate for rate, *_ in followed] == [0.0, *[0.5] * len(HAND_MADE)] * kinds
    for sampler, batches in chosen_on:
        assert_are(batches, sampler, 3, "validation")
    for _, sampler, batches in followed:
        assert_are(batches, sampler, 5, "test")
    assert result.metrics["Adam_loss_sum"].mean == config.train_steps
    assert set(result.extra["updates"]["updates"]) == {"learned", *HAND_MADE}


def test_updates_of_gradient_descent_are_its_rate_times_the_gradients():
    sampler = OptimiseeSampler(Quadratics(3, start_scale=1.0), 5, seed=1)
    found = updates_of_histories({"SGD": SGD(0.3)}, sampler)
    histories = ["constant", "alternating", "turning", "vanishing"]
    assert list(found["gradients"]) == list(found["updates"]["SGD"]) == histories
    for history, gradients in found["gradients"].items():
        assert len(gradients) == optimizer_experiment.HISTORY_STEPS
        updates = found["updates"]["SGD"][history]
        np.testing.assert_allclose(updates, -0.3 * np.array(gradients), rtol=1e-6)
    # Their size is a tenth of the root mean square of 2 W^T (W theta - y).
    theta, (matrix, target) = next(sampler.fixed(8, 8))
    residual = np.einsum("tij,tj->ti", matrix, theta) - target
    gradient = 2 * np.einsum("tij,ti->tj", matrix, residual)
    size = 0.1 * np.sqrt(np.mean(gradient**2))
    signs = np.array(found["gradients"]["turning"]) / size
    assert signs == pytest.approx([1] * 20 + [-1] * 20, rel=1e-5)
    assert np.array(found["gradients"]["alternating"][:3]) / size == pytest.approx([1, -1, 1])
    assert found["gradients"]["vanishing"][10] / size == pytest.approx(0.1)
