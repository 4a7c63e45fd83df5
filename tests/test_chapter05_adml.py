"""ADML against hand calculation, and against MAML on the images that it makes; it learns."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from chapter05_maml_adml import adml, maml
from chapter05_maml_adml.adml import ADML, Config
from chapter05_maml_adml.maml import MAML
from common import attack_experiment, attack_figures, command, experiment, networks
from common.datasets import load
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.settings import RunSettings

import keras
import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parent.parent


def half_squared_error(labels, predictions):
    return tf.reduce_sum((predictions - labels) ** 2, axis=-1) / 2


def line(theta):
    """f(x) = theta x."""
    start = keras.initializers.Constant(theta)
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer=start)
    return keras.Sequential([keras.Input((1,)), layer])


def line_learner(theta, **options):
    """ADML of a line, with alpha = epsilon = 0.1 and data of any size."""
    return ADML(line(theta), 0.1, loss=half_squared_error, epsilon=0.1, bounds=None, **options)


def one_task(support, query):
    numbers = [[[[number]]] for number in (*support, *query)]
    return Episode(*(tf.constant(number, tf.float32) for number in numbers))


def images(n_tasks=2, n_way=3, seed=0):
    """Tasks of random images with random labels."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 8, 8, 1)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(*(tf.constant(part) for part in (x[0], y[0], x[1], y[1])))


def small_conv(n_way=3, **options):
    return networks.conv4((8, 8, 1), n_way, filters=4, blocks=2, **options)


def meta_gradient(learner, episode):
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(episode)
    return tape.gradient(loss, [v.value for v in learner.network.trainable_variables])


def assert_all_close(actual, expected, rtol=1e-4, atol=1e-6):
    assert len(actual) == len(expected) > 0
    for ours, theirs in zip(actual, expected):
        np.testing.assert_allclose(ours, theirs, rtol, atol)


def concatenated(*episodes):
    return Episode(*(tf.concat(parts, axis=0) for parts in zip(*episodes)))


# By hand.


@pytest.mark.parametrize("attack_at", ["adapted", "initial"])
def test_one_outer_step_worked_by_hand(attack_at):
    # f = theta x, half the squared error; theta = 0.5, S = (1, 1), Q = (2, 2), both rates 0.1.
    # dL/dx = theta (theta x - y) < 0 everywhere here: attacked images are smaller by 0.1.
    #   S' = 0.9: theta_a = 0.5 - 0.1 (0.45 - 1) 0.9 = 0.5495;  theta_c = 0.5 + 0.05 = 0.55
    #   Q  = 2 at theta_a: L = (1.099 - 2)^2 / 2, (1 - 0.1 0.81) (1.099 - 2) 2 = -1.65604
    #   Q' = 1.9 at theta_c: L = (1.045 - 2)^2 / 2, (1 - 0.1) (1.045 - 2) 1.9 = -1.63305
    episode = one_task((1, 1), (2, 2))
    learner = line_learner(0.5, attack_at=attack_at)
    theta = learner.adapt(*episode[:2], steps=0)
    attacked = learner.attack(theta, *episode[:2])
    np.testing.assert_allclose(attacked, [[[0.9]]], rtol=1e-6)
    np.testing.assert_allclose(learner.adapt(attacked, episode.support_y), [[[[0.5495]]]])
    np.testing.assert_allclose(learner.adapt(*episode[:2]), [[[[0.55]]]])
    loss = (0.901**2 / 2 + 0.955**2 / 2) / 2
    np.testing.assert_allclose(learner.meta_loss(episode), loss, rtol=1e-5)
    exact = (-1.65604 - 1.63305) / 2
    np.testing.assert_allclose(meta_gradient(learner, episode), [[[exact]]], rtol=1e-5)

    first_order = line_learner(0.5, attack_at=attack_at, order=1)
    exact = (-0.901 * 2 - 0.955 * 1.9) / 2
    np.testing.assert_allclose(meta_gradient(first_order, episode), [[[exact]]], rtol=1e-5)


