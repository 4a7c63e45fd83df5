"""CAML against hand calculation, a plain loop and its own invariants; and that it learns."""

import json
from dataclasses import replace

from chapter05_maml_adml import caml
from chapter05_maml_adml.caml import CAML, Config
from common import adaptation, command, experiment, networks, training
from common.context import AppendContext, FiLM
from common.episodes import Episode
from common.errors import UserError
from common.results import Result
from common.settings import RunSettings
from common.sine import SineTasks
from common.task_batching import TaskBatchedNetwork

import keras
import numpy as np
import pytest
import tensorflow as tf


def waves(n_tasks=3, k_shot=5, n_query=4, seed=0):
    return SineTasks().sample((seed, 1), n_tasks, k_shot, n_query)


def images(n_tasks=2, n_way=3, seed=0):
    """Tasks of random images with random labels."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 8, 8, 1))
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(tf.cast(x[0], "float32"), y[0], tf.cast(x[1], "float32"), y[1])


def mlp_learner(context_size=2, inner_lr=1.0, **options):
    network = networks.mlp(hidden=(8, 8), context_size=context_size)
    return CAML(network, inner_lr, **{"loss": "mse", **options})


def conv_learner(context_size=4, norm="batch", strided=True, inner_lr=1.0, **options):
    network = networks.conv4(
        (8, 8, 1), 3, filters=4, blocks=2, context_size=context_size, norm=norm, strided=strided
    )
    return CAML(network, inner_lr, **options)


def tiny_learner(theta=0.0, w=2.0, **options):
    """f(x) = theta x + w phi."""
    head = keras.layers.Dense(1, use_bias=False)
    network = keras.Sequential([keras.Input((1,)), AppendContext(1), head])
    head.set_weights([np.array([[theta], [w]])])
    return CAML(network, **{"inner_lr": 0.1, "loss": "mse", **options})


def meta_gradient(learner, episode):
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(episode)
    return tape.gradient(loss, [v.value for v in learner.trainable_variables])


def assert_all_close(actual, expected, rtol=1e-5, atol=1e-6):
    assert len(actual) == len(expected) > 0
    for ours, theirs in zip(actual, expected):
        np.testing.assert_allclose(ours, theirs, rtol, atol)


def one_point(x, y):
    """The same point as support and as query."""
    return Episode(*(tf.constant([[[value]]], tf.float32) for value in (x, y, x, y)))


# By hand. Keras's "mse" of one point is (f - y)^2, without 1/2.


@pytest.mark.parametrize(("order", "of_theta", "of_w"), [(2, -0.16, -1.28), (1, -0.8, -0.64)])
def test_one_inner_step_worked_by_hand(order, of_theta, of_w):
    # theta = 0, w = 2, support and query (1, 2): dL/dphi = 2 (0 - 2) w = -8, so phi = 0.8 and the
    # prediction 1.6. With phi a constant, d/dw = 2 (1.6 - 2) phi = -0.64 and d/dtheta = -0.8.
    # phi = 2 alpha w (y - theta x): exact, f = theta x + 0.2 w^2 (2 - theta x), and d/dw =
    # 2 (-0.4) * 0.8 w = -1.28, d/dtheta = 2 (-0.4) (1 - 0.2 w^2) = -0.16.
    learner, episode = tiny_learner(order=order), one_point(1, 2)
    context, weights = learner.adapt(*episode[:2])
    np.testing.assert_allclose(context, [[0.8]], rtol=1e-6)
    np.testing.assert_allclose(weights, [[[0], [2]]])
    np.testing.assert_allclose(learner.query_predictions(episode), [[[1.6]]], rtol=1e-6)
    (gradient,) = meta_gradient(learner, episode)
    np.testing.assert_allclose(gradient, [[of_theta], [of_w]], rtol=1e-5)


def test_a_second_step_goes_on_from_the_first():
    # dL/dphi at 0.8 is 2 (1.6 - 2) 2 = -1.6
    context, _ = tiny_learner().adapt(*one_point(1, 2)[:2], steps=2)
    np.testing.assert_allclose(context, [[0.96]], rtol=1e-6)


# Against Algorithm and definition: one task after the other, with ordinary calls of the network.


def meta_gradient_by_loop(learner, episode, steps, order):
    network = learner.network
    values = [v.value for v in network.trainable_variables]
    index = [v.name for v in network.trainable_variables].index("context")
    theta = values[:index] + values[index + 1 :]
    state = [v.value for v in network.non_trainable_variables]

    def loss(phi, x, y):
        weights = [*theta[:index], phi, *theta[index:]]
        outputs = network.stateless_call(weights, state, x)[0]
        if learner.classifies:
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs))
        return tf.reduce_mean((outputs - y) ** 2)

    contexts, gradients = [], []
    for support_x, support_y, query_x, query_y in zip(*episode):
        with tf.GradientTape() as outer:
            outer.watch(theta)
            phi = tf.zeros(values[index].shape)
            for _ in range(steps):
                with tf.GradientTape() as inner:
                    inner.watch(phi)
                    support_loss = loss(phi, support_x, support_y)
                slope = inner.gradient(support_loss, phi)
                phi -= learner.inner_lr * (slope if order == 2 else tf.stop_gradient(slope))
            query_loss = loss(phi, query_x, query_y)
        contexts.append(phi)
        gradients.append(outer.gradient(query_loss, theta))
    return np.stack(contexts), [np.mean(g, axis=0) for g in zip(*gradients)]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_meta_gradient_equals_that_of_a_loop_over_tasks(kind, order, steps):
    make = {"mlp": mlp_learner, "conv": lambda **options: conv_learner(norm="none", **options)}
    episode = waves() if kind == "mlp" else images()
    learner = make[kind](order=order, inner_steps=steps)
    contexts, gradients = meta_gradient_by_loop(learner, episode, steps, order)
    found = learner.context(learner.adapt(*episode[:2]))
    np.testing.assert_allclose(found, contexts, rtol=1e-4, atol=1e-6)
    assert_all_close(meta_gradient(learner, episode), gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "layer", "none", "mlp"])
@pytest.mark.parametrize("strided", [True, False])
def test_one_long_batch_computes_what_weights_for_each_task_do(norm, strided):
    learner = mlp_learner() if norm == "mlp" else conv_learner(norm=norm, strided=strided)
    episode = waves() if norm == "mlp" else images()
    fast, gradient = learner.query_predictions(episode), meta_gradient(learner, episode)
    learner.batched_network = TaskBatchedNetwork(learner.network)
    np.testing.assert_allclose(fast, learner.query_predictions(episode), rtol=1e-3, atol=1e-5)
    assert_all_close(gradient, meta_gradient(learner, episode), rtol=2e-3, atol=1e-5)


# What must be equal, and what must not.


@pytest.mark.parametrize("make", [mlp_learner, conv_learner])
def test_inner_loop_leaves_shared_weights_untouched(make):
    learner = make(inner_steps=3)
    episode = waves() if make is mlp_learner else images()
    before = learner.network.get_weights()
    variables = learner.network.trainable_variables
    fast_weights = learner.adapt(*episode[:2])
    n_tasks = len(episode.support_x)
    assert len(fast_weights) == len(variables)
    for variable, fast in zip(variables, fast_weights):
        assert fast.shape == (n_tasks, *variable.shape)
        if variable.name == "context":
            assert np.abs(fast).max(axis=1).min() > 1e-4  # each task has moved its own
            assert np.abs(fast[0] - fast[1]).max() > 1e-4
        else:
            np.testing.assert_array_equal(fast, np.repeat(variable[None], n_tasks, axis=0))
    for ours, theirs in zip(learner.network.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)


def test_every_task_starts_from_a_context_of_zeros():
    learner = mlp_learner()
    learner.compile(keras.optimizers.Adam(0.01))
    alone = learner.adapt(*waves(seed=1)[:2])
    learner.adapt(*waves(seed=2)[:2])
    assert_all_close(learner.adapt(*waves(seed=1)[:2]), alone, rtol=0, atol=0)

    before = learner.network.get_weights()
    learner.fit(tf.data.Dataset.from_tensors(waves()).repeat(5), verbose=0)
    names = [v.name for v in learner.network.weights]
    for name, old, new in zip(names, before, learner.network.get_weights()):
        assert np.any(old != new) == (name != "context")
    context = learner.context(learner.adapt(*waves()[:2], steps=0))
    np.testing.assert_array_equal(context, np.zeros((3, 2)))


def test_outer_step_moves_all_weights_but_the_context():
    for learner, episode in ((mlp_learner(), waves()), (conv_learner(), images())):
        assert "context" not in {v.name for v in learner.trainable_variables}
        assert len(learner.trainable_variables) == len(learner.network.trainable_variables) - 1
        for gradient in meta_gradient(learner, episode):
            assert np.isfinite(gradient).all()
            assert np.abs(gradient).max() > 0


def test_a_task_is_adapted_to_its_own_support_set_only():
    learner, episode = mlp_learner(inner_steps=2), waves()
    together = learner.query_predictions(episode)
    for task in range(3):
        alone = Episode(*(part[task : task + 1] for part in episode))
        np.testing.assert_allclose(learner.query_predictions(alone)[0], together[task], rtol=1e-4)


@pytest.mark.parametrize("c", [0.5, 3.0])
def test_scale_of_the_context_and_inner_rate_are_one_setting(c):
    # (W_phi, alpha) -> (c W_phi, alpha / c^2): contexts shrink by c, predictions stay.
    learner, other = mlp_learner(inner_steps=3), mlp_learner(inner_steps=3, inner_lr=1 / c**2)
    kernel = learner.network.get_weights()[1]
    assert kernel.shape == (3, 8)  # (input and context, units)
    weights = learner.network.get_weights()
    weights[1] = kernel * [[1], [c], [c]]
    other.network.set_weights(weights)
    episode = waves()
    contexts = [one.context(one.adapt(*episode[:2])) for one in (learner, other)]
    np.testing.assert_allclose(contexts[1], contexts[0] / c, rtol=1e-3, atol=1e-6)
    predictions = [one.query_predictions(episode) for one in (learner, other)]
    np.testing.assert_allclose(*predictions, rtol=1e-3, atol=1e-5)


def test_weights_of_zero_behind_the_context_are_a_dead_point():
    dead = tiny_learner(theta=1.0, w=0.0)
    context, _ = dead.adapt(*one_point(1, 2)[:2], steps=5)
    np.testing.assert_array_equal(context, [[0]])
    (gradient,) = meta_gradient(dead, one_point(1, 2))
    np.testing.assert_allclose(gradient, [[-2], [0]])


def test_initial_weights_avoid_the_dead_point():
    for seed in range(3):
        network = networks.mlp(context_size=5, seed=seed)
        assert np.abs(network.get_weights()[1][1:]).min() > 0
        network = networks.conv4(context_size=5, filters=8, seed=seed)
        (film,) = (layer for layer in network.layers if isinstance(layer, FiLM))
        assert np.abs(film.kernel).min() > 0


def test_queries_are_predicted_step_by_step():
    learner, episode = mlp_learner(), waves()
    scores = adaptation.scores_by_step(learner, [episode], 3)
    for steps in (0, 1, 3):
        predictions = learner.predict_with(learner.adapt(*episode[:2], steps), episode.query_x)
        expected = learner.task_scores(episode.query_y, predictions)
        np.testing.assert_allclose(scores[:, steps], expected, rtol=1e-3)
    one = Episode(*(part[0].numpy() for part in episode))
    found = adaptation.predictions_by_step(learner, one, 1)
    np.testing.assert_allclose(found[1], learner.query_predictions(episode)[0], rtol=1e-3)
    np.testing.assert_allclose(found[1], learner.predict_task(*one[:3]), rtol=1e-3)


# It can be kept, goes on, and refuses what makes no sense.


@pytest.mark.parametrize("make", [mlp_learner, conv_learner])
def test_saved_learner_is_the_same(make, tmp_path):
    learner, episode = make(), waves() if make is mlp_learner else images()
    learner.compile(keras.optimizers.Adam(0.01))
    learner.fit(tf.data.Dataset.from_tensors(episode), verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert isinstance(loaded, CAML)
    predictions = [one.query_predictions(episode) for one in (learner, loaded)]
    np.testing.assert_allclose(*predictions, rtol=1e-5)


def test_interrupted_training_goes_on(tmp_path):
    config = Config.smoke()
    sampler = experiment.samplers(config)[0]
    learners = [caml.new_learner(config, sampler) for _ in range(3)]
    for learner, steps, folder in zip(learners, (3, 6, 6), ("a", "a", "b")):
        learner.compile(keras.optimizers.Adam(0.01))
        options = {"steps": steps, "meta_batch_size": 4, "directory": tmp_path / folder}
        training.train(learner, sampler, **options)
    resumed, unbroken = (learner.network.get_weights() for learner in learners[1:])
    assert_all_close(resumed, unbroken)


@pytest.mark.parametrize("size", [0, -1])
def test_a_context_has_at_least_one_number(size):
    with pytest.raises(UserError, match=f"--context-size must be at least 1, got {size}"):
        Config(context_size=size)
    for layer in (AppendContext, FiLM):
        with pytest.raises(UserError, match=f"at least 1 number; got {size}"):
            layer(size)


def test_a_network_without_context_is_refused():
    with pytest.raises(UserError, match="'mlp' has 0"):
        CAML(networks.mlp(), 1.0, loss="mse")


def test_bad_settings_end_in_one_line(capsys, tmp_path):
    words = ["--context-size", "0", "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        command.main(Config, caml.run, caml.draw, words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "--context-size" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_settings_for_data_sets():
    assert Config.for_dataset("sine") == Config()
    frequency = Config.for_dataset("sine-frequency")
    assert frequency == replace(Config(), run=RunSettings(Config().run.seed, Config().run.steps,
                                                          "sine-frequency"))  # fmt: skip
    glyphs = Config.for_dataset("glyphs")
    assert (glyphs.n_way, glyphs.context_size, glyphs.maml_inner_lr) == (5, 100, 0.5)
    assert Config.smoke().run.smoke


# It learns.


def test_sine_waves_are_learned_from_ten_points():
    config = replace(Config(), outer_lr=0.003, run=RunSettings(steps=800))
    training.prepare(config.run)
    sampler, test_sampler = experiment.samplers(config)
    learner = caml.new_learner(config, sampler)
    history = experiment.train({"CAML": learner}, sampler, config)
    scores = adaptation.scores_by_step(learner, test_sampler.fixed(200, 25), 1).mean(axis=0)
    assert scores[0] > 0.9 * experiment.TASK_BLIND_ERROR
    assert scores[1] < 0.25 * experiment.TASK_BLIND_ERROR
    assert history["loss"][-1] < 0.4 * history["loss"][0]


@pytest.mark.slow
def test_script_trains_both_on_waves_and_draws(tmp_path):
    flags = ["--smoke", "--context-size", "2", "--output-dir", str(tmp_path)]
    command.main(Config, caml.run, caml.draw, flags)
    (folder,) = (tmp_path / "caml").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json", "result.json", "learner.weights.h5", "waves.png", "inner_steps.png",
        "learning_curve.png", "context_plane.png", "context_traversal.png",
    }  # fmt: skip
    content = json.loads((folder / "result.json").read_text())
    assert content["metrics"]["CAML_mean_squared_error_after_1_steps"]["n"] == 20
    assert "CAML_less_MAML_mean_squared_error_after_1_steps" in content["metrics"]
    caml.draw(Result.load(folder / "result.json"), Config(), tmp_path)


@pytest.mark.slow
def test_script_works_on_images():
    config = replace(Config.smoke("glyphs"), filters=4, eval_episodes=4, meta_batch_size=4)
    result = caml.run(replace(config, run=replace(config.run, steps=2)))
    assert "plane" not in result.extra
    assert result.metrics["CAML_accuracy_after_3_steps"].n == 4


@pytest.mark.slow
def test_a_seed_decides_the_result():
    def short(seed):
        return Config(eval_episodes=4, run=RunSettings(steps=3, seed=seed))

    first, again, other = (caml.run(short(seed)) for seed in (0, 0, 1))
    assert again.metrics == first.metrics
    assert again.extra == first.extra
    assert all(other.metrics[name].mean != first.metrics[name].mean for name in other.metrics)
