"""The learned optimiser against hand calculation and finite differences; and that it learns."""

import json
from dataclasses import replace

from chapter01_intro import learning_to_learn
from chapter01_intro.learning_to_learn import Config, LearnedOptimizer, minimise
from common import optimizer_experiment, training
from common.command import parse
from common.errors import UserError
from common.hand_made_optimizers import HAND_MADE, SGD
from common.optimisees import OptimiseeSampler, Quadratics
from common.settings import RunSettings

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


class Square:
    """f(x) = the sum of x^2, from x = 1; the same for every task."""

    coordinates = 1

    def sample(self, seed, n_tasks, steps, split="train"):
        return tf.ones((n_tasks, self.coordinates)), (tf.zeros((n_tasks,)),)

    def losses(self, theta, data, step):
        return tf.reduce_sum(theta**2, axis=-1)


def follow(rule, optimisees, theta, data, steps, **options):
    return minimise(rule, optimisees, theta, rule.initial_state(theta), data, 0, steps, **options)


def tiny(optimisees=None, **options):
    """An optimiser of few units, whose random weights do something."""
    settings = {"units": (3, 2), "output_scale": 1.0, "train_steps": 4, "unroll": 2, "seed": 5}
    return LearnedOptimizer(**settings | options, optimisees=optimisees)


# By hand.


def test_descent_on_a_square_worked_by_hand():
    # theta = 1, 0.8, 0.64 at rate 0.1: losses 1, 0.64, 0.4096, in all 2.0496
    theta, _, losses = follow(SGD(0.1), Square(), tf.ones((2, 1)), None, 2)
    np.testing.assert_allclose(losses, [[1, 1], [0.64, 0.64], [0.4096, 0.4096]], rtol=1e-6)
    np.testing.assert_allclose(theta, [[0.64], [0.64]], rtol=1e-6)
    assert float(tf.reduce_sum(losses[:, 0])) == pytest.approx(2.0496)


@pytest.mark.parametrize(("preprocess", "n_weights"), [(False, 5061), (True, 5141)])
def test_has_as_many_weights_as_the_papers(preprocess, n_weights):
    # 4 * 20 * (1 + 20 + 1) + 4 * 20 * (20 + 20 + 1) + 21, and 80 for a second input
    assert LearnedOptimizer(preprocess=preprocess).count_params() == n_weights


def test_update_is_added_and_scaled():
    optimiser = LearnedOptimizer(output_scale=0.1)
    optimiser.head.kernel.assign(tf.zeros((20, 1)))
    optimiser.head.bias.assign([-3.0])  # g_t = 0.1 * -3 whatever the gradient is
    theta, _, losses = follow(optimiser, Square(), tf.ones((1, 1)), None, 2)
    np.testing.assert_allclose(theta, [[0.4]], rtol=1e-6)
    np.testing.assert_allclose(losses[:, 0], [1, 0.49, 0.16], rtol=1e-6)


def test_coordinates_are_treated_alike_and_apart():
    optimiser = tiny(preprocess=True)
    gradients = tf.random.stateless_normal((5, 2, 6), (0, 1))
    order = [4, 2, 0, 5, 1, 3]

    def updates(gradients):
        state, found = optimiser.initial_state(gradients[0]), []
        for gradient in gradients:
            update, state = optimiser.update(gradient, state)
            found.append(update)
        return np.stack(found)

    found = updates(gradients)
    np.testing.assert_allclose(
        updates(tf.gather(gradients, order, axis=2)), found[..., order], rtol=1e-4, atol=1e-7
    )
    other = gradients.numpy()
    other[:, 0, 0] += 1  # moves the update of that coordinate alone
    changed = np.abs(updates(tf.constant(other)) - found).max(axis=0) > 1e-6
    assert changed.sum() == 1
    assert changed[0, 0]


# Against the definition of a derivative.


class DoubleQuadratics(Quadratics):
    def sample(self, seed, n_tasks, steps, split="train"):
        return tf.nest.map_structure(
            lambda part: tf.cast(part, tf.float64), super().sample(seed, n_tasks, steps, split)
        )


def total_loss(optimiser, optimisees, batch, second_derivatives):
    theta, data = batch
    _, _, losses = follow(
        optimiser, optimisees, theta, data, 3, second_derivatives=second_derivatives
    )
    return tf.reduce_sum(losses[1:])


