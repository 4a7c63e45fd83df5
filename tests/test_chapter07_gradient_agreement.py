"""Agreement weights by hand, gradients of single tasks against a loop; and that it learns."""

from dataclasses import replace

from chapter05_maml_adml.maml import MAML
from chapter06_metasgd_reptile.reptile import Reptile
from chapter07_gradient_agreement import gradient_agreement
from chapter07_gradient_agreement.gradient_agreement import (
    AgreementMAML,
    AgreementReptile,
    Config,
    agreement_weights,
)
from common import agreement_experiment, command, experiment, networks
from common.outlier_tasks import with_outliers
from common.results import Result
from common.settings import RunSettings
from common.sine import SineTasks
from common.tasks import Episode

import keras
import numpy as np
import pytest
import tensorflow as tf


def waves(n_tasks=4, seed=0):
    return SineTasks().sample((seed, 1), n_tasks, 5, 4)


def images(n_tasks=3, n_way=3):
    """Tasks of random images with random labels."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 8, 8, 1)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(*map(tf.constant, (x[0], y[0], x[1], y[1])))


def alone(episode, task):
    return Episode(*(part[task : task + 1] for part in episode))


def weights_of(gradients):
    return agreement_weights([tf.constant(gradients, tf.float32)]).numpy()


def one_step(learner, episode):
    """The network's weights after one outer step of SGD; the network is left as it was."""
    before = learner.network.get_weights()
    learner.compile(keras.optimizers.SGD(0.5))
    learner.fit(tf.data.Dataset.from_tensors(episode), verbose=0)
    after = learner.network.get_weights()
    learner.network.set_weights(before)
    return after


def assert_all_close(actual, expected, rtol=1e-4, atol=1e-6):
    assert len(actual) == len(expected) > 0
    for ours, theirs in zip(actual, expected):
        np.testing.assert_allclose(ours, theirs, rtol, atol)


# The weights.


def test_weights_and_direction_worked_by_hand():
    # G = (0.6, 0.8); products 0.6, 1.0, -0.6, whose absolute values sum to 2.2.
    gradients = np.array([(1, 0), (0.6, 0.8), (-1, 0)])
    weights = weights_of(gradients)
    np.testing.assert_allclose(weights, [0.6 / 2.2, 1 / 2.2, -0.6 / 2.2], rtol=1e-6)
    np.testing.assert_allclose(weights, [0.2727, 0.4545, -0.2727], atol=1e-4)
    np.testing.assert_allclose(weights @ gradients, [0.8182, 0.3636], atol=1e-4)


def test_the_step_is_along_the_sum_of_gradients_multiplied_by_their_second_moments():
    # sum_i w_i g_i = (sum_i g_i g_i^T) G / sum_k |g_k . G|, never against G, zero only if G is.
    gradients = np.random.default_rng(0).normal(size=(5, 7))
    total = gradients.sum(axis=0)
    step = weights_of(gradients) @ gradients
    size = np.abs(gradients @ total).sum()
    np.testing.assert_allclose(step, gradients.T @ gradients @ total / size, rtol=1e-4)
    np.testing.assert_allclose(step @ total, np.square(gradients @ total).sum() / size, rtol=1e-4)


def test_all_variables_are_one_vector():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(5, 12)).astype(np.float32)
    parts = [vectors[:, :3], vectors[:, 3:4], vectors[:, 4:].reshape(5, 2, 4)]
    weights = agreement_weights([tf.constant(part) for part in parts])
    np.testing.assert_allclose(weights, weights_of(vectors), rtol=1e-5)
    assert np.abs(weights).sum() == pytest.approx(1, rel=1e-5)
    assert np.any(np.abs(weights - weights_of(vectors[:, :3])) > 0.01)
    np.testing.assert_allclose(weights_of(100 * vectors), weights, rtol=1e-4)


def test_identical_tasks_weigh_the_same():
    np.testing.assert_allclose(weights_of(np.tile([0.3, -2.0, 1.0], (4, 1))), 4 * [0.25])
    np.testing.assert_allclose(weights_of([[3.0, 4.0]]), [1.0])


