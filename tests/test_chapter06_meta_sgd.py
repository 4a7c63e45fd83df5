"""Meta-SGD against hand calculation, finite differences and MAML; and that its rates learn."""

import json

from chapter05_maml_adml.maml import MAML
from chapter06_metasgd_reptile import meta_sgd
from chapter06_metasgd_reptile.meta_sgd import Config, MetaSGD
from common import command, experiment, networks, rate_figures, training
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.results import Result
from common.settings import RunSettings
from common.sine import SineTasks

import keras
import numpy as np
import pytest
import tensorflow as tf


def linear_network():
    """f(x) = theta x, with theta = 0."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((1,)), layer])


def smooth_network():
    """Without ReLU, at whose corner a derivative by differences means nothing."""
    hidden = keras.layers.Dense(3, activation="tanh")
    return keras.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(1)])


def one_task(support, query):
    """The episode of a single task of one (x, y) pair each for support and query."""
    numbers = [[[[number]]] for number in (*support, *query)]
    return Episode(*(tf.constant(number, tf.float32) for number in numbers))


def waves(n_tasks=3, k_shot=5, n_query=4, seed=0):
    return SineTasks().sample((seed, 1), n_tasks, k_shot, n_query)


def images(n_tasks=2, n_way=3, seed=0):
    """Tasks of random images with random labels."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 8, 8, 1)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(*(tf.constant(part) for part in (x[0], y[0], x[1], y[1])))


def gradients(learner, episode):
    """The meta-loss, and its gradients with respect to theta and to alpha, if there is one."""
    alpha = getattr(learner, "alpha", [])
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(episode)
    of = [
        [v.value for v in variables] for variables in (learner.network.trainable_variables, alpha)
    ]
    return loss, *tape.gradient(loss, of)


@pytest.fixture
def task():
    # L_S = (theta - 3)^2 and L_Q = (theta - 1)^2 / 2, at theta = 0 and alpha = 0.1
    return one_task((1, 3), (0.5**0.5, 0.5**0.5))


# By hand: g_S = -6, theta' = 0.6, g_Q = -0.4, H_S = 2.


def test_both_meta_gradients_worked_by_hand(task):
    learner = MetaSGD(linear_network(), 0.1, loss="mse")
    (fast_weight,) = learner.adapt(*task[:2])
    np.testing.assert_allclose(fast_weight, [[[0.6]]], rtol=1e-6)
    loss, (d_theta,), (d_alpha,) = gradients(learner, task)
    np.testing.assert_allclose(loss, 0.08, rtol=1e-5)
    np.testing.assert_allclose(d_theta, [[-0.32]], rtol=1e-5)  # (1 - 0.1 * 2) * -0.4
    np.testing.assert_allclose(d_alpha, [[-2.4]], rtol=1e-5)  # -(-6) * -0.4: alpha must grow


def test_the_first_order_keeps_the_exact_gradient_of_the_rates(task):
    learner = MetaSGD(linear_network(), 0.1, order=1, loss="mse")
    _, (d_theta,), (d_alpha,) = gradients(learner, task)
    np.testing.assert_allclose((d_theta, d_alpha), [[[-0.4]], [[-2.4]]], rtol=1e-5)


def test_an_outer_step_moves_weights_and_rates(task):
    learner = MetaSGD(linear_network(), 0.1, loss="mse")
    learner.compile(keras.optimizers.SGD(0.05))
    learner.fit(tf.data.Dataset.from_tensors(task), verbose=0)
    np.testing.assert_allclose(learner.network.trainable_variables[0], [[0.016]], rtol=1e-5)
    np.testing.assert_allclose(learner.alpha[0], [[0.22]], rtol=1e-5)  # 0.1 + 0.05 * 2.4


def test_a_rate_may_turn_negative():
    # The query lies the other way: g_S = -6, g_Q = 0.6 - (-5), d alpha = 6 * 5.6 = 33.6 (L_Q / 2)
    other = one_task((1, 3), (0.5**0.5, -5 * 0.5**0.5))
    learner = MetaSGD(linear_network(), 0.1, loss="mse")
    learner.compile(keras.optimizers.SGD(0.01))
    learner.fit(tf.data.Dataset.from_tensors(other), verbose=0)
    np.testing.assert_allclose(learner.alpha[0], [[-0.236]], rtol=1e-4)
    before = learner.network.trainable_variables[0].numpy()
    (fast_weight,) = learner.adapt(*other[:2])
    assert fast_weight[0] < before  # up the support loss: no clipping