@pytest.mark.parametrize("second_derivatives", [True, False])
def test_unrolled_gradient_matches_finite_differences(float64, second_derivatives):
    optimisees = DoubleQuadratics(2, start_scale=1.0)
    batch = optimisees.sample((0, 1), 2, 3)
    optimiser = tiny()

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = total_loss(optimiser, optimisees, batch, second_derivatives)
        return tape.gradient(loss, [v.value for v in optimiser.trainable_variables])

    loss = tf.function(lambda: total_loss(optimiser, optimisees, batch, True))
    close = []
    for weight, found in zip(optimiser.trainable_variables, gradient()):
        before, step = weight.numpy(), 1e-5
        for index in list(np.ndindex(before.shape))[::9]:
            values = []
            for sign in (1, -1):
                moved = before.copy()
                moved[index] += sign * step
                weight.assign(moved)
                values.append(float(loss()))
            weight.assign(before)
            difference = (values[0] - values[1]) / (2 * step)
            close.append(np.isclose(found.numpy()[index], difference, rtol=1e-5, atol=1e-6))
    # The paper's gradient leaves a part out, and so is another one.
    assert np.all(close) == second_derivatives


def test_dropped_derivative_equals_a_gradient_that_is_given():
    # With the gradients of the functions as fixed numbers, backpropagation gives the same.
    optimisees = Quadratics(2, start_scale=1.0)
    theta, data = optimisees.sample((0, 1), 2, 2)
    optimiser = tiny()
    weights = [v.value for v in optimiser.trainable_variables]
    with tf.GradientTape() as tape:
        _, _, losses = follow(optimiser, optimisees, theta, data, 2)
        found = tf.reduce_sum(losses[1:])
    found = tape.gradient(found, weights)

    gradients, state = [], optimiser.initial_state(theta)
    matrix, target = data
    moving = theta
    for _ in range(2):
        residual = tf.linalg.matvec(matrix, moving) - target
        gradients.append(2 * tf.linalg.matvec(matrix, residual, transpose_a=True))
        update, state = optimiser.update(gradients[-1], state)
        moving += update
    with tf.GradientTape() as tape:
        state, total, moving = optimiser.initial_state(theta), 0.0, theta
        for gradient in gradients:
            update, state = optimiser.update(tf.constant(gradient.numpy()), state)
            moving += update
            total += tf.reduce_sum(optimisees.losses(moving, data, 0))
    for ours, theirs in zip(found, tape.gradient(total, weights)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


# An outer step.


def test_outer_step_is_truncated_backpropagation_with_carried_state():
    optimisees = Quadratics(3)
    batch = optimisees.sample((0, 1), 4, 4)
    optimiser, expected = tiny(optimisees), tiny(optimisees)
    for learner in (optimiser, expected):
        learner.compile(keras.optimizers.SGD(0.01))
    optimiser.optimizer.build(optimiser.trainable_variables)
    loss = tf.function(optimiser.train_step)(batch)["loss"]

    theta, data = batch
    state, total = expected.initial_state(theta), 0.0
    for first_step in (0, 2):
        with tf.GradientTape() as tape:
            theta, state, losses = minimise(expected, optimisees, theta, state, data, first_step, 2)
            meta_loss = tf.reduce_sum(tf.reduce_mean(losses[1:], axis=1))
        total += float(meta_loss)
        variables = expected.trainable_variables
        gradients = tape.gradient(meta_loss, [v.value for v in variables])
        for variable, gradient in zip(variables, gradients):
            variable.assign_sub(0.01 * gradient)
    assert int(optimiser.optimizer.iterations) == optimiser.updates_per_step == 2
    assert float(loss) == pytest.approx(total, rel=1e-5)
    for ours, theirs in zip(optimiser.get_weights(), expected.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_learns_to_find_the_minimum_of_a_square():
    # As the authors' own test: unrolls of 20, rate 0.01, and f(theta_100) all but 0 in the end.
    optimisees = Square()
    optimiser = LearnedOptimizer((10,), optimisees=optimisees)
    before = float(follow(optimiser, optimisees, tf.ones((1, 1)), None, 100)[2][-1, 0])
    optimiser.compile(keras.optimizers.Adam(0.01))
    training.train(optimiser, OptimiseeSampler(optimisees, 100), steps=60, meta_batch_size=1)
    after = float(follow(optimiser, optimisees, tf.ones((1, 1)), None, 100)[2][-1, 0])
    assert after < 1e-4 < before


def test_comes_back_from_its_file(tmp_path):
    optimiser = tiny(preprocess=True)
    optimiser.save(tmp_path / "optimiser.keras")
    again = keras.saving.load_model(tmp_path / "optimiser.keras")
    theta, data = Quadratics(4).sample((0, 1), 2, 3)
    ours, theirs = (follow(o, Quadratics(4), theta, data, 3)[2] for o in (optimiser, again))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_steps": 100, "unroll": 30}, "train_steps to be a multiple of unroll.*100 and 30"),
        ({"unroll": 0}, "both at least 1, got 4 and 0"),
        ({"train_steps": 0}, "both at least 1, got 0 and 2"),
        ({"output_scale": 0}, "output_scale must be greater than 0; got 0"),
        ({"output_scale": float("nan")}, "output_scale must be greater than 0; got nan"),
        ({"units": ()}, "units must have a number for each layer"),
        ({"units": (3, 0)}, "units must be at least 1; got 0"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        tiny(**options)


# The script.


def test_help_names_the_functions(capsys):
    with pytest.raises(SystemExit):
        parse(Config, ["--help"])
    words = capsys.readouterr().out.split("--dimensions")[0]
    assert all(name in words for name in ("quadratics", "digits", "mnist"))


def small(steps=6, **changes):
    config = Config.smoke()
    return replace(config, run=replace(config.run, steps=steps), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run, its configuration, result and folder."""
    config, folder = small(), tmp_path_factory.mktemp("run")
    return config, learning_to_learn.run(config, folder), folder


def test_run_measures_every_optimiser_on_every_kind_of_function(finished):
    config, result, folder = finished
    kinds = ["training", "40_steps", "20_dimensions"]
    assert list(result.extra["conditions"]) == kinds
    for kind in kinds:
        ending = "" if kind == "training" else f"_{kind}"
        for name in ("learned", *HAND_MADE):
            estimate = result.metrics[f"{name}_loss_sum{ending}"]
            assert estimate.n == config.eval_episodes
        curves = result.extra["conditions"][kind]["curves"]
        length = 41 if kind == "40_steps" else 21
        assert all(len(curve["mean"]) == length for curve in curves.values())
    optimizer_experiment.draw(result, config, folder)
    names = {"losses", "beyond_training", "updates", "learning_curve"}
    assert {path.stem for path in folder.glob("*.png")} == names
    json.dumps(result.extra)


def test_resumed_run_ends_where_an_uninterrupted_one_does(finished, tmp_path):
    config = finished[0]
    sampler = optimizer_experiment.new_sampler(config)
    training.prepare(config.run)
    stopping = replace(config, outer_decay=False)
    whole = learning_to_learn.new_learner(stopping, sampler.optimisees)
    history = optimizer_experiment.train(whole, sampler, stopping, tmp_path / "whole")
    half = replace(stopping, run=replace(stopping.run, steps=3))
    for part in (half, stopping):
        learner = learning_to_learn.new_learner(part, sampler.optimisees)
        resumed = optimizer_experiment.train(learner, sampler, part, tmp_path / "resumed")
    assert resumed == history
    for ours, theirs in zip(learner.get_weights(), whole.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_beats_every_hand_made_optimiser():
    usual = RunSettings(steps=80, dataset="quadratics")
    result = learning_to_learn.run(Config(unroll=5, meta_batch_size=16, run=usual))
    best = min(result.metrics[f"{name}_loss_sum"].mean for name in HAND_MADE)
    assert result.metrics["learned_loss_sum"].mean < 0.9 * best
    assert result.metrics["learned_less_best_loss_sum"].mean < 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "omniglot"], "--dataset must be quadratics or digits or mnist"),
        (["--unroll", "30"], "expected train_steps to be a multiple of unroll, .* 100 and 30"),
        (["--units", "20", "0"], "--units must be numbers of at least 1"),
        (["--mixed-precision"], "--mixed-precision is too coarse"),
        (["--outer-lr", "0"], "--outer-lr must be greater than 0"),
    ],
)
def test_bad_input_ends_in_one_line(flags, message):
    with pytest.raises(UserError, match=message):
        parse(Config, flags)
