"""TAML against hand calculation and MAML; pairs over seeds; and that the bias is lowered."""

import math

from chapter05_maml_adml import maml
from chapter05_maml_adml.maml import MAML
from chapter08_recent import taml
from chapter08_recent.taml import METHODS, TAML, Config
from common import bias_figures, command, experiment, inequality, networks, paired_seeds
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.results import Estimate, Result
from common.settings import RunSettings
from common.sine import SineTasks

import keras
import numpy as np
import pytest
import tensorflow as tf

MEASURES = tuple(inequality.MEASURES)


def linear_network(outputs=1):
    """f(x) = theta x, with theta = 0."""
    layer = keras.layers.Dense(outputs, use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((1,)), layer])


def waves(n_tasks=4, k_shot=5, n_query=4, seed=0):
    return SineTasks().sample((seed, 1), n_tasks, k_shot, n_query)


def images(n_tasks=3, n_way=3, seed=0):
    """Tasks of random images with random labels."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 8, 8, 1)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(*(tf.constant(part) for part in (x[0], y[0], x[1], y[1])))


def small_conv(n_way=3):
    return networks.conv4((8, 8, 1), n_way, filters=4, blocks=2)


def pair(method, bias_weight, **options):
    """TAML and MAML with the same network, and an episode for them."""
    if method == "entropy":
        network, loss, episode = small_conv(), None, images()
    else:
        network, loss, episode = networks.mlp(hidden=(8, 8)), "mse", waves()
    ours = TAML(network, 0.05, loss=loss, method=method, bias_weight=bias_weight, **options)
    return ours, MAML(network, 0.05, loss=loss), episode


def loss_and_gradient(learner, episode):
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(episode)
    return loss, tape.gradient(loss, [v.value for v in learner.network.trainable_variables])


@pytest.mark.parametrize("method", METHODS)
def test_without_weight_it_is_maml(method):
    ours, theirs, episode = pair(method, 0.0)
    (our_loss, our_gradient), (loss, gradient) = (
        loss_and_gradient(learner, episode) for learner in (ours, theirs)
    )
    np.testing.assert_array_equal(our_loss, loss)
    for a, b in zip(our_gradient, gradient):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_the_weight_changes_loss_and_gradient_in_proportion(method):
    found = [loss_and_gradient(*pair(method, weight)[::2]) for weight in (0.0, 0.5, 1.0)]
    losses = [float(loss) for loss, _ in found]
    assert abs(losses[2] - losses[0]) > 1e-4
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-2)
    for zero, half, one in zip(*(gradient for _, gradient in found)):
        np.testing.assert_allclose(one - zero, 2 * (half - zero), rtol=1e-2, atol=1e-5)
    assert max(np.abs(one - zero).max() for zero, one in zip(found[0][1], found[2][1])) > 1e-3


# By hand


def test_inequality_of_the_losses_before_adaptation_worked_by_hand():
    # theta = 0 and the queries (1, sqrt l): losses 1, 2, 3, 4 before adaptation, and Theil 0.10644.
    # The support set asks for 0, so that theta' = theta, and d L_Q / d theta = -2 sqrt l, its mean
    # times (1 - 0.1 * 2). d Theil / d theta = sum_i (ln r_i - Theil) / (M mean) * -2 sqrt l_i.
    losses = np.array([1.0, 2.0, 3.0, 4.0])
    ones, zeros = tf.ones([4, 1, 1]), tf.zeros([4, 1, 1])
    query_y = tf.constant(np.sqrt(losses).reshape(4, 1, 1), tf.float32)
    episode = Episode(ones, zeros, ones, query_y)
    learner = TAML(linear_network(), 0.1, loss="mse", method="theil", bias_weight=10.0)
    loss, (gradient,) = loss_and_gradient(learner, episode)
    assert float(loss) == pytest.approx(2.5 + 10 * 0.10644, abs=1e-4)
    slopes = -2 * np.sqrt(losses)
    theil_slopes = np.array([-0.1023, -0.0330, 0.0076, 0.0364])
    expected = 0.8 * slopes.mean() + 10 * theil_slopes @ slopes
    assert float(gradient[0, 0]) == pytest.approx(expected, abs=2e-3)


def test_entropies_before_and_after_worked_by_hand():
    # Two classes, theta = 0: both have probability 1/2 before, and the entropy is ln 2. One support
    # item, x = 1 of class 0: the gradient of the cross-entropy is (-1/2, 1/2), and a rate of 2
    # leads to logits (1, -1) at x = 1: p = 1 / (1 + e^-2) = 0.8808, entropy 0.36533, loss 0.12693.
    episode = Episode(
        tf.ones([1, 1, 1]), tf.constant([[0]]), tf.ones([1, 1, 1]), tf.constant([[0]])
    )
    learner = TAML(linear_network(2), 2.0, method="entropy", bias_weight=0.5)
    expected = 0.12693 + 0.5 * (0.36533 - math.log(2))
    assert float(learner.meta_loss(episode)) == pytest.approx(expected, abs=1e-5)


def test_an_outer_step_raises_the_entropy_before_and_lowers_it_after():
    learner, _, episode = pair("entropy", 100.0)
    learner.compile(keras.optimizers.SGD(1e-4))
    values = [bias_figures.before_and_after(learner, [episode])["entropy"].mean(axis=0)]
    learner.fit(tf.data.Dataset.from_tensors(episode).repeat(), steps_per_epoch=10, verbose=0)
    values.append(bias_figures.before_and_after(learner, [episode])["entropy"].mean(axis=0))
    (before, after), (before_now, after_now) = values
    assert before_now - after_now > before - after + 1e-3


@pytest.mark.parametrize("method", MEASURES)
def test_outer_steps_lower_the_inequality_before_adaptation(method):
    learner, _, episode = pair(method, 100.0)
    losses = [bias_figures.before_and_after(learner, [episode])["loss"][:, 0]]
    learner.compile(keras.optimizers.SGD(1e-5))
    learner.fit(tf.data.Dataset.from_tensors(episode).repeat(), steps_per_epoch=10, verbose=0)
    losses.append(bias_figures.before_and_after(learner, [episode])["loss"][:, 0])
    before, now = (float(learner.measure(values)) for values in losses)
    assert now < before


def test_the_parameter_of_a_measure_counts():
    for method, default, other in (("generalised-entropy", 2.0, -1.0), ("atkinson", 0.5, 1.0)):
        usual, given, changed = (
            float(pair(method, 1.0, measure_parameter=value)[0].meta_loss(waves()))
            for value in (None, default, other)
        )
        assert usual == given != changed


# As any learner


@pytest.mark.parametrize("method", ["entropy", "atkinson"])
def test_saved_and_loaded(tmp_path, method):
    options = {} if method == "entropy" else {"measure_parameter": 1.0}
    learner, _, episode = pair(method, 0.5, **options)
    learner.compile(keras.optimizers.Adam(0.01))
    learner.fit(tf.data.Dataset.from_tensors(episode), verbose=0)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert isinstance(again, TAML)
    np.testing.assert_array_equal(again.meta_loss(episode), learner.meta_loss(episode))
    support_x, support_y, query_x, _ = (part[0].numpy() for part in episode)
    np.testing.assert_allclose(
        again.predict_task(support_x, support_y, query_x),
        learner.predict_task(support_x, support_y, query_x),
    )


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--method", "entropy"], "needs classes, and this is regression: choose theil"),
        (["--method", "hoover"], "--method must be entropy or theil or generalised-entropy"),
        (["--bias-weight", "-1"], "--bias-weight must be at least 0, got -1.0"),
        (["--n-seeds", "0"], "--n-seeds must be at least 1, got 0"),
        (["--meta-batch-size", "1"], "--meta-batch-size must be at least 2, got 1"),
        (["--measure-parameter", "2"], "where --measure-parameter is given; got 'theil'"),
        (
            ["--method", "atkinson", "--measure-parameter", "-2"],
            "--measure-parameter must be at least 0, got -2.0",
        ),
    ],
)
def test_impossible_settings_end_in_one_line(tmp_path, monkeypatch, capfd, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(Config, taml.run, taml.draw, flags)
    assert stop.value.code == 2
    (line,) = [one for one in capfd.readouterr().err.splitlines() if one.startswith("error: ")]
    assert words in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_impossible_options_are_refused():
    for options in ({"method": "hoover"}, {"bias_weight": -1.0}, {"bias_weight": float("nan")}):
        with pytest.raises(UserError, match=next(iter(options)).replace("_", "-")):
            TAML(linear_network(2), 0.1, **{"method": "theil", "bias_weight": 0.1, **options})


# Pairs over seeds


@pytest.fixture(scope="module")
def compared():
    settings = RunSettings(steps=3, seed=5)
    config = Config(eval_episodes=6, n_seeds=2, run=settings)
    runs = paired_seeds.train(taml.new_learners, config)
    return config, runs, bias_figures.add(paired_seeds.measure(runs, config), runs)


def test_differences_are_those_of_the_seeds(compared):
    _, runs, result = compared
    name = "mean_squared_error_after_1_steps"
    seeds = result.extra["seeds"]
    assert seeds["seed"] == [5, 6]
    means = [estimate.mean for estimate in seeds["difference"]]
    over_tasks = result.metrics[f"TAML_less_MAML_{name}"]
    over_seeds = result.metrics[f"TAML_less_MAML_{name}_over_seeds"]
    assert (over_tasks.n, over_seeds.n) == (12, 2)
    assert over_tasks.mean == pytest.approx(np.mean(means))
    assert over_seeds == Estimate.from_seeds(means)
    ours, theirs = (result.metrics[f"{learner}_{name}"] for learner in ("TAML", "MAML"))
    assert over_tasks.mean == pytest.approx(ours.mean - theirs.mean, abs=1e-6)
    # MAML by itself, with the second seed, does the same.
    alone = maml.Config(eval_episodes=6, baseline_steps=0, run=RunSettings(steps=3, seed=6))
    found = maml.run(alone).metrics[f"MAML_{name}"].mean
    assert found == pytest.approx(runs[1].scores["MAML"][:, 1].mean(), rel=1e-5)


def test_bias_is_reported(compared):
    _, _, result = compared
    for name in ("TAML", "MAML"):
        before = result.metrics[f"{name}_loss_before"].mean
        expected = result.metrics[f"{name}_mean_squared_error_after_0_steps"].mean
        assert before == pytest.approx(expected, rel=1e-5)
        assert result.metrics[f"{name}_inequality_before"].n == 2
        assert f"{name}_entropy_before" not in result.metrics
        curve = np.array(result.extra["bias"][name]["lorenz"][0])
        assert (curve[0], curve[-1]) == (0, 1)
        assert np.all(np.diff(curve, 2) > -1e-3)  # convex


def test_figures_are_drawn_from_what_a_file_holds(compared, tmp_path):
    config, _, result = compared
    result.save(tmp_path / "result.json")
    taml.draw(Result.load(tmp_path / "result.json"), config, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"inner_steps.png", "waves.png", "differences.png", "bias.png"}


def test_before_and_after_measure_what_the_learner_predicts():
    learner, _, episode = pair("entropy", 0.1)
    found = bias_figures.before_and_after(learner, [episode, episode])
    assert found["loss"].shape == found["entropy"].shape == (6, 2)
    after = learner.query_predictions(episode)
    losses = learner.task_losses(episode.query_y, after)
    np.testing.assert_allclose(found["loss"][:3, 1], losses, rtol=1e-4)
    entropies = tf.reduce_mean(inequality.entropy(after), axis=1)
    np.testing.assert_allclose(found["entropy"][3:, 1], entropies, rtol=1e-4)


# Settings, and the script


def test_settings_of_the_data_sets():
    assert Config.for_dataset("sine") == Config()
    assert Config.for_dataset("glyphs").method == "entropy"
    assert Config.for_dataset("sine-phase").method == "theil"
    assert Config.smoke("glyphs").n_seeds == 2


@pytest.mark.slow
def test_smoke_run_leaves_all_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--smoke", "--dataset", "glyphs", "--steps", "2", "--eval-episodes", "4"]
    command.main(Config, taml.run, taml.draw, [*flags, "--baseline-steps", "2"])
    (folder,) = (tmp_path / "outputs" / "taml").iterdir()
    names = {path.name for path in folder.iterdir()}
    figures = {"episode.png", "inner_steps.png", "differences.png", "bias.png"}
    assert names >= {"result.json", "learner.weights.h5", "MAML", "seed-1", *figures}
    result = Result.load(folder / "result.json")
    assert result.metrics["TAML_entropy_before"].n == 8
    assert isinstance(result.metrics["pooled_accuracy_after_1_steps"], Estimate)


@pytest.mark.slow
def test_less_inequality_and_still_learned():
    settings = RunSettings(steps=250)
    config = Config(outer_lr=0.003, bias_weight=1.5, n_seeds=1, eval_episodes=200, run=settings)
    result = taml.run(config)
    name = "mean_squared_error_after_1_steps"
    assert result.metrics[f"TAML_{name}"].mean < 0.75 * experiment.TASK_BLIND_ERROR
    ours, theirs = (result.metrics[f"{n}_inequality_before"].mean for n in ("TAML", "MAML"))
    assert ours < 0.95 * theirs


@pytest.mark.slow
def test_entropy_is_high_before_and_low_after():
    sampler = EpisodeSampler(experiment.load("glyphs", "train"), 5, 1, 3)
    episodes = sampler.fixed(50, 10)
    found = {}
    for weight in (0.0, 1.0):
        network = networks.conv4((28, 28, 1), 5, filters=8)
        learner = TAML(network, 0.4, method="entropy", bias_weight=weight)
        learner.compile(keras.optimizers.Adam(0.01))
        learner.fit(sampler.dataset(8), steps_per_epoch=60, verbose=0)
        found[weight] = bias_figures.before_and_after(learner, episodes)["entropy"].mean(axis=0)
    (maml_before, maml_after), (before, after) = found[0.0], found[1.0]
    assert before > maml_before
    assert before > 0.95 * math.log(5)
    assert after < maml_after
