"""Reptile against hand calculation, Keras's optimizers and a plain loop; and that it learns."""

from dataclasses import replace

from chapter05_maml_adml.maml import MAML
from chapter06_metasgd_reptile import reptile
from chapter06_metasgd_reptile.reptile import Config, Reptile
from common import adaptation, command, experiment, networks, training
from common.datasets import load
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.settings import RunSettings
from common.sine import SineTasks

import keras
import numpy as np
import pytest
import tensorflow as tf

ROOT_HALF = 0.5**0.5  # of this x, the squared error of f = theta x is (theta - s)^2 / 2


def linear_network():
    """f(x) = theta x, with theta = 0."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((1,)), layer])


def point(solution):
    """A task of one point, support and query alike, with the loss (theta - solution)^2 / 2."""
    x, y = ([[[number * ROOT_HALF]]] for number in (1, solution))
    return Episode(*(tf.constant(part, tf.float32) for part in (x, y, x, y)))


def waves(n_tasks=3, k_shot=6, seed=0):
    return SineTasks().sample((seed, 1), n_tasks, k_shot, 4)


def images(n_tasks=2, n_way=3, seed=0):
    """Tasks of random images with random labels."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 8, 8, 1)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(*map(tf.constant, (x[0], y[0], x[1], y[1])))


def small_conv(**options):
    return networks.conv4((8, 8, 1), 3, filters=4, blocks=2, **options)


def outer_step(learner, episode, epsilon):
    """One outer step with SGD at the rate epsilon."""
    learner.compile(keras.optimizers.SGD(epsilon))
    return learner.fit(tf.data.Dataset.from_tensors(episode), verbose=0).history


def assert_all_close(actual, expected, rtol=1e-4, atol=1e-6):
    assert len(actual) == len(expected) > 0
    for ours, theirs in zip(actual, expected):
        np.testing.assert_allclose(ours, theirs, rtol, atol)


# By hand: L = (theta - 2)^2 / 2, theta = 0, alpha = 0.5.


def test_two_inner_steps_and_an_outer_step_worked_by_hand():
    # Gradients -2 and -1: 0, then 1, then 1.5.
    learner = Reptile(linear_network(), 0.5, 2, "mse", inner_optimizer="sgd")
    episode = point(2.0)
    for steps, adapted in ((0, 0.0), (1, 1.0), (2, 1.5)):
        (fast_weight,) = learner.adapt(*episode[:2], steps=steps)
        np.testing.assert_allclose(fast_weight, [[[adapted]]], rtol=1e-6)
    history = outer_step(learner, episode, epsilon=0.1)
    np.testing.assert_allclose(learner.network.get_weights(), [[[0.15]]], rtol=1e-6)
    np.testing.assert_allclose(history["loss"], [0.125], rtol=1e-5)  # (1.5 - 2)^2 / 2


def test_reptile_adds_up_the_gradients_of_which_first_order_maml_takes_the_last():
    episode = point(2.0)
    learner = Reptile(linear_network(), 0.5, 2, "mse", inner_optimizer="sgd")
    (gradient,), _ = learner.task_gradients(episode)
    np.testing.assert_allclose(gradient / learner.inner_lr, [[[-3.0]]], rtol=1e-6)

    learner = MAML(linear_network(), 0.5, 1, order=1, loss="mse")
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(episode)
    (gradient,) = tape.gradient(loss, [v.value for v in learner.trainable_variables])
    np.testing.assert_allclose(gradient, [[-1.0]], rtol=1e-6)


def test_adam_goes_a_step_of_the_rate_first():
    learner = Reptile(linear_network(), 0.1, 1, "mse")
    (fast_weight,) = learner.adapt(*point(2.0)[:2])
    np.testing.assert_allclose(fast_weight, [[[0.1]]], rtol=1e-5)


# The outer step.


@pytest.mark.parametrize("inner_optimizer", ["adam", "sgd"])
def test_an_outer_step_of_0_changes_nothing_and_of_1_lands_on_the_adapted_weights(inner_optimizer):
    network = networks.mlp(hidden=(8, 8))
    learner = Reptile(network, 0.01, 4, "mse", inner_optimizer=inner_optimizer)
    episode, before = waves(n_tasks=1), network.get_weights()
    adapted = [weight[0] for weight in learner.adapt(*episode[:2])]
    outer_step(learner, episode, epsilon=0.0)
    assert_all_close(network.get_weights(), before, rtol=0, atol=0)
    outer_step(learner, episode, epsilon=1.0)
    assert_all_close(network.get_weights(), adapted)
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(adapted, before))