# Against MAML.


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", ["waves", "images"])
def test_equal_rates_are_maml(kind, order):
    if kind == "waves":
        network, loss, episode = networks.mlp(hidden=(8, 8)), "mse", waves()
    else:
        network, loss, episode = networks.conv4((8, 8, 1), 3, filters=4, blocks=2), None, images()
    ours, theirs = (kind(network, 0.05, 2, order, loss) for kind in (MetaSGD, MAML))
    our_loss, our_gradient, d_alpha = gradients(ours, episode)
    their_loss, their_gradient, _ = gradients(theirs, episode)
    np.testing.assert_array_equal(our_loss, their_loss)
    for ours, theirs in zip(our_gradient, their_gradient):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert all(np.abs(gradient).max() > 0 for gradient in d_alpha)


def test_unequal_rates_are_not_maml():
    network, episode = networks.mlp(hidden=(8, 8)), waves()
    ours = gradients(MetaSGD(network, (0.005, 0.1), loss="mse"), episode)[1]
    theirs = gradients(MAML(network, 0.0525, loss="mse"), episode)[1]
    assert np.abs(ours[0] - theirs[0]).max() > 1e-3 * np.abs(theirs[0]).max()


# Against the definition of a derivative.


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_gradient_of_the_rates_matches_finite_differences(inner_steps):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        network = smooth_network()
        learner = MetaSGD(network, (0.05, 0.3), inner_steps, loss="mse")
    finally:
        keras.config.set_dtype_policy(before)
    episode = Episode(*(tf.cast(part, tf.float64) for part in waves()))
    _, d_theta, d_alpha = gradients(learner, episode)
    for variables, found in ((network.trainable_variables, d_theta), (learner.alpha, d_alpha)):
        for variable, gradient in zip(variables, found):
            start, step = variable.numpy(), 1e-5
            for index in np.ndindex(*start.shape):
                losses = []
                for sign in (1, -1):
                    moved = start.copy()
                    moved[index] += sign * step
                    variable.assign(moved)
                    losses.append(float(learner.meta_loss(episode)))
                variable.assign(start)
                expected = (losses[0] - losses[1]) / (2 * step)
                assert gradient[index].numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)


# Its variables.


def test_theta_and_alpha_are_variables_once_and_alpha_has_the_shapes_of_theta():
    network = networks.mlp(hidden=(8, 8))
    learner = MetaSGD(network, (0.005, 0.1), loss="mse")
    theta = network.trainable_variables
    assert len(learner.trainable_variables) == 2 * len(theta)
    assert {id(v) for v in learner.trainable_variables} == {id(v) for v in [*theta, *learner.alpha]}
    assert [a.shape for a in learner.alpha] == [v.shape for v in theta]
    rates = np.concatenate([np.ravel(a.numpy()) for a in learner.alpha])
    assert 0.005 <= rates.min() < 0.01 < 0.09 < rates.max() <= 0.1
    assert len(np.unique(rates)) > 0.9 * rates.size
    other = MetaSGD(network, (0.005, 0.1), loss="mse", seed=7)
    assert np.any(other.alpha[0].numpy() != learner.alpha[0].numpy())


def test_fast_weights_are_aligned_with_those_of_the_network():
    network = networks.mlp(hidden=(8, 8))
    learner = MetaSGD(network, inner_steps=2, loss="mse")
    fast_weights = learner.adapt(*waves(n_tasks=3)[:2])
    assert [w.shape for w in fast_weights] == [(3, *v.shape) for v in network.trainable_variables]


def trained_for_a_step(learner):
    learner.compile(keras.optimizers.Adam(0.01))
    learner.fit(tf.data.Dataset.from_tensors(waves()), verbose=0)
    return learner


def test_saved_and_loaded_with_its_rates(tmp_path):
    learner = trained_for_a_step(MetaSGD(networks.mlp(hidden=(8, 8)), inner_steps=2, loss="mse"))
    episode = waves(seed=3)
    expected = learner.query_predictions(episode)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert isinstance(again, MetaSGD)
    np.testing.assert_array_equal(again.query_predictions(episode), expected)
    assert again.get_config()["inner_lr"] == [0.005, 0.1]

    learner.save_weights(tmp_path / "learner.weights.h5")
    other = MetaSGD(networks.mlp(hidden=(8, 8), seed=9), 0.2, inner_steps=2, loss="mse")
    other.load_weights(tmp_path / "learner.weights.h5")
    np.testing.assert_array_equal(other.query_predictions(episode), expected)


def test_training_goes_on_where_it_was(tmp_path):
    sampler = EpisodeSampler(SineTasks(), 1, 5, 4)

    def train(steps, folder):
        learner = MetaSGD(networks.mlp(hidden=(8, 8)), loss="mse")
        learner.compile(keras.optimizers.Adam(0.01))
        place = tmp_path / folder
        training.train(learner, sampler, steps=steps, meta_batch_size=2, directory=place)
        return [v.numpy() for v in learner.trainable_variables]

    at_once = train(6, "whole")
    train(3, "parts")
    for ours, theirs in zip(train(6, "parts"), at_once):
        np.testing.assert_array_equal(ours, theirs)


