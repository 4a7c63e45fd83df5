"""The best rate of gradient descent, chosen on validation classes."""

from types import SimpleNamespace

from chapter05_maml_adml.maml import MAML
from common import rate_search
from common.datasets import load
from common.errors import UserError
from common.settings import RunSettings

import keras
import numpy as np
import pytest


@pytest.mark.parametrize("rates", [(), (0.1, 0.0), (-1.0,), (float("nan"),), (float("inf"),)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(UserError, match="--sgd-rates must be numbers greater than 0"):
        rate_search.check_rates(rates)


def config(**changes):
    settings = RunSettings(dataset="glyphs")
    base = {"n_way": 3, "k_shot": 2, "n_query": 2, "test_k_shot": None, "rotations": False}
    more = {"rate_episodes": 12, "meta_batch_size": 4, "test_steps": 2, "run": settings}
    return SimpleNamespace(**base, **more, **changes)


def test_the_rate_that_learns_is_chosen():
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, kernel_initializer="zeros")]
    network = keras.Sequential([keras.Input((28, 28, 1)), *layers])
    found = rate_search.best(lambda rate: MAML(network, rate), (1e-9, 0.01), config())
    tried = found["tried"]
    assert list(tried) == ["1e-09", "0.01"]
    assert found["best"] == 0.01  # the other leaves the classes as they were: all alike
    assert tried["0.01"].mean > 0.5
    assert all(estimate.n == 12 for estimate in tried.values())


def test_rates_are_tried_on_validation_classes(monkeypatch):
    loaded = []

    def recording(name, split, data_dir):
        loaded.append(split)
        return load(name, split, data_dir)

    def scores(learner, episodes, steps):
        return np.ones((12, steps + 1))

    monkeypatch.setattr(rate_search, "load", recording)
    monkeypatch.setattr(rate_search.adaptation, "scores_by_step", scores)
    rate_search.best(lambda rate: SimpleNamespace(classifies=True), (0.1, 1.0), config())
    assert loaded == ["validation"]


def test_an_error_is_best_where_it_is_lowest(monkeypatch):
    scores = {0.1: [[9, 2.0]], 1.0: [[9, 1.0]], 10.0: [[9, np.nan]]}
    monkeypatch.setattr(
        rate_search.adaptation, "scores_by_step", lambda learner, *_: np.array(learner.scores)
    )

    def learner(rate):
        return SimpleNamespace(scores=scores[rate], classifies=False)

    changed = config()
    changed.test_steps = 1
    assert rate_search.best(learner, tuple(scores), changed)["best"] == 1.0