def test_the_batched_version_goes_to_the_mean_of_the_adapted_weights():
    network = networks.mlp(hidden=(8, 8))
    learner = Reptile(network, 0.01, 3, "mse")
    episode, before = waves(n_tasks=3), network.get_weights()
    alone = [learner.adapt(*(part[i : i + 1] for part in episode[:2])) for i in range(3)]
    mean = [np.mean([np.array(w)[0] for w in task], axis=0) for task in zip(*alone)]
    outer_step(learner, episode, epsilon=0.25)
    expected = [b + 0.25 * (m - b) for b, m in zip(before, mean)]
    assert_all_close(network.get_weights(), expected)


def test_one_inner_step_is_joint_training():
    network, episode = networks.mlp(hidden=(8, 8)), waves()
    learner = Reptile(network, 0.02, 1, "mse", inner_optimizer="sgd")
    with tf.GradientTape() as tape:
        predictions = tf.map_fn(network, episode.support_x)
        loss = tf.reduce_mean((predictions - episode.support_y) ** 2)
    joint = tape.gradient(loss, network.trainable_variables)
    expected = [w - 0.5 * 0.02 * g for w, g in zip(network.get_weights(), joint)]
    outer_step(learner, episode, epsilon=0.5)
    assert_all_close(network.get_weights(), expected)


def test_several_inner_steps_are_more_than_joint_training():
    network, episode = networks.mlp(hidden=(8, 8)), waves()
    (one, _), (two, _) = (
        Reptile(network, 0.02, steps, "mse", inner_optimizer="sgd").task_gradients(episode)
        for steps in (1, 2)
    )
    assert np.abs(two[0] - 2 * one[0]).max() > 0.01 * np.abs(one[0]).max()


# The inner loop against Keras's own optimizers, task by task.


def adapted_by_keras(network, loss, optimizer, batches):
    """The weights after one step of the optimizer on each batch; leaves the network as it was."""
    before = network.get_weights()
    for x, y in batches:
        with tf.GradientTape() as tape:
            value = loss(y, network(x, training=True))
        gradients = tape.gradient(value, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
    found = [v.numpy() for v in network.trainable_variables]
    network.set_weights(before)
    return found


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_inner_steps_on_waves_equal_those_of_keras(kind):
    network, episode = networks.mlp(hidden=(8, 8)), waves(n_tasks=2)
    learner = Reptile(network, 0.01, 5, "mse", inner_optimizer=kind, inner_batch=4)
    fast_weights = learner.adapt(*episode[:2])
    rows = [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5], [0, 1, 2, 3], [4, 5, 0, 1]]  # of 6
    for task in range(2):
        x, y = episode.support_x[task].numpy(), episode.support_y[task].numpy()
        options = {"beta_1": 0.0} if kind == "adam" else {}
        optimizer = keras.optimizers.get({"class_name": kind, "config": options})
        optimizer.learning_rate = 0.01
        batches = [(x[chosen], y[chosen]) for chosen in rows]
        expected = adapted_by_keras(network, keras.losses.MeanSquaredError(), optimizer, batches)
        assert_all_close([weight[task] for weight in fast_weights], expected, atol=1e-5)


def test_adams_running_squares_go_on_from_task_to_task():
    # Keras's Adam, taken through two tasks one after the other; only the weights go back to phi.
    network, first, second = networks.mlp(hidden=(8, 8)), waves(n_tasks=1), waves(n_tasks=1, seed=1)
    learner = Reptile(network, 0.01, 3, "mse", inner_memory=True)
    optimizer = keras.optimizers.Adam(0.01, beta_1=0.0)
    for episode in (first, second):
        gradients, _ = learner.task_gradients(episode)
        batches = 3 * [(episode.support_x[0].numpy(), episode.support_y[0].numpy())]
        adapted = adapted_by_keras(network, keras.losses.MeanSquaredError(), optimizer, batches)
        found = [v - g[0] for v, g in zip(network.trainable_variables, gradients)]
        assert_all_close(found, adapted, atol=1e-5)
    assert int(learner.steps_before) == 6
    anew = Reptile(network, 0.01, 3, "mse").adapt(*second[:2], training=True)
    assert not np.allclose(anew[0][0], found[0], atol=1e-4)


