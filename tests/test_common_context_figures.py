"""The plane of contexts."""

from chapter05_maml_adml.caml import CAML
from common import context_figures, networks
from common.episodes import EpisodeSampler
from common.sine import SineTasks

import numpy as np
import pytest


def learner(size):
    return CAML(networks.mlp(hidden=(8,), context_size=size), 0.1, loss="mse")


def sampler(**options):
    return EpisodeSampler(SineTasks(split="test", **options), 1, 10, 5)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_plane_of_contexts(size):
    one = learner(size)
    found = context_figures.plane(one, sampler(), n_tasks=20)
    n_axes = min(size, 2)
    assert np.shape(found["places"]) == (20, n_axes)
    assert np.shape(found["curves"]) == (n_axes, context_figures.SHOWN, 200)
    assert set(found["wave"]) == {"amplitude", "phase"}
    assert len(found["axes"]) == n_axes
    assert ("component" in found["axes"][0]) == (size > 2)
    for draw in (context_figures.draw_plane, context_figures.draw_traversal):
        assert draw(found).axes


def test_places_are_the_contexts_and_the_numbers_those_of_their_waves():
    one, many = learner(2), sampler()
    found = context_figures.plane(one, many, n_tasks=20)
    episode = many.data.sample(many.seed_of(0), 20, 10, 1)
    contexts = one.context(one.adapt(*episode[:2]))
    np.testing.assert_allclose(found["places"], contexts, atol=1e-4)
    wave = [np.array(found["wave"][name])[:, None, None] for name in ("amplitude", "phase")]
    np.testing.assert_allclose(many.data.wave(*wave, 1.0, episode.support_x), episode.support_y,
                               rtol=1e-4, atol=1e-4)  # fmt: skip


def test_curves_are_predictions_along_an_axis():
    one = learner(2)
    found = context_figures.plane(one, sampler(), n_tasks=20)
    middle = np.median(found["places"], axis=0)
    for axis in range(2):
        context = middle.copy()
        context[axis] = found["along"][axis][-1]
        variable = next(v for v in one.network.weights if v.name == "context")
        variable.assign(context)
        expected = one.network(np.array(found["x"])[:, None])[:, 0]
        np.testing.assert_allclose(found["curves"][axis][-1], expected, atol=2e-4)
        variable.assign([0, 0])


def test_numbers_that_do_not_vary_are_left_out():
    found = context_figures.plane(learner(2), sampler(phase=(1, 1)), n_tasks=20)
    assert set(found["wave"]) == {"amplitude"}


def test_start_is_the_place_of_a_context_of_zeros():
    # Without an inner step all contexts are 0, so all places are those of the start.
    for size in (1, 2):
        found = context_figures.plane(learner(size), sampler(), n_tasks=5, steps=0)
        np.testing.assert_allclose(found["places"], [found["start"]] * 5, atol=1e-6)
    found = context_figures.plane(learner(4), sampler(), n_tasks=20)
    assert np.abs(found["start"]).max() > 0  # components are counted from the mean of contexts
