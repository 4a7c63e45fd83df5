"""MAML for reinforcement learning against Algorithm 3 written out, and that it learns."""

import json
from dataclasses import replace

from chapter05_maml_adml import maml_rl
from chapter05_maml_adml.maml_rl import Config, PolicyMAML, new_learner
from common import command, navigation_experiment, navigation_figures, training
from common.navigation import Navigation, NavigationSampler
from common.policy_gradient import (
    as_examples,
    gaussian_policy,
    log_probability,
    mean_divergence,
    surrogate_loss,
)
from common.results import Result
from common.settings import RunSettings
from common.trust_region import TrustRegion, flat

import keras
import numpy as np
import pytest
import tensorflow as tf

TASKS = 3
SEED = (0, 7)


def small_learner(inner_lr=0.1, Learner=PolicyMAML, **options):
    options = {"trajectories": 4, "world": Navigation(horizon=6), **options}
    return Learner(gaussian_policy(hidden=(8,), seed=2), inner_lr, **options)


def compiled(learner):
    learner.compile(TrustRegion(), jit_compile=False)
    learner.optimizer.build(learner.trainable_variables)
    return learner


def goals_of(learner, n_tasks=TASKS):
    return learner.world.goals((0, 1), n_tasks)


def weights_of(learner):
    return [v.numpy() for v in learner.trainable_variables]


def inner_step_by_loop(network, paths, task, inner_lr):
    """theta - alpha d/dtheta mean(-ln pi A) of one task, in the unbatched network."""
    theta = [v.value for v in network.trainable_variables]
    x, y = (part[task] for part in as_examples(paths))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        gain = log_probability(network.stateless_call(theta, [], x)[0], y[:, :2]) * y[:, 2]
        loss = -tf.reduce_sum(gain * y[:, 3]) / tf.reduce_sum(y[:, 3])
    return [w - inner_lr * slope for w, slope in zip(theta, tape.gradient(loss, theta))]


def test_inner_step_is_a_policy_gradient_of_each_task():
    learner = small_learner(inner_lr=0.3)
    (before, after), fast_weights = learner.walk(goals_of(learner), SEED, steps=1)
    for task in range(TASKS):
        expected = inner_step_by_loop(learner.network, before, task, 0.3)
        for ours, theirs in zip(fast_weights, expected, strict=True):
            np.testing.assert_allclose(ours[task], theirs, rtol=1e-3, atol=1e-5)
        assert np.abs(fast_weights[-1][task]).max() > 1e-3  # the standard deviations, too
    for walked in (before, after):
        assert walked.actions.shape == (TASKS, 4, 6, 2)
    assert (before.actions.numpy() != after.actions.numpy()).all()  # walked anew


def test_the_policy_that_walks_after_a_step_is_the_adapted_one():
    learner = small_learner(inner_lr=0.0)
    learner.network.trainable_variables[-1].assign([-30.0, -30.0])  # hardly any noise
    (before, after), _ = learner.walk(goals_of(learner), SEED, steps=1)
    np.testing.assert_allclose(before.actions, after.actions, atol=1e-4)  # nothing was learned
    learner.inner_lr = 0.5
    learner.network.trainable_variables[-1].assign([0.0, 0.0])
    (_, after), fast_weights = learner.walk(goals_of(learner), SEED, steps=1)
    noise = tf.random.stateless_normal((6, TASKS, 4, 2), tf.random.fold_in(SEED, 1), alg="philox")
    x = tf.reshape(after.observations, [TASKS, -1, 2])
    mean, log_std = tf.split(learner.predict_with(fast_weights, x), 2, axis=-1)
    expected = mean + tf.exp(log_std) * tf.reshape(tf.transpose(noise, [1, 2, 0, 3]), x.shape)
    np.testing.assert_allclose(tf.reshape(after.actions, x.shape), expected, atol=1e-4)