def test_gradients_that_cancel_leave_equal_weights_and_no_step():
    gradients = np.array([(1.0, 2.0), (-1.0, -2.0)])
    weights = weights_of(gradients)
    np.testing.assert_array_equal(weights, [0.5, 0.5])
    np.testing.assert_array_equal(weights @ gradients, [0, 0])
    np.testing.assert_array_equal(weights_of(np.zeros((4, 2))), 4 * [0.25])


def test_weights_are_constants():
    gradients = tf.constant([(1.0, 0.0), (0.6, 0.8)])
    with tf.GradientTape() as tape:
        tape.watch(gradients)
        total = tf.reduce_sum(agreement_weights([gradients]) * [1.0, 2.0])
    assert tape.gradient(total, gradients) is None


# The gradients of single tasks.


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", ["waves", "images"])
def test_gradients_of_tasks_equal_those_of_a_loop(kind, order):
    if kind == "waves":
        network, episode, loss = networks.mlp(hidden=(8, 8)), waves(), "mse"
    else:
        network, episode, loss = networks.conv4((8, 8, 1), 3, filters=4, blocks=2), images(), None
    learner = AgreementMAML(network, 0.05, 2, order, loss)
    plain = MAML(network, 0.05, 2, order, loss)
    gradients, losses, displacements = learner.task_gradients(episode)
    fast_weights = plain.adapt(*episode[:2], steps=2)
    moved = [w - fast for w, fast in zip(network.trainable_variables, fast_weights)]
    assert_all_close(displacements, moved, 1e-3, 1e-5)
    for task in range(len(losses)):
        with tf.GradientTape() as tape:
            value = plain.meta_loss(alone(episode, task))
        expected = tape.gradient(value, [v.value for v in network.trainable_variables])
        assert_all_close([g[task] for g in gradients], expected, 1e-3, 1e-5)
        assert float(losses[task]) == pytest.approx(float(value), rel=1e-4)


def test_gradients_of_reptile_are_the_ways_to_the_adapted_weights():
    network, episode = networks.mlp(hidden=(8, 8)), waves()
    gradients, _ = AgreementReptile(network, 0.01, 3, "mse").task_gradients(episode)
    adapted = Reptile(network, 0.01, 3, "mse").adapt(*episode[:2])
    expected = [w - fast for w, fast in zip(network.get_weights(), adapted)]
    assert_all_close(gradients, expected)


# The outer step.


@pytest.mark.parametrize("base", ["maml", "reptile"])
def test_identical_tasks_make_the_step_of_the_base_algorithm(base):
    network = networks.mlp(hidden=(8, 8))
    same = Episode(*(tf.repeat(part, 3, axis=0) for part in waves(n_tasks=1)))
    plain, agreeing = {
        "maml": (MAML(network, 0.05, 2, loss="mse"), AgreementMAML(network, 0.05, 2, loss="mse")),
        "reptile": (Reptile(network, 0.01, 3, "mse"), AgreementReptile(network, 0.01, 3, "mse")),
    }[base]
    expected = one_step(plain, same)
    assert_all_close(one_step(agreeing, same), expected, 1e-4, 1e-5)
    assert np.abs(expected[0] - network.get_weights()[0]).max() > 1e-3


@pytest.mark.parametrize("agree_on", ["displacement", "gradient"])
def test_a_step_goes_along_the_weighted_sum(agree_on):
    network, episode = networks.mlp(hidden=(8, 8)), waves()
    learner = AgreementMAML(network, 0.05, 1, loss="mse", agree_on=agree_on)
    gradients, _, displacements = learner.task_gradients(episode)
    measured = {"displacement": displacements, "gradient": gradients}[agree_on]
    weights = agreement_weights(measured).numpy()
    expected = [
        w - 0.5 * sum(weights[i] * g[i].numpy() for i in range(4))
        for w, g in zip(network.get_weights(), gradients)
    ]
    assert np.ptp(weights) > 0.01
    assert_all_close(one_step(learner, episode), expected, 1e-4, 1e-5)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    for learner in (
        AgreementMAML(networks.mlp(hidden=(8, 8)), 0.05, 2, 1, "mse"),
        AgreementReptile(networks.mlp(hidden=(8, 8)), 0.01, 3, "mse", inner_batch=2),
    ):
        learner.save(tmp_path / "learner.keras")
        loaded = keras.saving.load_model(tmp_path / "learner.keras")
        assert type(loaded) is type(learner)
        episode = waves()
        np.testing.assert_allclose(
            loaded.query_predictions(episode), learner.query_predictions(episode), rtol=1e-5
        )