@pytest.mark.parametrize(("attack_at", "query"), [("adapted", 1.9), ("initial", 2.1)])
def test_queries_are_attacked_at_the_weights_that_were_asked_for(attack_at, query):
    # theta = -0.05, S = (1, 1): theta_c = -0.05 + 0.105 = 0.055. dL/dx = theta (2 theta - 2) is
    # positive at theta and negative at theta_c. S' = 1.1: theta_a = -0.05 + 0.1 * 1.055 * 1.1.
    episode = one_task((1, 1), (2, 2))
    loss = ((0.06605 * 2 - 2) ** 2 / 2 + (0.055 * query - 2) ** 2 / 2) / 2
    learner = line_learner(-0.05, attack_at=attack_at)
    np.testing.assert_allclose(learner.meta_loss(episode), loss, rtol=1e-6)


# Against MAML.


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("attack_at", ["adapted", "initial"])
def test_without_an_attack_it_is_maml_on_doubled_data(order, attack_at):
    episode, network = images(), small_conv()
    learner = ADML(network, 0.3, 2, order, epsilon=0.0, attack_at=attack_at)
    reference = MAML(network, 0.3, 2, order)
    doubled = concatenated(episode, episode)
    np.testing.assert_allclose(learner.meta_loss(episode), reference.meta_loss(doubled), rtol=1e-5)
    assert_all_close(meta_gradient(learner, episode), meta_gradient(reference, doubled))
    assert_all_close(meta_gradient(learner, episode), meta_gradient(reference, episode))


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("attack_at", ["adapted", "initial"])
def test_it_is_maml_on_two_crossed_tasks(norm, attack_at):
    # With the attacked images given as data, MAML's meta-gradient is all that there is.
    episode, network = images(), small_conv(norm=norm)
    learner = ADML(network, 0.3, epsilon=0.1, attack_at=attack_at)
    reference = MAML(network, 0.3)
    support_x, support_y, query_x, query_y = episode
    theta = reference.adapt(support_x, support_y, steps=0)
    theta_c = reference.adapt(support_x, support_y)
    attacked_support = learner.attack(theta, support_x, support_y)
    at = theta_c if attack_at == "adapted" else theta
    attacked_query = learner.attack(at, query_x, query_y)
    for attacked, clean in ((attacked_support, support_x), (attacked_query, query_x)):
        changed = np.abs(attacked - clean)
        assert np.max(changed) <= 0.1 + 1e-6
        assert np.mean(changed) > 0.05
    from_attacked = Episode(attacked_support, support_y, query_x, query_y)
    from_clean = Episode(support_x, support_y, attacked_query, query_y)
    crossed = concatenated(from_attacked, from_clean)
    loss = reference.meta_loss(crossed)
    np.testing.assert_allclose(learner.meta_loss(episode), loss, rtol=1e-5)
    assert_all_close(meta_gradient(learner, episode), meta_gradient(reference, crossed))

    paired = concatenated(episode, Episode(attacked_support, support_y, attacked_query, query_y))
    assert abs(float(reference.meta_loss(paired) - loss)) > 1e-3  # which the book's code has


def test_the_attack_is_made_of_the_network_itself():
    # A plain loop over tasks with Keras's own call; no normalisation shares anything.
    episode = images()
    learner = ADML(small_conv(norm="none"), 0.3, epsilon=0.1)
    fast_weights = learner.adapt(*episode[:2])
    attacked = learner.attack(fast_weights, episode.query_x, episode.query_y)
    for task in range(2):
        x = episode.query_x[task]
        with tf.GradientTape() as tape:
            tape.watch(x)
            weights = [w[task] for w in fast_weights]
            logits = learner.network.stateless_call(weights, [], x)[0]
            loss = keras.ops.sparse_categorical_crossentropy(episode.query_y[task], logits, True)
        expected = np.clip(x + 0.1 * np.sign(tape.gradient(loss, x)), 0, 1)
        assert np.mean(np.abs(attacked[task] - expected) > 1e-6) < 0.01  # signs of near-zeros


