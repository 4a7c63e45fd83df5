"""MAML against hand calculation, finite differences and a plain loop; and that it learns."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from chapter05_maml_adml import maml
from chapter05_maml_adml.maml import MAML, Config
from common import adaptation, experiment, networks, training
from common.datasets import load
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.settings import RunSettings
from common.sine import SineTasks

import keras
import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def float64():
    """Networks made in the test compute in float64."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


class DoubleMAML(MAML):
    """Keeps the loss in float64, for comparisons that float32 is too coarse for."""

    def task_losses(self, labels, predictions):
        if self.classifies:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, predictions)
        else:
            losses = tf.reduce_mean((predictions - labels) ** 2, axis=-1)
        return tf.reduce_mean(losses, axis=1)


def linear_network(inputs=1):
    """f(x) = theta . x, with theta = 0."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((inputs,)), layer])


def small_conv(n_way=3, **options):
    return networks.conv4((8, 8, 1), n_way, filters=4, blocks=2, **options)


def one_task(support, query):
    """The episode of a single task of one (x, y) pair each for support and query."""
    numbers = [[[[number]]] for number in (*support, *query)]
    return Episode(*(tf.constant(number, tf.float32) for number in numbers))


def waves(n_tasks=3, k_shot=5, n_query=4, seed=0, dtype=tf.float32):
    episode = SineTasks().sample((seed, 1), n_tasks, k_shot, n_query)
    return Episode(*(tf.cast(part, dtype) for part in episode))


def images(n_tasks=2, n_way=3, seed=0, dtype=tf.float32):
    """Tasks of random images with random labels."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 8, 8, 1))
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(tf.cast(x[0], dtype), y[0], tf.cast(x[1], dtype), y[1])


def meta_gradient(learner, episode):
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(episode)
    return tape.gradient(loss, [v.value for v in learner.network.trainable_variables])


def assert_all_close(actual, expected, rtol=1e-5, atol=1e-6):
    assert len(actual) == len(expected) > 0
    for ours, theirs in zip(actual, expected):
        np.testing.assert_allclose(ours, theirs, rtol, atol)


# By hand. Keras's "mse" of one point is (f - y)^2, without 1/2.


@pytest.mark.parametrize(
    ("support", "query", "adapted", "query_loss", "first_order", "exact"),
    [
        # L_S = (theta - 3)^2, L_Q = (theta - 1)^2 / 2: theta' = 0 - 0.1 * (-6); g_Q = theta' - 1;
        # exact: (1 - 0.1 * 2) g_Q
        ((1, 3), (0.5**0.5, 0.5**0.5), 0.6, 0.08, -0.4, -0.32),
        # L_S = (theta - 2)^2, L_Q = (2 theta - 3)^2: theta' = 0.4, g_Q = 2 * 2 * (0.8 - 3)
        ((1, 2), (2, 3), 0.4, 4.84, -8.8, -7.04),
    ],
)
def test_one_inner_step_worked_by_hand(support, query, adapted, query_loss, first_order, exact):
    episode = one_task(support, query)
    for order, gradient in ((1, first_order), (2, exact)):
        learner = MAML(linear_network(), inner_lr=0.1, order=order, loss="mse")
        (fast_weight,) = learner.adapt(episode.support_x, episode.support_y)
        assert fast_weight.shape == (1, 1, 1)  # (tasks, *shape of the weight)
        np.testing.assert_allclose(fast_weight, [[[adapted]]], rtol=1e-6)
        np.testing.assert_allclose(learner.meta_loss(episode), query_loss, rtol=1e-5)
        np.testing.assert_allclose(meta_gradient(learner, episode), [[[gradient]]], rtol=1e-5)


