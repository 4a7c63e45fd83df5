"""The LSTM meta-learner against hand calculation, NumPy, finite differences and MAML; it learns."""

from chapter01_intro import lstm_meta_learner
from chapter01_intro.lstm_meta_learner import Config, InductiveMAML, LSTMMetaLearner
from chapter05_maml_adml.maml import MAML
from common import adaptation, command, experiment, networks, training
from common.coordinate_lstm import preprocess_gradients
from common.datasets import load
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.results import Result
from common.sine import SineTasks

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def float64():
    """Networks made in the test compute in float64."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


class DoubleLearner(LSTMMetaLearner):
    """Keeps the loss in float64, for comparisons that float32 is too coarse for."""

    def task_losses(self, labels, predictions):
        return tf.reduce_mean((predictions - labels) ** 2, axis=[1, 2])


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def logit(x):
    return float(np.log(x) - np.log1p(-np.float64(x)))


def linear_network(theta=0.0):
    """f(x) = theta x."""
    start = keras.initializers.Constant(theta)
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer=start)
    return keras.Sequential([keras.Input((1,)), layer])


def smooth_network():
    """Without ReLU, at whose corner a derivative by differences means nothing."""
    hidden = keras.layers.Dense(3, activation="tanh")
    return keras.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(1)])


def small_conv(n_way=3, **options):
    return networks.conv4((8, 8, 1), n_way, filters=4, blocks=2, **options)


def with_gates(learner, forget, write):
    """The learner with the same gates for every weight in every step."""
    learner.kernel.assign(tf.zeros_like(learner.kernel))
    bias = [np.inf if forget == 1 else logit(forget), logit(write)]
    learner.bias.assign(np.clip(bias, -50, 50))
    return learner


def with_random_weights(learner, size=0.5, seed=0):
    """The learner with an LSTM and gates that do a lot."""
    random = np.random.default_rng(seed)
    for variable in (*learner.lstm.trainable_variables, learner.kernel):
        variable.assign(random.normal(0, size, variable.shape))
    return learner


def one_task(support, query):
    """The episode of a single task of one (x, y) pair each for support and query."""
    numbers = [[[[number]]] for number in (*support, *query)]
    return Episode(*(tf.constant(number, tf.float32) for number in numbers))


def waves(n_tasks=3, k_shot=5, n_query=4, seed=0, dtype=tf.float32):
    episode = SineTasks().sample((seed, 1), n_tasks, k_shot, n_query)
    return Episode(*(tf.cast(part, dtype) for part in episode))


def images(n_tasks=2, n_way=3, seed=0):
    """Tasks of random images with random labels."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 8, 8, 1)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(*(tf.constant(part) for part in (x[0], y[0], x[1], y[1])))


def meta_weights(learner):
    """All that is meta-learned, theta_0 first."""
    start = learner.network.trainable_variables
    known = {id(v) for v in start}
    return [*start, *(v for v in learner.trainable_variables if id(v) not in known)]


def meta_gradient(learner, episode):
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(episode)
    return tape.gradient(loss, [v.value for v in meta_weights(learner)])


def assert_all_close(actual, expected, rtol=1e-5, atol=1e-6):
    assert len(actual) == len(expected) > 0
    for ours, theirs in zip(actual, expected):
        np.testing.assert_allclose(ours, theirs, rtol, atol)


# By hand.


def test_update_worked_by_hand():
    learner = with_gates(LSTMMetaLearner(linear_network()), forget=0.99, write=0.01)
    # 0.99 * 0.5 - 0.01 * 0.2
    theta = learner.update(tf.constant([[0.5]]), tf.constant([[0.2]]), tf.constant([1.0]))[0]
    np.testing.assert_allclose(theta, [[0.493]], rtol=1e-6)


@pytest.mark.parametrize(("order", "gradient"), [(1, -2.88), (2, -2.24)])
def test_meta_gradient_worked_by_hand(order, gradient):
    # L_S = (theta - 2)^2 at theta = 1: gradient -2, curvature 2. f = 0.9, i = 0.1:
    # theta' = 0.9 + 0.2 = 1.1. L_Q = (2 theta' - 3)^2 = 0.64, its gradient 4 (2.2 - 3) = -3.2,
    # times f in the paper, to which the support gradient is a given number; exactly, f - 2 i.
    episode = one_task((1, 2), (2, 3))
    learner = LSTMMetaLearner(linear_network(1.0), loss="mse", order=order)
    with_gates(learner, 0.9, 0.1)
    np.testing.assert_allclose(learner.adapt(*episode[:2])[0], [[[1.1]]], rtol=1e-6)
    np.testing.assert_allclose(learner.meta_loss(episode), 0.64, rtol=1e-5)
    np.testing.assert_allclose(meta_gradient(learner, episode)[0], [[gradient]], rtol=1e-5)