def test_an_attack_leaves_nothing_behind_in_the_network():
    episode, learner = images(), ADML(small_conv(), 0.3)
    before = learner.network.get_weights()
    learner.meta_loss(episode)
    assert_all_close(learner.network.get_weights(), before, rtol=0, atol=0)


def test_every_weight_has_a_gradient():
    learner = ADML(small_conv(), 0.3)
    for gradient in meta_gradient(learner, images()):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_a_saved_learner_comes_back(tmp_path):
    options = {"epsilon": 0.07, "attack_at": "initial", "bounds": (0.0, 0.9)}
    learner = ADML(small_conv(), 0.3, 2, 1, test_steps=4, later_lr_factor=0.5, **options)
    learner.compile("adam")
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert isinstance(loaded, ADML)
    episode = images()
    np.testing.assert_allclose(loaded.meta_loss(episode), learner.meta_loss(episode), rtol=1e-6)
    np.testing.assert_allclose(
        loaded.query_predictions(episode), learner.query_predictions(episode), rtol=1e-5
    )
    assert (loaded.epsilon, loaded.attack_at, loaded.test_steps) == (0.07, "initial", 4)


def test_predict_task_adapts_as_maml_does():
    episode, network = images(n_tasks=1), small_conv()
    arrays = [np.array(part[0]) for part in episode[:3]]
    probabilities = ADML(network, 0.3).predict_task(*arrays)
    np.testing.assert_allclose(probabilities, MAML(network, 0.3).predict_task(*arrays), rtol=1e-5)


# It learns.


@pytest.mark.slow
def test_it_withstands_attacks_that_maml_does_not():
    settings = RunSettings(steps=300, dataset="glyphs")
    config = Config(
        filters=16, meta_batch_size=16, outer_lr=0.005, eval_episodes=96, test_epsilons=(),
        run=settings,
    )  # fmt: skip
    found = {name: estimate.mean for name, estimate in adml.run(config).metrics.items()}
    assert found["ADML_accuracy_clean_before"] == pytest.approx(0.2, abs=0.06)
    assert found["ADML_accuracy_clean"] > 0.6  # measured, on 128 tasks: 0.69
    assert found["ADML_less_MAML_accuracy_clean"] > -0.08  # -0.02
    assert found["ADML_less_MAML_accuracy_fgsm_0.1_queries"] > 0.1  # 0.17
    assert found["ADML_less_MAML_accuracy_pgd_0.1_queries"] > 0.14  # 0.23
    assert found["ADML_less_MAML_accuracy_pgd_0.1_both"] > 0.05  # 0.13