# The experiment.


def test_both_learners_start_equal():
    for base, plain in (("maml", "MAML"), ("reptile", "Reptile")):
        config = Config(base=base, inner_steps=2)
        settings, sampler, _, learners = gradient_agreement.new_learners(config, seed=3)
        assert list(learners) == ["agreement", plain]
        assert settings.run.seed == sampler.seed == 3
        assert settings.inner_steps == learners["agreement"].inner_steps == 2
        first, second = (learner.network.get_weights() for learner in learners.values())
        assert_all_close(first, second, rtol=0, atol=0)
        assert learners["agreement"].network is not learners[plain].network


def test_it_learns_and_says_what_ordinary_tasks_and_outliers_weigh():
    settings = {"inner_steps": 8, "test_steps": 8, "meta_batch_size": 10}
    config = Config(base="reptile", **settings, run=RunSettings(steps=100))
    settings, sampler, test_sampler, learners = gradient_agreement.new_learners(config, seed=0)
    learner = learners["agreement"]
    episodes = test_sampler.fixed(100, 25)
    before = learner.evaluate_episodes(episodes).mean
    history = experiment.train({"agreement": learner}, with_outliers(sampler, 0.3), settings)
    assert learner.evaluate_episodes(episodes).mean < 0.7 * before
    assert set(history) == {"step", "loss", "ordinary_weight", "outlier_weight"}
    assert 0 < np.mean(history["ordinary_weight"]) < 0.2  # 1 / 10, if all are equal and positive
    assert 0 < np.mean(history["outlier_weight"]) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("base", "dataset"), [("maml", "glyphs"), ("reptile", "sine")])
def test_a_run_repeats_resumes_and_is_drawn_from_its_file(base, dataset, tmp_path):
    config = replace(Config.smoke(dataset), base=base, n_seeds=2, outliers=(0.5,))
    result = gradient_agreement.run(config, tmp_path)
    again = gradient_agreement.run(config, tmp_path)  # finds all trainings finished
    assert again.metrics == result.metrics
    score = "accuracy" if dataset == "glyphs" else "mean_squared_error"
    name = "MAML" if base == "maml" else "Reptile"
    assert list(result.metrics) == [
        f"{learner}_{score}_at_50_percent"
        for learner in ("agreement", name, f"agreement_less_{name}")
    ]
    assert all(estimate.n == 2 for estimate in result.metrics.values())
    result.save(tmp_path / "result.json")
    agreement_experiment.draw(Result.load(tmp_path / "result.json"), config, tmp_path)
    assert (tmp_path / "agreement.png").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--base", "protonet"], "--base must be maml or reptile"),
        (["--outliers", "0", "1.5"], "--outliers"),
        (["--outliers", "0.2", "0.2"], "--outliers must be different numbers"),
        (["--outlier-kind", "noise"], "--outlier-kind"),
        (["--base", "reptile", "--agree-on", "gradient"], "--base reptile"),
        (["--dataset", "glyphs", "--outlier-kind", "frequency"], "--dataset glyphs"),
        (["--n-seeds", "0"], "--n-seeds"),
        (["--meta-batch-size", "1"], "--meta-batch-size must be at least 2, got 1"),
        (["--inner-lr", "-1"], "--inner-lr"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(flags, words, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(Config, gradient_agreement.run, agreement_experiment.draw, flags)
    error = capfd.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert list(tmp_path.iterdir()) == []