def test_predicts_a_task_from_arrays():
    learner = MetaSGD(networks.conv4((8, 8, 1), 3, filters=4, blocks=2), (0.1, 0.5))
    episode = images(n_tasks=1)
    probabilities = learner.predict_task(*(np.array(part[0]) for part in episode[:3]))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    expected = tf.nn.softmax(learner.query_predictions(episode)[0])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


# Bad input.


@pytest.mark.parametrize("rates", [-0.1, (0.2, 0.1), (-0.1, 0.1), float("nan"), (0.1, np.inf)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(UserError, match="inner_lr"):
        MetaSGD(linear_network(), rates)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--alpha-min", "-1"], "--alpha-min must be greater than 0, got -1.0"),
        (["--alpha-min", "0.2"], "--alpha-max must be at least 0.2, got 0.1"),
        (["--alpha-max", "nan"], "--alpha-max must be a finite number, got nan"),
        (["--inner-steps", "0"], "--inner-steps must be at least 1, got 0"),
        (["--inner-steps", "-1"], "--inner-steps must be at least 0, got -1"),
    ],
)
def test_impossible_settings_end_in_one_line(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(Config, meta_sgd.run, meta_sgd.draw, flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {words}\n"
    assert list(tmp_path.iterdir()) == []


# Settings, figure, script.


def test_settings_of_the_data_sets():
    assert Config.for_dataset("sine") == Config()
    assert Config.for_dataset("sine-frequency").k_shot == 5
    glyphs = Config.for_dataset("glyphs")
    assert (glyphs.n_way, glyphs.outer_decay, glyphs.alpha_max) == (5, True, 0.1)
    assert Config.smoke("glyphs").run.dataset == "glyphs"


def test_summary_of_the_rates_and_its_figure():
    learner = MetaSGD(networks.mlp(hidden=(10, 8)), (0.005, 0.1), loss="mse")
    learner.alpha[2].assign(np.repeat([[-1.0], [1.0]], [20, 60], axis=0).reshape(10, 8))
    rates = rate_figures.summary(learner)
    assert [entry["name"] for entry in rates[:3]] == [
        "Dense 1 kernel", "Dense 1 bias", "Dense 2 kernel",
    ]  # fmt: skip
    assert [entry["size"] for entry in rates] == [10, 10, 80, 8, 8, 1]
    assert rates[2]["negative"] == 0.25
    assert rates[2]["percentiles"] == [-1, 0.5, 1, 1, 1]
    assert rates[0]["negative"] == 0
    assert json.loads(json.dumps(rates)) == rates
    left, right = rate_figures.draw_rates(rates, (0.005, 0.1)).axes
    assert [label.get_text() for label in left.get_yticklabels()][2] == "Dense 2 kernel"
    assert [bar.get_width() for bar in right.patches] == [0, 0, 25, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["sine", "glyphs"])
def test_smoke_run_leaves_all_files(tmp_path, monkeypatch, capsys, dataset):
    monkeypatch.chdir(tmp_path)
    flags = ["--smoke", "--dataset", dataset, "--steps", "3", "--baseline-steps", "2"]
    command.main(Config, meta_sgd.run, meta_sgd.draw, flags)
    (folder,) = (tmp_path / "outputs" / "meta_sgd").iterdir()
    names = {path.name for path in folder.iterdir()}
    figures = {"inner_steps.png", "learning_curve.png", "rates.png"}
    assert names >= {"result.json", "learner.weights.h5", "MAML", *figures}
    result = Result.load(folder / "result.json")
    kind = "mean_squared_error" if dataset == "sine" else "accuracy"
    assert f"Meta-SGD_less_MAML_{kind}_after_1_steps" in result.metrics
    assert f"pooled_{kind}_after_1_steps" in result.metrics
    config = Config.smoke(dataset)
    learner = meta_sgd.new_learner(config, experiment.samplers(config)[0])
    before = [a.numpy() for a in learner.alpha]
    learner.load_weights(folder / "learner.weights.h5")
    assert all(np.any(a.numpy() != b) for a, b in zip(learner.alpha, before))


@pytest.mark.slow
def test_learned_rates_beat_maml_at_equal_steps():
    settings = RunSettings(steps=250)
    config = Config(outer_lr=0.003, eval_episodes=200, run=settings)
    result = meta_sgd.run(config)
    ours, theirs, difference, before = (
        result.metrics[f"{name}_mean_squared_error_after_{steps}_steps"]
        for name, steps in (
            ("Meta-SGD", 1),
            ("MAML", 1),
            ("Meta-SGD_less_MAML", 1),
            ("Meta-SGD", 0),
        )
    )
    assert before.mean > 0.9 * experiment.TASK_BLIND_ERROR
    assert ours.mean < 1.6
    assert difference.mean + difference.ci95 < 0
    assert theirs.mean > ours.mean
    found = np.array([entry["percentiles"] for entry in result.extra["rates"]])
    assert np.ptp(found) > 0.15  # they began within 0.1 of each other