def test_a_test_begins_with_the_squares_of_training_and_leaves_them(tmp_path):
    network, episode = networks.mlp(hidden=(8,)), waves(n_tasks=2)
    learner = Reptile(network, 0.01, 2, "mse", inner_memory=True)
    learner.task_gradients(episode)
    kept = [v.numpy() for v in learner.memory]
    assert all(np.abs(v).max() > 0 for v in kept)
    adapted = learner.adapt(*episode[:2])
    assert_all_close([v.numpy() for v in learner.memory], kept)
    path = tmp_path / "learner.weights.h5"
    learner.save_weights(path)
    loaded = Reptile.from_config(learner.get_config())
    loaded.load_weights(path)
    assert_all_close(loaded.adapt(*episode[:2]), adapted)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_inner_steps_on_images_equal_those_of_keras(norm):
    network, episode = small_conv(norm=norm), images()
    learner = Reptile(network, 0.01, 3, inner_optimizer="sgd")
    fast_weights = learner.adapt(*episode[:2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for task in range(2):
        batches = 3 * [(episode.support_x[task], episode.support_y[task])]
        expected = adapted_by_keras(network, loss, keras.optimizers.SGD(0.01), batches)
        assert_all_close([weight[task] for weight in fast_weights], expected, 1e-3, 1e-5)


def test_a_batch_of_the_whole_support_set_or_more_is_all_of_it():
    network, episode = networks.mlp(hidden=(8, 8)), waves()
    whole = Reptile(network, 0.01, 2, "mse").adapt(*episode[:2])
    for inner_batch in (6, 7):
        other = Reptile(network, 0.01, 2, "mse", inner_batch=inner_batch).adapt(*episode[:2])
        assert_all_close(other, whole, rtol=0, atol=0)


def test_steps_taken_one_by_one_are_those_of_the_loop():
    network, episode = networks.mlp(hidden=(8, 8)), waves()
    learner = Reptile(network, 0.01, 3, "mse", inner_batch=4)
    state = learner.adapt(*episode[:2], steps=0)
    for _ in range(3):
        state = learner.inner_step(state, *episode[:2])
    assert_all_close(state[:6], learner.adapt(*episode[:2]))
    predictions = learner.query_predictions(episode)
    np.testing.assert_allclose(learner.predict_with(state, episode.query_x), predictions, 1e-5)
    batches = tf.data.Dataset.from_tensors(episode)
    scores = adaptation.scores_by_step(learner, batches, steps=3)
    np.testing.assert_allclose(scores[:, 3], learner.episode_scores(batches), rtol=1e-4)


def test_adapted_weights_have_the_derivative_of_first_order():
    network, episode = networks.mlp(hidden=(8, 8)), waves()
    learner = Reptile(network, 0.01, 3, "mse")
    with tf.GradientTape() as tape:
        fast_weights = learner.adapt(*episode[:2])
    gradients = tape.gradient(fast_weights, [v.value for v in network.trainable_variables])
    assert_all_close(gradients, [np.full(v.shape, 3.0) for v in network.trainable_variables])


# Alone or together.


def test_without_other_queries_the_two_ways_to_ask_differ_by_the_support_set_alone():
    network, episode = small_conv(), images()
    fast_weights = Reptile(network, 0.05, 2).adapt(*episode[:2])
    alone = Reptile(network, 0.05, 2).predict_queries(fast_weights, episode)
    for query in range(6):
        batch = tf.concat([episode.support_x, episode.query_x[:, query : query + 1]], axis=1)
        expected = Reptile(network, 0.05).predict_with(fast_weights, batch)[:, -1]
        np.testing.assert_allclose(alone[:, query], expected, rtol=1e-4, atol=1e-5)
    fewer = episode._replace(query_x=episode.query_x[:, 2:4])  # the company makes no difference
    some = Reptile(network, 0.05, 2).predict_queries(fast_weights, fewer)
    np.testing.assert_allclose(some, alone[:, 2:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_only_batch_normalisation_is_transductive(norm):
    network, episode = small_conv(norm=norm), images()
    alone, together = (
        Reptile(network, 0.05, 2, transductive=choice).query_predictions(episode)
        for choice in (False, True)
    )
    difference = np.abs(alone - together).max()
    assert alone.shape == together.shape == (2, 6, 3)
    assert difference > 1e-2 if norm == "batch" else difference < 1e-5


# Kept, resumed, refused.


def test_saved_and_loaded_it_predicts_the_same(tmp_path):
    learner = Reptile(small_conv(), 0.02, 2, None, 3, "sgd", 4, True)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    configs = [other.get_config() for other in (loaded, learner)]
    for config in configs:
        config.pop("network")
    assert configs[0] == configs[1]
    episode = images(n_tasks=1)
    parts = [np.array(part[0]) for part in episode[:3]]
    probabilities = learner.predict_task(*parts)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(loaded.predict_task(*parts), probabilities, rtol=1e-5)


def test_resumed_training_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    config = replace(Config.smoke("sine-phase"), inner_steps=2, run=RunSettings(steps=4))
    sampler = EpisodeSampler(SineTasks(), 1, 5, 4)

    def trained(steps, directory=None):
        learner = Reptile(networks.mlp(hidden=(8, 8)), 0.01, 2, "mse")
        learner.compile(Reptile.outer_optimizer(config))
        training.train(learner, sampler, steps=steps, meta_batch_size=2, directory=directory)
        return learner

    trained(2, tmp_path)
    resumed = trained(4, tmp_path)
    assert_all_close(resumed.network.get_weights(), trained(4).network.get_weights(), rtol=1e-6)
    assert float(resumed.optimizer.learning_rate) == 0.0  # epsilon has fallen from 1 to 0


def test_epsilon_falls_along_a_straight_line():
    config = replace(Config(), outer_lr=0.8, run=RunSettings(steps=100))
    rate = Reptile.outer_optimizer(config)._learning_rate
    np.testing.assert_allclose([rate(step) for step in (0, 25, 100)], [0.8, 0.6, 0.0], atol=1e-7)
    constant = Reptile.outer_optimizer(replace(config, outer_decay=False))
    assert float(constant.learning_rate) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inner_lr": -0.1}, "inner_lr"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"inner_optimizer": "momentum"}, "adam or sgd"),
        ({"inner_batch": -1}, "inner_batch"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(UserError, match=words) as refusal:
        Reptile(linear_network(), **{"inner_lr": 0.1, **options})
    assert str(*options.values()) in str(refusal.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train-shots", "0"], "--train-shots"),
        (["--inner-steps", "0"], "--inner-steps"),
        (["--inner-batch", "-1"], "--inner-batch"),
        (["--inner-optimizer", "rmsprop"], "--inner-optimizer"),
        (["--hidden", "8", "0"], "--hidden"),
        (["--outer-lr", "0"], "--outer-lr"),
        (["--order", "3"], "--order must be 1 (first-order) or 2 (exact); got 3"),
        (["--norm", "group"], "--norm must be batch or layer or none"),
        (["--baseline-steps", "0", "--order", "1"], "--order and --later-lr-factor"),
        (["--dataset", "glyphs", "--later-lr-factor", "0.5"], "--baseline-steps 0"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(flags, words, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(Config, reptile.run, experiment.draw, flags)
    error = capfd.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert list(tmp_path.iterdir()) == []


# It learns.


def test_waves_are_learned():
    sampler = EpisodeSampler(load("sine-phase", "train"), 1, 10, 10)
    episodes = EpisodeSampler(load("sine-phase", "test"), 1, 10, 10).fixed(100, 25)
    config = replace(Config(), run=RunSettings(steps=150))
    learner = reptile.new_learner(config, sampler)
    untrained = adaptation.scores_by_step(learner, episodes, steps=5)
    experiment.train({"Reptile": learner}, sampler, config)
    trained = adaptation.scores_by_step(learner, episodes, steps=5)
    zero = np.mean([np.mean(batch.query_y**2) for batch in episodes])
    assert np.mean(trained[:, 0]) > 0.9 * zero  # nobody can know the wave before its points
    assert np.mean(trained[:, 5]) < 0.6 * np.mean(untrained[:, 5])


@pytest.mark.slow
def test_a_run_measures_all_learners_and_repeats(tmp_path):
    config = replace(Config.smoke("glyphs"), eval_episodes=4, test_steps=2, baseline_steps=2)
    config = replace(config, run=replace(config.run, steps=2))
    result, again = reptile.run(config, tmp_path), reptile.run(config)
    for name in ("Reptile", "MAML", "Reptile_transductive"):
        assert result.metrics[f"{name}_accuracy_after_2_steps"].n == 4
    assert again.metrics == result.metrics
    assert (tmp_path / "learner.weights.h5").exists()
    assert (tmp_path / "MAML" / "learner.weights.h5").exists()
    experiment.draw(result, config, tmp_path)


@pytest.mark.slow
def test_smoke_run_on_waves():
    result = reptile.run(Config.smoke("sine-phase"))
    assert result.metrics["Reptile_mean_squared_error_after_32_steps"].n == 20
    assert "MAML_mean_squared_error_after_32_steps" in result.metrics