def test_gates_start_near_those_of_slow_gradient_descent():
    episode = images()
    for seed in range(3):
        learner = LSTMMetaLearner(small_conv(), seed=seed)
        state = learner.inner_step(learner.adapt(*episode[:2], steps=0), *episode[:2])
        forget, write = (
            np.concatenate([np.ravel(g) for g in gate]) for gate in learner.gates(state)
        )
        for values, low, high in ((forget, 0.982, 0.993), (write, 0.0067, 0.018)):
            assert values.min() > 0.95 * low
            assert values.max() < 1.05 * high
            assert np.ptp(values) > 0  # they look at each weight, if only a little
        assert 0.78 < forget.min() ** 12 < 0.92  # twelve steps forget much of the start


# Against other ways to compute the same.


def numpy_update(learner, theta, gradient, loss, hidden, cell, gates):
    """One step of one coordinate, as the module's docstring has it."""
    kernel, recurrent, bias = (w.numpy() for w in learner.lstm.weights)
    seen = np.concatenate([preprocess_gradients(gradient), preprocess_gradients(loss)])
    i, f, o, z = np.split(seen @ kernel + hidden @ recurrent + bias, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(z)
    hidden = sigmoid(o) * np.tanh(cell)
    after = []
    for column, before in enumerate(gates):
        inputs = np.array([*hidden, theta, before])
        after.append(inputs @ learner.kernel.numpy()[:, column] + learner.bias.numpy()[column])
    theta = sigmoid(after[0]) * theta - sigmoid(after[1]) * gradient
    return theta, hidden, cell, after


def test_three_steps_equal_a_transcription_in_numpy():
    learner = with_random_weights(LSTMMetaLearner(linear_network(), units=3))
    random = np.random.default_rng(1)
    gradients = random.normal(size=(3, 2, 4)).astype(np.float32)  # (steps, tasks, coordinates)
    losses = random.uniform(size=(3, 2)).astype(np.float32)
    start = random.normal(size=(2, 4)).astype(np.float32)
    theta, state = tf.constant(start), ()
    for gradient, loss in zip(gradients, losses):
        theta, *state = learner.update(theta, tf.constant(gradient), tf.constant(loss), *state)
    for task, coordinate in np.ndindex(2, 4):
        expected, own = start[task, coordinate], (np.zeros(3), np.zeros(3), (0.0, 0.0))
        for step in range(3):
            seen = gradients[step, task, coordinate], losses[step, task]
            expected, *own = numpy_update(learner, expected, *seen, *own)
        np.testing.assert_allclose(theta[task, coordinate], expected, rtol=1e-4)
        np.testing.assert_allclose(state[-1][task, coordinate], own[-1], rtol=1e-4)


@pytest.mark.parametrize("kind", ["waves", "images"])
def test_gates_at_one_and_a_rate_are_gradient_descent(kind):
    rate = 0.05
    if kind == "waves":
        network, loss, episode = networks.mlp(hidden=(8, 8)), "mse", waves()
    else:
        network, loss, episode = small_conv(), None, images()
    learner = with_gates(LSTMMetaLearner(network, 3, loss), forget=1, write=rate)
    descent = MAML(network, rate, 3, order=1, loss=loss)
    assert_all_close(learner.adapt(*episode[:2]), descent.adapt(*episode[:2]), rtol=1e-4, atol=1e-5)
    own = len(network.trainable_variables)
    ours, theirs = meta_gradient(learner, episode)[:own], meta_gradient(descent, episode)
    assert_all_close(ours, theirs, rtol=1e-3, atol=1e-5)


def finite_differences(function, weights, step=1e-5):
    """The derivative of `function()` in every number of the variables, by central differences."""
    gradients = []
    for weight in weights:
        before = weight.numpy()
        gradient = np.empty_like(before)
        for index in np.ndindex(before.shape):
            values = []
            for sign in (1, -1):
                moved = before.copy()
                moved[index] += sign * step
                weight.assign(moved)
                values.append(float(function()))
            gradient[index] = (values[0] - values[1]) / (2 * step)
        weight.assign(before)
        gradients.append(gradient)
    return gradients


def double_learner(order):
    learner = DoubleLearner(smooth_network(), inner_steps=2, loss="mse", order=order, units=2)
    return with_random_weights(learner)


def test_exact_meta_gradient_matches_finite_differences(float64):
    # It goes twice through the network, and through the LSTM whose input are gradients.
    episode = waves(n_tasks=2, dtype=tf.float64)
    learner = double_learner(order=2)
    meta_loss = tf.function(lambda: learner.meta_loss(episode))
    expected = finite_differences(meta_loss, meta_weights(learner))
    assert_all_close(meta_gradient(learner, episode), expected, rtol=1e-4, atol=1e-6)


def test_the_papers_meta_gradient_takes_support_gradients_as_given(float64):
    episode = waves(n_tasks=2, dtype=tf.float64)
    learner, given = double_learner(order=1), []
    update = learner.update

    def recording(theta, gradient, losses, *state):
        given.append((gradient, losses))
        return update(theta, gradient, losses, *state)

    learner.update = recording
    ours = meta_gradient(learner, episode)
    replay = iter(given)
    learner.update = lambda theta, gradient, losses, *state: update(theta, *next(replay), *state)
    meta_loss = tf.function(lambda: learner.meta_loss(episode), autograph=False)
    expected = finite_differences(meta_loss, meta_weights(learner))
    assert_all_close(ours, expected, rtol=1e-4, atol=1e-6)
    exact = meta_gradient(double_learner(order=2), episode)
    assert np.abs(exact[0] - ours[0]).max() > 1e-3  # which is another one


# What must be equal, and what must not.


def test_adapt_is_its_steps_one_after_the_other():
    episode = images()
    learner = with_random_weights(LSTMMetaLearner(small_conv(), inner_steps=3))
    state = learner.adapt(*episode[:2], steps=0)
    for step in range(3):
        state = learner.inner_step(state, *episode[:2], step=step)
    own = len(learner.network.trainable_variables)
    fast_weights = learner.adapt(*episode[:2])
    assert [w.shape for w in fast_weights] == [
        (2, *v.shape) for v in learner.network.trainable_variables
    ]
    assert_all_close(fast_weights, state[:own])
    forgetful = learner.adapt(*episode[:2], steps=0)
    for step in range(3):  # without what it remembers it does something else
        forgetful = learner.inner_step(forgetful[:own], *episode[:2], step=step)
    assert np.abs(forgetful[0] - fast_weights[0]).max() > 1e-3


def test_a_task_is_adapted_to_its_own_support_set_only():
    learner = with_random_weights(LSTMMetaLearner(small_conv(), inner_steps=2), 0.1)
    episode = images(n_tasks=3)
    together = learner.query_predictions(episode)
    for task in range(3):
        alone = Episode(*(part[task : task + 1] for part in episode))
        np.testing.assert_allclose(
            learner.query_predictions(alone)[0], together[task], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("kind", [LSTMMetaLearner, InductiveMAML])
def test_no_query_of_meta_test_helps_another(kind):
    options = {"inner_lr": 0.1} if kind is InductiveMAML else {}
    learner = kind(small_conv(), inner_steps=2, **options)
    episode = images()
    fewer = episode._replace(query_x=episode.query_x[:, :1], query_y=episode.query_y[:, :1])
    among, alone = (learner.query_predictions(e)[:, 0] for e in (episode, fewer))
    np.testing.assert_allclose(among, alone, rtol=1e-4, atol=1e-5)
    among, alone = (learner.query_predictions(e, training=True)[:, 0] for e in (episode, fewer))
    assert np.abs(among - alone).max() > 1e-2  # in training they are normalised together


@pytest.mark.parametrize("order", [1, 2])
def test_every_weight_has_a_gradient(order):
    learner = LSTMMetaLearner(small_conv(), inner_steps=2, order=order)
    assert len(learner.trainable_variables) == len(learner.network.trainable_variables) + 5
    for gradient in meta_gradient(learner, images()):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_predicts_a_task_from_arrays():
    learner = LSTMMetaLearner(small_conv(), inner_steps=2)
    episode = images(n_tasks=1)
    probabilities = learner.predict_task(*(np.array(part[0]) for part in episode[:3]))
    assert probabilities.shape == (6, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    expected = tf.nn.softmax(learner.query_predictions(episode)[0])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


def test_saved_and_loaded(tmp_path):
    learner = LSTMMetaLearner(small_conv(), inner_steps=2, units=5, seed=3)
    learner.compile(keras.optimizers.Adam(0.1))
    learner.fit(tf.data.Dataset.from_tensors(images()), verbose=0)
    episode = images(seed=3)
    expected = learner.query_predictions(episode)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert isinstance(again, LSTMMetaLearner)
    assert again.lstm.units == 5
    np.testing.assert_array_equal(again.query_predictions(episode), expected)

    learner.save_weights(tmp_path / "learner.weights.h5")
    other = LSTMMetaLearner(small_conv(seed=9), inner_steps=2, units=5)
    other.load_weights(tmp_path / "learner.weights.h5")
    np.testing.assert_array_equal(other.query_predictions(episode), expected)


def test_training_goes_on_where_it_was(tmp_path):
    sampler = EpisodeSampler(SineTasks(), 1, 5, 4)

    def train(steps, folder):
        learner = LSTMMetaLearner(networks.mlp(hidden=(4,)), 2, "mse", units=3)
        learner.compile(keras.optimizers.Adam(0.01))
        place = tmp_path / folder
        training.train(learner, sampler, steps=steps, meta_batch_size=2, directory=place)
        return [v.numpy() for v in learner.trainable_variables]

    at_once = train(4, "whole")
    train(2, "parts")
    for ours, theirs in zip(train(4, "parts"), at_once):
        np.testing.assert_array_equal(ours, theirs)


def test_a_seed_decides_the_gates():
    first, again, other = (LSTMMetaLearner(linear_network(), seed=seed) for seed in (1, 1, 2))
    for ours, theirs in zip(first.trainable_variables, again.trainable_variables):
        np.testing.assert_array_equal(ours, theirs)
    assert np.any(other.kernel.numpy() != first.kernel.numpy())
    assert np.any(other.bias.numpy() != first.bias.numpy())


# Bad input.


@pytest.mark.parametrize(
    ("options", "words"),
    [({"inner_steps": -1}, "inner_steps"), ({"order": 3}, "order"), ({"units": 0}, "units")],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        LSTMMetaLearner(linear_network(), **options)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sgd-rates", "0.1", "-1"], "--sgd-rates must be numbers greater than 0, got 0.1 -1.0"),
        (["--order", "3"], "--order must be 1 (as in the paper) or 2 (exact); got 3"),
        (["--inner-steps", "0"], "--inner-steps must be at least 1, got 0"),
        (["--norm", "fused"], "--norm must be batch or layer or none; got 'fused'"),
    ],
)
def test_impossible_settings_end_in_one_line(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(Config, lstm_meta_learner.run, lstm_meta_learner.draw, flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {words}\n"
    assert list(tmp_path.iterdir()) == []


# It learns; settings and files.


def test_settings_of_the_data_sets():
    assert Config.for_dataset("glyphs") == Config()
    assert Config.for_dataset("omniglot-random").run.steps > Config().run.steps
    assert Config.smoke("omniglot").run.dataset == "omniglot"


def test_the_meta_gradient_is_cut_to_the_authors_length(monkeypatch):
    learner = LSTMMetaLearner(linear_network(), loss="mse")
    monkeypatch.setattr(training, "train", lambda *_, **__: {"step": [], "loss": []})
    experiment.train({"LSTM": learner}, None, Config.smoke())
    assert learner.optimizer.global_clipnorm == 0.25
    assert training.outer_optimizer(Config.smoke()).global_clipnorm is None  # that of MAML


def test_sgd_starts_from_what_was_learned_for_the_lstm(monkeypatch):
    trained, measured, tried = {}, {}, []

    def train(learners, *_):
        trained.update(learners)

    def best(new_learner, rates, config):
        tried.extend(new_learner(rate) for rate in rates)
        return {"best": rates[1], "tried": {}}

    def measure(learners, *_):
        measured.update(learners)
        return Result({}, learner=learners["LSTM"])

    samplers = [EpisodeSampler(SineTasks(), 1, 5, 4)] * 2
    monkeypatch.setattr(experiment, "samplers", lambda config: samplers)
    monkeypatch.setattr(experiment, "train", train)
    monkeypatch.setattr(experiment, "measure", measure)
    monkeypatch.setattr(lstm_meta_learner.rate_search, "best", best)
    monkeypatch.setattr(lstm_meta_learner.gate_figures, "record", lambda *_: {})
    config = Config.smoke("sine")
    lstm_meta_learner.run(config)
    assert list(trained) == ["LSTM", "MAML"]
    assert list(measured) == ["LSTM", "SGD", "MAML"]
    for learner in (measured["SGD"], *tried):
        assert learner.network is trained["LSTM"].network is not trained["MAML"].network
        assert learner.order == 1
        assert learner.test_steps == config.test_steps
    assert [float(learner.inner_lr) for learner in tried] == pytest.approx(config.sgd_rates)
    assert float(measured["SGD"].inner_lr) == pytest.approx(config.sgd_rates[1])


@pytest.mark.slow
def test_smoke_run_leaves_all_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--smoke", "--steps", "2"]
    command.main(Config, lstm_meta_learner.run, lstm_meta_learner.draw, flags)
    (folder,) = (tmp_path / "outputs" / "lstm_meta_learner").iterdir()
    names = {path.name for path in folder.iterdir()}
    figures = {"episode.png", "gates.png", "inner_steps.png", "learning_curve.png"}
    assert names >= {"result.json", "learner.weights.h5", "MAML", *figures}
    result = Result.load(folder / "result.json")
    wanted = {f"{name}_accuracy_after_2_steps" for name in ("LSTM", "SGD", "MAML", "LSTM_less_SGD")}
    assert wanted <= set(result.metrics)
    assert str(result.extra["sgd"]["best"]) in result.extra["sgd"]["tried"]
    assert np.shape(result.extra["gates"]["forget"]) == (6, 2)
    config = Config.smoke()
    learner = lstm_meta_learner.new_learners(config, experiment.samplers(config)[0])["LSTM"]
    before = [v.numpy() for v in learner.trainable_variables]
    learner.load_weights(folder / "learner.weights.h5")
    assert all(np.any(v.numpy() != b) for v, b in zip(learner.trainable_variables, before))


def lines(n_tasks, seed):
    """Regression tasks y = a x with slopes a in -2..2, three points each for support and query."""
    random = np.random.default_rng(seed)
    slopes = random.uniform(-2, 2, size=(n_tasks, 1, 1))
    x = random.normal(size=(2, n_tasks, 3, 1))
    parts = (x[0], slopes * x[0], x[1], slopes * x[1])
    return Episode(*(tf.constant(part, tf.float32) for part in parts))


def test_an_optimiser_of_three_steps_is_learned_for_lines():
    # The network is y = theta x with theta = 0, and theta_0 cannot help: all is in the gates.
    learner = LSTMMetaLearner(linear_network(), inner_steps=3, loss="mse", units=8)
    train_step = tf.function(learner.train_step)
    learner.compile(keras.optimizers.Adam(0.02))
    learner.optimizer.build(learner.trainable_variables)
    unseen = lines(500, seed=10**6)
    before = float(learner.meta_loss(unseen))
    for step in range(200):
        train_step(lines(32, seed=step))
    after = float(learner.meta_loss(unseen))
    assert before > 1  # in steps at a rate of 0.01; E[a^2] = 4 / 3
    assert after < 0.35 * before  # measured: 0.19


@pytest.mark.slow
def test_unseen_scripts_are_learned_from_one_glyph():
    keras.utils.set_random_seed(0)
    train, test = (EpisodeSampler(load("glyphs", split), 5, 1, 5) for split in ("train", "test"))
    learner = LSTMMetaLearner(networks.conv4(filters=8), inner_steps=3)
    episodes = test.fixed(80, 8)
    untrained = adaptation.scores_by_step(learner, episodes, steps=3)
    learner.compile(keras.optimizers.Adam(0.005, global_clipnorm=0.25))
    training.train(learner, train, steps=300, meta_batch_size=4)
    trained = adaptation.scores_by_step(learner, episodes, steps=3)
    for scores in (untrained, trained):  # which class got which label, only the support set says
        assert np.mean(scores[:, 0]) == pytest.approx(0.2, abs=0.04)
    assert np.mean(untrained[:, 3]) < 0.3
    assert np.mean(trained[:, 3]) > 0.45  # measured: 0.58
