"""What is measured step by step is what each number of steps gives by itself."""

from chapter05_maml_adml.maml import MAML
from common import adaptation, networks
from common.adaptation_figures import draw_steps, draw_waves
from common.episodes import EpisodeSampler
from common.results import Estimate
from common.sine import SineTasks
from common.tasks import Episode

import keras
import numpy as np
import pytest
import tensorflow as tf


def sine_case():
    """A network, its loss, batches of 2 + 2 + 1 tasks, and the rate for them."""
    sampler = EpisodeSampler(SineTasks(), n_way=1, k_shot=5, n_query=4)
    return networks.mlp(hidden=(8, 8)), "mse", sampler.fixed(5, 2), 0.01


def image_case():
    random = np.random.default_rng(0)
    x = random.uniform(size=(2, 5, 6, 8, 8, 1)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(3), (2, 5, 2)), axis=-1).astype(np.int32)
    episodes = tf.data.Dataset.from_tensor_slices(Episode(x[0], y[0], x[1], y[1])).batch(2)
    return networks.conv4((8, 8, 1), 3, filters=4, blocks=2), None, episodes, 0.3


@pytest.fixture(params=[sine_case, image_case])
def case(request):
    return request.param()


def test_scores_by_step_are_those_of_each_number_of_steps(case):
    network, loss, episodes, rate = case
    before = network.get_weights()
    options = {"loss": loss, "later_lr_factor": 0.5}
    scores = adaptation.scores_by_step(MAML(network, rate, **options), episodes, steps=3)
    assert scores.shape == (5, 4)
    for steps in range(4):
        learner = MAML(network, rate, test_steps=steps, **options)
        np.testing.assert_allclose(scores[:, steps], learner.episode_scores(episodes), rtol=1e-4)
    for weight, old in zip(network.get_weights(), before):
        np.testing.assert_array_equal(weight, old)


def test_predictions_by_step_are_those_of_each_number_of_steps(case):
    network, loss, episodes, rate = case
    episode = Episode(*(part[0].numpy() for part in next(iter(episodes))))
    options = {"loss": loss, "later_lr_factor": 0.5}
    learner = MAML(network, rate, **options)
    predictions = adaptation.predictions_by_step(learner, episode, steps=3)
    assert isinstance(predictions, np.ndarray)
    assert predictions.shape == (4, len(episode.query_x), 1 if loss else 3)
    for steps in range(4):
        learner = MAML(network, rate, test_steps=steps, **options)
        alone = learner.predict_task(*episode[:3])
        here = predictions[steps] if loss else tf.nn.softmax(predictions[steps])
        np.testing.assert_allclose(here, alone, rtol=1e-4, atol=1e-6)


def test_before_the_first_step_it_is_the_network_itself():
    network, loss, episodes, rate = sine_case()
    episode = Episode(*(part[0].numpy() for part in next(iter(episodes))))
    predictions = adaptation.predictions_by_step(MAML(network, rate, loss=loss), episode, 1)
    np.testing.assert_allclose(predictions[0], network(episode.query_x), rtol=1e-5)


def test_points_to_predict_need_no_targets():
    network, loss, episodes, rate = sine_case()
    episode = Episode(*(part[0].numpy() for part in next(iter(episodes))))
    points = np.linspace(-5, 5, 50, dtype=np.float32)[:, None]
    learner = MAML(network, rate, loss=loss)
    predictions = adaptation.predictions_by_step(learner, episode._replace(query_x=points))
    assert predictions.shape == (11, 50, 1)


def test_many_learners_cause_no_warning_of_tracing(monkeypatch):
    warnings = []
    monkeypatch.setattr(tf.get_logger(), "warning", lambda *words: warnings.append(words))
    _, loss, episodes, rate = sine_case()
    for _ in range(6):
        network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        adaptation.scores_by_step(MAML(network, rate, loss=loss), episodes, 1)
    assert warnings == []


def test_waves_are_drawn_for_every_learner_and_task():
    x = np.linspace(-5, 5, 20)
    wave = {"x": x, "truth": np.sin(x), "support_x": x[:3], "support_y": np.sin(x[:3])}
    wave |= {"MAML": np.tile(x, (11, 1)), "pooled": np.zeros((11, 20))}
    figure = draw_waves([wave, wave, wave], ["MAML", "pooled"])
    assert len(figure.axes) == 6
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == [
        "true wave", "before adaptation", "after 1 step", "after 5 steps", "after 10 steps",
        "support points",
    ]  # fmt: skip
    for axis, name in zip((figure.axes[0], figure.axes[3]), ("MAML", "pooled")):
        assert axis.get_ylabel().startswith(name)
        np.testing.assert_array_equal(axis.lines[4].get_ydata(), wave[name][10])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels


def test_steps_are_drawn_with_intervals_and_reference():
    curve = [Estimate(3.0 / (step + 1), 0.1, 600) for step in range(11)]
    figure = draw_steps({"MAML": curve, "pooled": curve, "random": curve}, "error", (3.0, "floor"))
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines[:3]] == ["MAML", "pooled", "random"]
    assert len(axis.collections) == 3  # the bands
    assert "floor" in [text.get_text() for text in axis.texts]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [e.mean for e in curve])
    assert axis.get_ylim()[0] == 0
