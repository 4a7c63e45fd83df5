"""Calibrated distances: worked by hand, and that strangers are told from acquaintances."""

from chapter03_protonets.protonet import ProtoNet
from common import calibration
from common.datasets import FewShotData

import keras
import numpy as np
import pytest


def clusters(n_classes=12, n_items=12, spread=0.1, seed=0):
    """Points of a class lie round one of the corners of a large simplex."""
    random = np.random.default_rng(seed)
    corners = 10 * np.eye(n_classes, dtype=np.float32)
    items = np.repeat(corners, n_items, axis=0)
    items += random.normal(0, spread, items.shape).astype(np.float32)
    labels = np.repeat(np.arange(n_classes), n_items)
    names = tuple(f"class {k}" for k in range(n_classes))
    return FewShotData(items, labels, names, ("own",) * n_classes, "clusters", "validation")


def learner(features=12):
    inputs = keras.Input((features,))
    return ProtoNet(keras.Model(inputs, keras.layers.Identity()(inputs)))


def test_distances_are_those_from_the_own_and_from_the_nearest_class():
    # Without spread a genuine query lies on its prototype; two corners are 10 sqrt(2) apart.
    genuine, strangers = calibration.distances(learner(), clusters(spread=0), 1, n_episodes=4)
    assert genuine.shape == strangers.shape == (4, 25)
    np.testing.assert_allclose(genuine, 0, atol=1e-4)
    np.testing.assert_allclose(strangers, 200, rtol=1e-5)


def test_95_of_100_genuine_queries_are_accepted_and_far_strangers_are_not():
    found = calibration.calibrate(learner(), clusters(), n_episodes=40)
    assert found["input_shape"] == [12]
    assert set(found["accepted"]) == {"1", "5"}
    # A point and a mean of K points of variance 0.01 in 12 dimensions: 0.12 (1 + 1 / K).
    for shots, mean in (("1", 0.24), ("5", 0.144)):
        assert mean < found["accepted"][shots] < 3 * mean
    limit = calibration.accepted_distance(found, 1)
    others, strangers = calibration.distances(learner(), clusters(seed=1), 1, seed=1)
    assert np.mean(others <= limit) == pytest.approx(0.95, abs=0.03)
    assert np.all(strangers > limit)


def test_the_distance_is_that_for_as_many_shots_as_there_are():
    recognition = {"accepted": {"1": 4.0, "5": 2.0}}
    distances = [calibration.accepted_distance(recognition, shots) for shots in (1, 2, 5, 9)]
    assert distances == [4.0, 4.0, 2.0, 2.0]
    assert calibration.accepted_distance({"accepted": {}}, 3) is None


def test_few_classes_and_items_are_enough():
    found = calibration.calibrate(learner(3), clusters(n_classes=3, n_items=2), n_episodes=3)
    assert list(found["accepted"]) == ["1"]
    found = calibration.calibrate(learner(3), clusters(n_classes=3, n_items=1), n_episodes=3)
    assert found["accepted"] == {}