def test_later_inner_steps_may_be_smaller():
    # L_S = (theta - 3)^2: theta = 0, then 0.6, then 0.6 + 0.1 * 0.5 * 4.8
    support = one_task((1, 3), (1, 1))[:2]
    learner = MAML(linear_network(), inner_lr=0.1, loss="mse", later_lr_factor=0.5)
    for steps, adapted in ((1, 0.6), (2, 0.84)):
        (fast_weight,) = learner.adapt(*support, steps=steps)
        np.testing.assert_allclose(fast_weight, [[[adapted]]], rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_several_inner_steps_on_a_quadratic_are_a_product_of_matrices(order):
    # The Hessian H of the support loss is constant; K steps give (I - alpha H)^K g_Q(theta_K),
    # first-order MAML lacks the product.
    random = np.random.default_rng(0)
    support_x, query_x = random.normal(size=(2, 5, 3))
    support_y, query_y = random.normal(size=(2, 5, 1))
    alpha, steps, theta = 0.1, 4, np.zeros((3, 1))
    hessian = 2 / 5 * support_x.T @ support_x
    for _ in range(steps):
        theta = theta - alpha * 2 / 5 * support_x.T @ (support_x @ theta - support_y)
    expected = 2 / 5 * query_x.T @ (query_x @ theta - query_y)
    if order == 2:
        expected = np.linalg.matrix_power(np.eye(3) - alpha * hessian, steps) @ expected

    parts = (support_x, support_y, query_x, query_y)
    episode = Episode(*(tf.constant(part[None], tf.float32) for part in parts))
    learner = MAML(linear_network(3), alpha, steps, order, loss="mse")
    assert_all_close(learner.adapt(*episode[:2]), [theta[None]])
    assert_all_close(meta_gradient(learner, episode), [expected])


@pytest.mark.parametrize(("n_way", "loss"), [(5, 1.6094), (20, 2.9957)])
def test_equal_logits_cost_the_logarithm_of_the_number_of_classes(n_way, loss):
    head = keras.layers.Dense(n_way, kernel_initializer="zeros")
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), head])
    learner = MAML(network, inner_lr=2.0, inner_steps=0)
    assert math.log(n_way) == pytest.approx(loss, abs=1e-4)
    assert float(learner.meta_loss(images(n_way=n_way))) == pytest.approx(loss, abs=1e-4)


# Against the definition of a derivative.


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


def smooth_network(kind):
    """Without ReLU, at whose corner a derivative by differences means nothing."""
    if kind == "waves":
        hidden = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3, "tanh")]
        return keras.Sequential([keras.Input((1,)), *hidden, keras.layers.Dense(1)])
    convolution = keras.layers.Conv2D(2, 3, strides=4, activation="tanh")
    hidden = [convolution, keras.layers.BatchNormalization(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 1)), *hidden, keras.layers.Dense(3)])


@pytest.mark.parametrize(("kind", "steps"), [("waves", 1), ("waves", 3), ("images", 2)])
def test_exact_meta_gradient_matches_finite_differences(float64, kind, steps):
    loss, episode = ("mse", waves) if kind == "waves" else (None, images)
    network, episode = smooth_network(kind), episode(dtype=tf.float64)
    learner = DoubleMAML(network, inner_lr=0.1, inner_steps=steps, loss=loss)
    meta_loss = tf.function(lambda: learner.meta_loss(episode))
    expected = finite_differences(meta_loss, network.trainable_variables)
    assert_all_close(meta_gradient(learner, episode), expected, rtol=0, atol=1e-6)


# Against Algorithm 2 as it is written.


def mean_squared_error(labels, predictions):
    return tf.reduce_mean((labels - predictions) ** 2)


def cross_entropy(labels, logits):
    chosen = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return -tf.reduce_mean(tf.reduce_sum(chosen * tf.nn.log_softmax(logits), axis=-1))


