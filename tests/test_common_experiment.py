"""What the scripts of the gradient-based family share: baselines, measurement, figures."""

from dataclasses import replace

from chapter05_maml_adml import maml
from chapter05_maml_adml.maml import MAML, Config
from common import adaptation_figures, experiment
from common.results import Estimate, Result
from common.settings import RunSettings

import keras
import matplotlib.image
import numpy as np
import pytest


def test_splits_of_images_share_no_class():
    train, test = experiment.samplers(Config.for_dataset("glyphs"))
    assert not set(train.data.class_names) & set(test.data.class_names)
    assert (train.n_way, train.k_shot, train.n_query) == (5, 1, 1)
    assert (train.data.split, test.data.split) == ("train", "test")


def test_splits_of_waves_are_different_waves():
    train, test = experiment.samplers(Config())
    assert (train.n_way, train.k_shot, train.n_query) == (1, 10, 10)
    assert not np.allclose(train.episode(0).query_y, test.episode(0).query_y)


def test_test_tasks_may_have_other_shots():
    train, test = experiment.samplers(replace(Config(), test_k_shot=5))
    assert (train.k_shot, test.k_shot) == (10, 5)


def test_networks_are_those_of_the_paper_and_decided_by_the_seed():
    config = Config()
    sampler = experiment.samplers(config)[0]
    network, loss = experiment.new_network(config, sampler)
    assert network.count_params() == 1761  # 1-40-40-1
    assert loss == "mse"
    again, _ = experiment.new_network(config, sampler)
    other, _ = experiment.new_network(replace(config, run=RunSettings(seed=1)), sampler)
    kernels = [network.weights[0].numpy() for network in (network, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01

    config = Config.for_dataset("glyphs")
    network, loss = experiment.new_network(config, experiment.samplers(config)[0])
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [64] * 4
    assert network.output_shape == (None, 5)
    assert loss is None


def test_pooled_baseline_learns_the_average_wave():
    config = replace(Config(), baseline_steps=400, outer_lr=0.01)
    train, test = experiment.samplers(config)
    network, loss = experiment.new_network(config, train)
    experiment.train_pooled(network, train, config)
    learner = MAML(network, config.inner_lr, loss=loss, test_steps=0)
    error = learner.evaluate_episodes(test.fixed(500, 25)).mean
    # What the best answer of all, found on paper, costs on the very same waves.
    waves = [(batch.query_x, batch.query_y) for batch in test.fixed(500, 25)]
    costs = [np.mean((-1.6234 * np.cos(x) - y) ** 2) for x, y in waves]
    assert np.mean(costs) == pytest.approx(experiment.TASK_BLIND_ERROR, abs=0.3)
    assert error == pytest.approx(np.mean(costs), rel=0.05)


@pytest.mark.slow
def test_pooled_baseline_on_images_has_better_features_than_random_ones():
    config = replace(
        Config.smoke("glyphs"), filters=16, inner_lr=0.4, outer_lr=0.003, baseline_steps=100,
        rotations=False, n_query=3,
    )  # fmt: skip
    train, test = experiment.samplers(config)
    accuracy = {}
    for name in ("pooled", "random"):
        network, loss = experiment.new_network(config, train)
        if name == "pooled":
            experiment.train_pooled(network, train, config)
            assert network.output_shape == (None, 5)
            assert all(np.all(weight == 0) for weight in network.layers[-1].get_weights())
        learner = MAML(network, config.inner_lr, loss=loss, test_steps=1)
        accuracy[name] = learner.evaluate_episodes(test.fixed(100, 20)).mean
    assert accuracy["random"] < 0.3
    assert accuracy["pooled"] > accuracy["random"] + 0.1


@pytest.fixture(scope="module", params=["sine", pytest.param("glyphs", marks=pytest.mark.slow)])
def small_run(request):
    config = Config.smoke(request.param)
    config = replace(
        config, run=replace(config.run, steps=2), baseline_steps=2, eval_episodes=4, n_query=2
    )
    return config, maml.run(config)


def test_metrics_of_all_learners_on_the_same_episodes(small_run):
    config, result = small_run
    score = {"sine": "mean_squared_error", "glyphs": "accuracy"}[config.run.dataset]
    assert list(result.metrics) == [
        f"{name}_{score}_after_{steps}_steps"
        for name in ("MAML", "pooled", "random", "MAML_less_pooled")
        for steps in (0, 1, 3, 5, 10)
    ]
    assert all(estimate.n == 4 for estimate in result.metrics.values())
    assert result.history["step"] == [1, 2]
    assert [len(curve) for curve in result.extra["curves"].values()] == [11, 11, 11]
    assert result.extra["curves"]["MAML"][3] == result.metrics[f"MAML_{score}_after_3_steps"]
    _, sampler = experiment.samplers(config)
    again = result.learner.evaluate_episodes(sampler.fixed(4, 2))
    measured = result.metrics[f"MAML_{score}_after_{config.test_steps}_steps"]
    np.testing.assert_allclose(again, measured, rtol=1e-4)


def test_figures_are_the_same_from_a_result_that_was_saved_and_loaded(small_run, tmp_path):
    config, result = small_run
    result.save(tmp_path / "result.json")
    loaded = Result.load(tmp_path / "result.json")
    assert isinstance(result.extra["curves"]["MAML"][0], Estimate)
    first = {"sine": "waves.png", "glyphs": "episode.png"}[config.run.dataset]
    names = {first, "inner_steps.png", "learning_curve.png"}
    for folder, drawn in (("before", result), ("after", loaded)):
        (tmp_path / folder).mkdir()
        experiment.draw(drawn, config, tmp_path / folder)
        assert {path.name for path in (tmp_path / folder).iterdir()} == names
    for name in names:
        before, after = (
            matplotlib.image.imread(tmp_path / folder / name) for folder in ("before", "after")
        )
        np.testing.assert_array_equal(before, after)


def test_learning_curves_are_those_of_all_who_have_one():
    history = {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0]}
    (alone,) = adaptation_figures.draw_learning(history, ["MAML", "pooled"]).axes
    assert alone.get_legend() is None
    history["MAML_loss"] = [3.0, 2.5, 2.0]
    (both,) = adaptation_figures.draw_learning(history, ["CAML", "MAML", "pooled"]).axes
    assert both.get_legend_handles_labels()[1] == ["CAML", "MAML"]


def test_what_is_drawn_is_what_is_measured(small_run):
    config, result = small_run
    _, sampler = experiment.samplers(config)
    if config.run.dataset == "glyphs":
        probabilities = result.learner.predict_task(*sampler.episode(0)[:3])
        assert result.extra["predictions"] == probabilities.argmax(-1).tolist()
        return
    assert len(result.extra["waves"]) == 4
    for index, wave in enumerate(result.extra["waves"]):
        episode = sampler.episode(index)
        np.testing.assert_allclose(wave["support_y"], episode.support_y[:, 0], atol=1e-4)
        truth = np.interp(episode.support_x[:, 0], wave["x"], wave["truth"])
        np.testing.assert_allclose(truth, wave["support_y"], atol=0.01)
        assert [np.shape(wave[name]) for name in ("MAML", "pooled", "random")] == [(11, 200)] * 3