def plain_trust_region_step(learner, goals):
    """One step of TRPO on the trajectories of all tasks, without any adaptation."""
    network, optimizer = learner.network, TrustRegion()
    optimizer.build(network.trainable_variables)
    paths = learner.world.rollout(
        lambda positions: tf.reshape(network(tf.reshape(positions, [-1, 2])), [TASKS, 4, 4]),
        goals, 4, tf.random.fold_in(SEED, 1),
    )  # fmt: skip
    x, y = as_examples(paths)

    def outputs():
        return tf.reshape(network(tf.reshape(x, [-1, 2])), [*x.shape[:2], 4])

    old = outputs()
    optimizer.step(
        outputs, lambda new: surrogate_loss(y, old, new),
        lambda new: mean_divergence(y, old, new), network.trainable_variables,
    )  # fmt: skip


@pytest.mark.parametrize("order", [1, 2])
def test_with_an_inner_rate_of_zero_it_is_plain_trpo(order):
    learner, plain = compiled(small_learner(0.0, order=order)), small_learner()
    goals = goals_of(learner)
    start = flat(weights_of(learner)).numpy()
    learner.train_step((goals, SEED))
    plain_trust_region_step(plain, goals)
    moved, expected = (flat(weights_of(one)).numpy() - start for one in (learner, plain))
    # Ten steps of conjugate gradients make rounding errors visible: a hundredth of the direction.
    size = np.linalg.norm(expected)
    assert moved @ expected / np.linalg.norm(moved) / size > 0.98
    assert np.linalg.norm(moved) == pytest.approx(size, rel=0.1)
    assert size > 1e-2


def test_a_step_lowers_the_surrogate_within_the_bound_and_orders_differ():
    moved = []
    for order in (1, 2):
        learner = compiled(small_learner(0.5, order=order))
        report = learner.train_step((goals_of(learner), SEED))
        assert float(report["accepted"]) == 1
        assert float(report["loss"]) < 0  # at the old weights it is 0
        assert 0 < float(report["kl"]) <= 0.01
        moved.append(flat(weights_of(learner)).numpy())
    start = flat(weights_of(small_learner())).numpy()
    changes = [weights - start for weights in moved]
    assert np.abs(changes[0] - changes[1]).max() > 0.05 * np.abs(changes[1]).max()