def exact_moments(x, axes, keepdims=False):
    """`tf.nn.moments` with a right second derivative: TensorFlow's stops gradients at the mean."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean((x - mean) ** 2, axes, keepdims=keepdims)
    return mean if keepdims else tf.squeeze(mean, axes), variance


def meta_gradient_by_loop(network, loss, episode, inner_lr, steps, order):
    """One task after the other, each with weights of its own: (adapted weights, meta-gradient)."""
    theta = [v.value for v in network.trainable_variables]
    state = [v.value for v in network.non_trainable_variables]

    def predict(weights, x):
        return network.stateless_call(weights, state, x, training=True)[0]

    adapted, gradients = [], []
    for support_x, support_y, query_x, query_y in zip(*episode):
        with tf.GradientTape() as outer:
            outer.watch(theta)
            weights = theta
            for _ in range(steps):
                with tf.GradientTape() as inner:
                    inner.watch(weights)
                    support_loss = loss(support_y, predict(weights, support_x))
                slopes = inner.gradient(support_loss, weights)
                weights = [w - inner_lr * slope for w, slope in zip(weights, slopes)]
            outer.watch(weights)
            query_loss = loss(query_y, predict(weights, query_x))
        adapted.append(weights)
        # First-order MAML takes the derivative where the inner steps ended.
        gradients.append(outer.gradient(query_loss, theta if order == 2 else weights))
    return [np.stack(w) for w in zip(*adapted)], [np.mean(g, axis=0) for g in zip(*gradients)]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", ["mlp", "strided batch", "pooled layer"])
def test_meta_gradient_equals_that_of_a_loop_over_tasks(monkeypatch, kind, order, steps):
    if kind == "mlp":
        network, episode = networks.mlp(hidden=(8, 8)), waves()
        inner_lr, name, loss = 0.05, "mse", mean_squared_error
    else:
        form, norm = kind.split()
        network, episode = small_conv(strided=form == "strided", norm=norm), images()
        inner_lr, name, loss = 0.3, None, cross_entropy
    learner = MAML(network, inner_lr, steps, order, name)
    with monkeypatch.context() as patch:
        patch.setattr(tf.nn, "moments", exact_moments)  # what Keras normalises with
        adapted, gradients = meta_gradient_by_loop(network, loss, episode, inner_lr, steps, order)
    assert_all_close(learner.adapt(*episode[:2]), adapted, rtol=1e-3, atol=1e-5)
    assert_all_close(meta_gradient(learner, episode), gradients, rtol=1e-3, atol=1e-5)


# What must be equal, and what must not.


def gradients_of_both_orders(episode, inner_lr=0.05, inner_steps=2, loss="mse"):
    network = networks.mlp(hidden=(8, 8))
    return [
        meta_gradient(MAML(network, inner_lr, inner_steps, order, loss), episode)
        for order in (1, 2)
    ]


def test_orders_differ_in_general():
    first, exact = gradients_of_both_orders(waves())
    for ours, theirs in zip(first[:-1], exact[:-1]):  # all but the last bias
        assert np.abs(ours - theirs).max() > 0.05 * np.abs(theirs).max()


@pytest.mark.parametrize("options", [{"inner_lr": 0.0}, {"inner_steps": 0}])
def test_without_adaptation_it_is_plain_training_on_the_query_set(options):
    episode = waves()
    network = networks.mlp(hidden=(8, 8))
    with tf.GradientTape() as tape:
        loss = mean_squared_error(episode.query_y, tf.map_fn(network, episode.query_x))
    plain = tape.gradient(loss, network.trainable_variables)
    for gradient in gradients_of_both_orders(episode, **options):
        assert_all_close(gradient, plain)


def test_orders_agree_where_the_support_loss_is_linear_in_the_weights():
    def mean_output(labels, predictions):
        return tf.reduce_mean(predictions, axis=-1)

    network = linear_network(2)  # H_S = 0
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 3, 4, 2)), np.zeros((2, 3, 4, 1))
    episode = Episode(*(tf.constant(p, tf.float32) for p in (x[0], y[0], x[1], y[1])))
    first, exact = (
        meta_gradient(MAML(network, 0.1, 2, order, mean_output), episode) for order in (1, 2)
    )
    assert_all_close(first, exact)


@pytest.mark.parametrize("order", [1, 2])
def test_meta_gradient_is_the_mean_over_tasks(order):
    learner = MAML(networks.mlp(hidden=(8, 8)), 0.05, 2, order, "mse")
    episode = waves(n_tasks=3)
    expected = meta_gradient(learner, episode)
    for order_of_tasks in ([2, 0, 1], [0, 1, 2, 0, 1, 2]):
        other = Episode(*(tf.gather(part, order_of_tasks) for part in episode))
        assert_all_close(meta_gradient(learner, other), expected)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_permuting_the_classes_permutes_the_logits(inner_steps):
    # Each output must start equal, as with a last layer of zeros. Then the labels are all that
    # tells the classes apart, before each inner step and after it.
    network = small_conv(n_way=4)
    learner = MAML(network, inner_lr=0.3, inner_steps=inner_steps)
    episode = images(n_way=4)
    order = np.array([2, 0, 3, 1])  # label c becomes order[c]
    renamed = episode._replace(support_y=order[episode.support_y])

    before, after = learner.query_predictions(episode), learner.query_predictions(renamed)
    assert np.abs(tf.gather(after, order, axis=-1) - before).max() > 0.1

    for weight in network.layers[-1].weights:
        weight.assign(tf.zeros_like(weight))
    before, after = learner.query_predictions(episode), learner.query_predictions(renamed)
    assert np.std(before, axis=-1).min() > 1e-3  # it tells classes apart
    np.testing.assert_allclose(tf.gather(after, order, axis=-1), before, rtol=1e-3, atol=1e-5)


def test_a_task_is_adapted_to_its_own_support_set_only():
    learner = MAML(networks.mlp(hidden=(8, 8)), 0.05, 2, loss="mse")
    episode = waves(n_tasks=3)
    together = learner.query_predictions(episode)
    for task in range(3):
        alone = Episode(*(part[task : task + 1] for part in episode))
        np.testing.assert_allclose(learner.query_predictions(alone)[0], together[task], rtol=1e-4)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "layer", "none", "mlp"])
def test_every_weight_has_a_gradient(norm, order):
    if norm == "mlp":
        learner = MAML(networks.mlp(hidden=(8, 8)), 0.05, 2, order, "mse")
        episode = waves()
    else:
        learner, episode = MAML(small_conv(norm=norm), 0.3, 2, order), images()
    assert len(learner.trainable_variables) == len(learner.network.trainable_variables)
    for gradient in meta_gradient(learner, episode):
        assert gradient is not None
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


class WithSpareWeight(keras.layers.Dense):
    """A layer with a weight that nothing depends on."""

    def build(self, input_shape):
        super().build(input_shape)
        self.spare = self.add_weight(name="spare", shape=(2,), initializer="ones")


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
@pytest.mark.parametrize("order", [1, 2])
def test_a_weight_that_nothing_depends_on_stays_and_stops_nothing(order):
    network = keras.Sequential([keras.Input((1,)), WithSpareWeight(4), keras.layers.Dense(1)])
    learner = MAML(network, 0.05, 2, order, "mse")
    learner.compile(keras.optimizers.Adam(0.01))
    before = [v.numpy() for v in network.trainable_variables]
    learner.fit(tf.data.Dataset.from_tensors(waves()), verbose=0)
    moved = [np.abs(v - b).max() > 0 for v, b in zip(network.trainable_variables, before)]
    names = [v.name for v in network.trainable_variables]
    assert [name for name, has_moved in zip(names, moved) if not has_moved] == ["spare"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inner_lr": -0.1}, "inner_lr"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"test_steps": -1}, "test_steps"),
        ({"later_lr_factor": -1.0}, "later_lr_factor"),
        ({"order": 3}, "order"),
        ({"order": 0}, "order"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(UserError, match=words) as refusal:
        MAML(linear_network(), **{"inner_lr": 0.1, **options})
    assert str(*options.values()) in str(refusal.value)


def test_predict_task_learns_one_task_from_arrays():
    episode = images(n_tasks=1)
    learner = MAML(small_conv(), 0.3)
    probabilities = learner.predict_task(*(np.array(part[0]) for part in episode[:3]))
    assert isinstance(probabilities, np.ndarray)
    assert probabilities.shape == (6, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    expected = tf.nn.softmax(learner.query_predictions(episode)[0])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)

    episode = waves(n_tasks=1, n_query=7)
    learner = MAML(networks.mlp(), 0.01, loss="mse")
    values = learner.predict_task(*(part[0].numpy() for part in episode[:3]))
    assert values.shape == (7, 1)
    np.testing.assert_allclose(values, learner.query_predictions(episode)[0], rtol=1e-4)


def test_test_steps_count_outside_training():
    episode = waves()
    learner = MAML(networks.mlp(), 0.01, inner_steps=1, loss="mse", test_steps=4)
    support = episode[:2]
    assert_all_close(learner.adapt(*support), learner.adapt(*support, steps=4))
    assert_all_close(learner.adapt(*support, training=True), learner.adapt(*support, steps=1))


# It learns.


@pytest.mark.slow
def test_sine_waves_are_learned_from_ten_points(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    settings = RunSettings(steps=300)
    config = Config(outer_lr=0.003, eval_episodes=200, baseline_steps=0, run=settings)
    result = maml.run(config)
    before, after = (
        result.metrics[f"MAML_mean_squared_error_after_{steps}_steps"].mean for steps in (0, 1)
    )
    # What the best answer without looking at the support set costs on the very same waves.
    _, sampler = experiment.samplers(config)
    episodes = sampler.fixed(200, 25)
    floor = np.mean([(-1.6234 * np.cos(x) - y) ** 2 for _, _, x, y in episodes])
    assert floor == pytest.approx(experiment.TASK_BLIND_ERROR, abs=0.4)
    assert before > 0.95 * floor
    assert after < 0.5 * floor  # measured: 0.33; first-order MAML 0.58
    assert result.history["loss"][-1] < 0.5 * result.history["loss"][0]
    assert list(tmp_path.iterdir()) == []  # without a directory it writes nothing
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_unseen_scripts_are_learned_from_one_glyph():
    keras.utils.set_random_seed(0)
    train, test = (EpisodeSampler(load("glyphs", split), 5, 1, 3) for split in ("train", "test"))
    learner = MAML(networks.conv4((28, 28, 1), 5, filters=8), inner_lr=0.4)
    episodes = test.fixed(100, 20)
    untrained = adaptation.scores_by_step(learner, episodes, steps=1)
    learner.compile(keras.optimizers.Adam(0.01))
    training.train(learner, train, steps=100, meta_batch_size=8)
    trained = adaptation.scores_by_step(learner, episodes, steps=1)
    for scores in (untrained, trained):  # which class got which label, only the support set says
        assert np.mean(scores[:, 0]) == pytest.approx(0.2, abs=0.04)
    assert np.mean(untrained[:, 1]) < 0.3
    assert np.mean(trained[:, 1]) > 0.45  # measured: 0.54


@pytest.mark.slow
def test_a_seed_decides_the_result():
    def short(seed, baseline_steps):
        settings = RunSettings(steps=3, seed=seed)
        return Config(eval_episodes=4, baseline_steps=baseline_steps, run=settings)

    first, again = maml.run(short(0, 3)), maml.run(short(0, 3))
    assert again.metrics == first.metrics
    assert again.history == first.history
    assert again.extra == first.extra
    other = maml.run(short(1, 0))
    assert all(other.metrics[name].mean != first.metrics[name].mean for name in other.metrics)


# As a script.


def start(*command, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_smoke_run_of_the_script_leaves_all_files(tmp_path):
    done = start(ROOT / "chapter05_maml_adml" / "maml.py", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "MAML_mean_squared_error_after_1_steps" in done.stdout
    (folder,) = (tmp_path / "outputs" / "maml").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json", "result.json", "learner.weights.h5",
        "waves.png", "inner_steps.png", "learning_curve.png",
    }  # fmt: skip
    assert list(folder.glob("logs/train/events.out.tfevents.*"))
    content = json.loads((folder / "result.json").read_text())
    assert content["command"] == "python chapter05_maml_adml/maml.py --smoke"
    assert content["metrics"]["MAML_mean_squared_error_after_10_steps"]["n"] == 20

    config = Config.smoke()
    learner = maml.new_learner(config, experiment.samplers(config)[0])
    before = learner.network.get_weights()
    learner.load_weights(folder / "learner.weights.h5")
    assert all(np.any(a != b) for a, b in zip(before, learner.network.get_weights()))


def test_importing_the_script_does_nothing(tmp_path):
    done = start("-c", "import chapter05_maml_adml.maml", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