# Bad input.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epsilon": -0.1}, "epsilon must be between 0 and 1"),
        ({"epsilon": 25}, "epsilon must be between 0 and 1"),  # of 255, one may think
        ({"attack_at": "query"}, "attack_at must be adapted or initial; got 'query'"),
        ({"inner_steps": -1}, "inner_steps"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        ADML(line(0.0), **{"inner_lr": 0.1, **options})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epsilon", "-0.1"], "--epsilon must be between 0 and 1"),
        (["--epsilon", "8"], "--epsilon must be between 0 and 1"),
        (["--test-epsilons", "0.1", "1.5"], "--test-epsilons must be between 0 and 1"),
        (["--pgd-steps", "0"], "--pgd-steps must be at least 1"),
        (["--attack-at", "theta"], "--attack-at must be adapted or initial"),
        (["--dataset", "sine"], "--dataset to have images"),
        (["--baseline-steps", "50"], "--baseline-steps must be 0 here"),
        (["--smoke", "--dataset", "sine-phase"], "--dataset to have images"),
    ],
)
def test_impossible_settings_end_in_one_line(flags, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(Config, adml.run, attack_experiment.draw, flags)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_sounds_are_no_images():
    with pytest.raises(UserError, match="expected images with pixels from 0 to 255"):
        attack_experiment.check_images(load("sounds", "test"))


def test_settings_of_a_data_set():
    assert Config.for_dataset("glyphs") == Config()
    omniglot = Config.for_dataset("omniglot-random")
    assert omniglot.run.steps == 8000
    assert replace(omniglot, run=Config().run) == Config()


# Measurement.


def test_scores_are_those_of_a_plain_loop():
    data = load("glyphs", "test")
    episodes = EpisodeSampler(data, 3, 1, 2).fixed(5, 2)  # the last batch is smaller
    learner = MAML(networks.conv4((28, 28, 1), 3, filters=4), 0.4, test_steps=2)
    epsilons = [0.0, 0.1]
    found = attack_experiment.attacked_scores(learner, episodes, epsilons, pgd_steps=2)
    for attack in found:
        for case in attack_experiment.CASES:
            assert found[attack][case].shape == (5, 2)
        after = learner.episode_scores(episodes)
        for case in ("queries", "support", "both"):
            np.testing.assert_allclose(found[attack][case][:, 0], after)
    attacker = ADML(learner.network, 0.4, test_steps=2, epsilon=0.1)
    expected = {case: [] for case in attack_experiment.CASES}
    for support_x, support_y, query_x, query_y in episodes:
        theta = learner.adapt(support_x, support_y, steps=0)
        adapted = learner.adapt(support_x, support_y)
        misled = learner.adapt(attacker.attack(theta, support_x, support_y), support_y)
        for case, weights, x in (
            ("queries_before", theta, attacker.attack(theta, query_x, query_y)),
            ("queries", adapted, attacker.attack(adapted, query_x, query_y)),
            ("support", misled, query_x),
            ("both", misled, attacker.attack(misled, query_x, query_y)),
        ):
            logits = learner.predict_with(weights, x)
            expected[case] += list(learner.task_scores(query_y, logits).numpy())
    for case, values in expected.items():
        np.testing.assert_allclose(found["fgsm"][case][:, 1], values, atol=0.17)  # one query of 6
        assert np.mean(np.abs(found["fgsm"][case][:, 1] - values)) < 0.05


def tiny(**options):
    """A run of seconds."""
    return Config(
        n_way=3, filters=4, meta_batch_size=2, eval_episodes=4, test_epsilons=(0.2,), pgd_steps=2,
        test_steps=1, run=RunSettings(steps=2, dataset="glyphs", **options),
    )  # fmt: skip


@pytest.mark.slow
def test_a_seed_decides_the_result():
    first, again = adml.run(tiny()), adml.run(tiny())
    assert again.metrics == first.metrics
    assert again.history == first.history
    other = adml.run(tiny(seed=1))
    assert other.history != first.history


def test_a_run_measures_both_on_the_same_tasks(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    config = tiny()
    result = adml.run(config)
    assert list(tmp_path.iterdir()) == []  # without a directory it writes nothing
    assert capfd.readouterr() == ("", "")
    metrics = result.metrics
    for case in attack_experiment.CASES:
        for attack in ("fgsm", "pgd"):
            ours, theirs, less = (
                metrics[f"{name}_accuracy_{attack}_0.1_{case}"]
                for name in ("ADML", "MAML", "ADML_less_MAML")
            )
            assert ours.n == 4
            assert less.mean == pytest.approx(ours.mean - theirs.mean)
    assert "MAML_accuracy_pgd_0.2_queries" in metrics
    assert {"loss", "MAML_loss", "step"} <= set(result.history)
    assert result.extra["epsilons"] == [0.0, 0.1, 0.2]

    attack_experiment.draw(result, config, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"attacks.png", "epsilon.png", "learning_curve.png"}
    result.save(tmp_path / "result.json")  # and from what comes back of it
    extra = json.loads((tmp_path / "result.json").read_text())["extra"]
    attack_figures.draw_attacks(extra["example"], ["ADML", "MAML"])
    curves = {name: extra["curves"][name] for name in ("ADML", "MAML")}
    attack_figures.draw_epsilons(extra["epsilons"], curves, 0.1)


def test_both_start_from_equal_weights():
    config = replace(Config.smoke(), filters=4)
    sampler, _ = experiment.samplers(config)
    first, second = (script.new_learner(config, sampler).network for script in (adml, maml))
    assert_all_close(first.get_weights(), second.get_weights(), rtol=0, atol=0)


def test_importing_the_script_does_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import chapter05_maml_adml.adml"], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