def test_later_test_steps_are_smaller_as_asked():
    whole, half = (small_learner(0.3, later_lr_factor=factor) for factor in (1.0, 0.5))
    goals = goals_of(whole)
    once, (of_whole, of_half) = (
        whole.walk(goals, SEED, steps=1)[1],
        [learner.walk(goals, SEED, steps=2)[1] for learner in (whole, half)],
    )
    for first, full, less in zip(once, of_whole, of_half):
        np.testing.assert_allclose(2 * (less - first), full - first, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    sampler = NavigationSampler(Navigation(horizon=6))

    def train(steps, folder):
        learner = small_learner()
        learner.compile(TrustRegion(), jit_compile=False)
        history = training.train(
            learner, sampler, steps=steps, meta_batch_size=TASKS, directory=tmp_path / folder
        )
        return learner, history

    unbroken, history = train(4, "unbroken")
    train(2, "broken")
    resumed, resumed_history = train(4, "broken")
    assert resumed_history == history
    assert history["step"] == [1, 2, 3, 4]
    assert int(resumed.optimizer.iterations) == 4
    for ours, theirs in zip(weights_of(resumed), weights_of(unbroken), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_it_is_saved_and_loaded_whole(tmp_path):
    learner = small_learner(0.3, order=1, discount=0.9, later_lr_factor=0.25)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert type(again) is PolicyMAML
    assert again.world == learner.world
    settings = ("inner_lr", "order", "discount", "later_lr_factor", "trajectories", "gae_lambda")
    assert all(getattr(again, name) == getattr(learner, name) for name in settings)
    goals = goals_of(learner)
    ours, theirs = (one.walk(goals, SEED, steps=1)[0][1] for one in (learner, again))
    np.testing.assert_allclose(ours.actions, theirs.actions, rtol=1e-5, atol=1e-5)


# It learns.


@pytest.mark.slow
def test_one_gradient_step_finds_unseen_goals():
    config = Config(
        trajectories=10, hidden=(32, 32), meta_batch_size=10, compare=False, test_steps=1,
        run=RunSettings(steps=15, dataset="navigation"),
    )  # fmt: skip
    result = maml_rl.run(config)
    means = {name: estimate.mean for name, estimate in result.metrics.items()}
    gained = means["MAML_return_after_1_steps"] - means["MAML_return_after_0_steps"]
    by_chance = means["random_return_after_1_steps"] - means["random_return_after_0_steps"]
    assert gained > 12, means
    assert gained > by_chance + 5, means
    assert means["MAML_return_after_1_steps"] > -30, means  # standing still: -38
    assert np.mean(result.history["kl"]) <= 0.01


# As a script.


@pytest.mark.slow
def test_smoke_run_leaves_all_files_and_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(Config, maml_rl.run, navigation_experiment.draw, ["--smoke"])
    (folder,) = (tmp_path / "outputs" / "maml_rl").iterdir()
    names = {path.name for path in folder.iterdir()}
    figures = {"trajectories.png", "inner_steps.png", "learning_curve.png"}
    assert names >= figures | {"config.json", "result.json", "learner.weights.h5"}
    content = json.loads((folder / "result.json").read_text())
    assert content["command"] == "python chapter05_maml_adml/maml_rl.py --smoke"
    names = ("MAML", "first_order_MAML", "random", "MAML_less_first_order_MAML")
    wanted = {f"{name}_return_after_{step}_steps" for name in names for step in range(4)}
    assert set(content["metrics"]) == wanted
    assert len(content["history"]["return_after"]) == 2

    result = Result.load(folder / "result.json")
    navigation_experiment.draw(result, Config.smoke(), tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == figures
    again = maml_rl.run(Config.smoke())
    found = {name: estimate.mean for name, estimate in again.metrics.items()}
    assert found == pytest.approx({name: e.mean for name, e in result.metrics.items()})


def test_figures_of_fewer_goals_and_a_shorter_horizon(tmp_path):
    config = replace(Config.smoke(), eval_episodes=2, test_steps=1, compare=False)
    learners = {name: new_learner(config) for name in ("MAML", "random")}
    curves = {"return_before": [-1.0, -1.0], "return_after": [-1.0, -1.0]}
    result = navigation_experiment.measure(learners, config, {"step": [1, 2], **curves})
    assert len(result.extra["examples"]) == 2
    navigation_experiment.draw(result, config, tmp_path)
    figure = navigation_figures.draw_returns(result.extra["curves"], config.horizon)
    (still,) = [line for line in figure.axes[0].lines if len(set(line.get_ydata())) == 1]
    assert still.get_ydata()[0] == pytest.approx(-0.3826 * 20)


def test_first_order_can_be_trained_alone():
    config = replace(Config.smoke(), order=1)
    assert maml_rl.name_of(config) == "first_order_MAML"
    assert new_learner(config).order == 1
    assert new_learner(config).world.horizon == 20


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset", "sine"], "--dataset must be navigation for reinforcement learning"),
        (["--jit"], "--jit does not work with trust-region steps"),
        (["--mixed-precision"], "--mixed-precision does not work"),
        (["--trajectories", "0"], "--trajectories must be at least 1, got 0"),
        (["--horizon", "0"], "--horizon must be at least 1, got 0"),
        (["--hidden", "0"], "--hidden must be numbers of at least 1"),
        (["--max-kl", "0"], "--max-kl must be greater than 0"),
        (["--discount", "1.5"], "--discount must be between 0 and 1, got 1.5"),
        (["--gae-lambda", "-1"], "--gae-lambda must be between 0 and 1"),
        (["--inner-lr", "nan"], "--inner-lr must be a finite number"),
        (["--eval-episodes", "1"], "--eval-episodes must be at least 2, got 1"),
        (["--order", "3"], "order must be 1 (first-order) or 2 (exact); got 3"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tmp_path, monkeypatch, capfd, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(Config, maml_rl.run, navigation_experiment.draw, ["--smoke", *flags])
    error = capfd.readouterr().err
    assert stop.value.code == 2
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
