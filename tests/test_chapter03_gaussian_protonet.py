"""Gaussian prototypical networks against hand calculation and plain ones; and that they learn."""

from dataclasses import replace

from chapter03_protonets import gaussian_protonet
from chapter03_protonets.gaussian_protonet import FORMS, Config, GaussianProtoNet
from chapter03_protonets.protonet import ProtoNet
from common import command, confidence_experiment, confidence_figures, networks
from common.confidence_experiment import pairs_sorted
from common.damage import DamagedSampler
from common.datasets import load
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.settings import RunSettings

import keras
import numpy as np
import pytest
import tensorflow as tf


def identity(width):
    """A network whose outputs are its inputs: points and raw confidences given directly."""
    inputs = keras.Input((width,))
    return keras.Model(inputs, keras.layers.Identity()(inputs))


def raw(precision):
    """The r for which 1 + softplus(r) is `precision`."""
    return np.log(np.expm1(np.asarray(precision) - 1))


def one_task(support, labels, query):
    """The episode of one task from lists of points."""
    support, query = (np.array(part, np.float32)[None] for part in (support, query))
    return Episode(support, np.array(labels, np.int32)[None], query, np.zeros((1, 1), np.int32))


def random_episode(width, n_way=3, k_shot=4, n_query=5, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(n_way), k_shot))
    return one_task(
        generator.normal(size=(n_way * k_shot, width)),
        labels,
        generator.normal(size=(n_query, width)),
    )


def test_prototype_and_distance_worked_by_hand():
    # x = (0, 0), (3, 0) with S = 1.2, 2.4: p = 2.4 * 3 / 3.6 = (2, 0), S_c = 3.6
    # q = (2, 1): d = sqrt(3.6 * 1); a class of one point (2, 4) with S = 2: d = sqrt(2 * 9)
    support = [(0, 0, raw(1.2)), (3, 0, raw(2.4)), (2, 4, raw(2.0))]
    episode = one_task(support, [0, 0, 1], [(2, 1, 7.0)])
    learner = GaussianProtoNet(identity(3))
    points, precisions = learner.points(tf.constant(episode.support_x))
    prototypes, class_precisions = learner.prototypes(points, precisions, episode.support_y, 2)
    np.testing.assert_allclose(prototypes[0], [(2, 0), (2, 4)], atol=1e-6)
    np.testing.assert_allclose(class_precisions[0], [[3.6], [2.0]], atol=1e-6)
    np.testing.assert_allclose(
        learner.query_predictions(episode)[0], [[-1.897367, -(18**0.5)]], rtol=1e-5
    )
    squared = GaussianProtoNet(identity(3), squared=True)
    np.testing.assert_allclose(squared.query_predictions(episode)[0], [[-3.6, -18]], rtol=1e-5)


def test_diagonal_weighs_each_feature_by_itself():
    # feature 1: S = 1.2, 2.4 -> p_1 = 2, S_c1 = 3.6; feature 2 of 0, 4: S = 3, 1.5 -> 4/3, 4.5
    # q = (3, 7/3): d = sqrt(3.6 + 4.5)
    support = [(0, 0, raw(1.2), raw(3.0)), (3, 4, raw(2.4), raw(1.5))]
    episode = one_task(support, [0, 0], [(3, 7 / 3, 0, 0)])
    learner = GaussianProtoNet(identity(4), "diagonal")
    points, precisions = learner.points(tf.constant(episode.support_x))
    prototypes, class_precisions = learner.prototypes(points, precisions, episode.support_y, 1)
    np.testing.assert_allclose(prototypes[0], [(2, 4 / 3)], atol=1e-6)
    np.testing.assert_allclose(class_precisions[0], [(3.6, 4.5)], atol=1e-6)
    np.testing.assert_allclose(learner.query_predictions(episode)[0], [[-(8.1**0.5)]], rtol=1e-5)


@pytest.mark.parametrize(("confidence", "width"), [("radius", 5), ("diagonal", 8), ("none", 4)])
def test_equal_confidences_are_the_plain_network(confidence, width):
    episode = random_episode(width)
    for part in (episode.support_x, episode.query_x):
        part[..., 4:] = 0.3
    learner, plain = GaussianProtoNet(identity(width), confidence), ProtoNet(identity(4))
    short = episode._replace(support_x=episode.support_x[..., :4], query_x=episode.query_x[..., :4])
    points, precisions = learner.points(episode.support_x)
    means = plain.prototypes(short.support_x, episode.support_y, 3)
    prototypes, _ = learner.prototypes(points, precisions, episode.support_y, 3)
    np.testing.assert_allclose(prototypes, means, atol=1e-6)
    # d = sqrt(4 S) times the plain distance: the shots scale it, the ranking is the same
    each = 1.0 if confidence == "none" else 1 + np.log1p(np.exp(0.3))
    expected = -np.sqrt(4 * each * -plain.query_predictions(short))
    np.testing.assert_allclose(learner.query_predictions(episode), expected, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_no_inverse_variance_is_below_one(form):
    r = tf.constant([-1e4, -3.0, 0.0, 3.0, 1e4])
    values = FORMS[form](r).numpy()
    assert np.isfinite(values).all()
    assert min(values) >= 1
    assert min(np.diff(values)) >= 0


def test_forms_at_zero():
    at_zero = {form: float(function(tf.constant(0.0))) for form, function in FORMS.items()}
    assert at_zero == pytest.approx({"softplus": 1 + np.log(2), "sigmoid": 1.5, "steep": 3.0})


def test_a_surer_image_pulls_its_prototype():
    away = []
    for sure in (-2.0, 0.0, 2.0, 20.0):
        embedded = tf.constant([[(0.0, 0.0, 0.0), (3.0, 1.0, sure)]])
        learner = GaussianProtoNet(identity(3))
        points, precisions = learner.points(embedded)
        prototype = learner.prototypes(points, precisions, tf.constant([[0, 0]]), 1)[0][0, 0]
        away.append(np.linalg.norm(prototype - (3.0, 1.0)))
    assert np.all(np.diff(away) < 0)


def test_a_one_shot_prototype_is_the_image():
    episode = random_episode(5, k_shot=1)
    learner = GaussianProtoNet(identity(5))
    points, precisions = learner.points(episode.support_x)
    prototypes, _ = learner.prototypes(points, precisions, episode.support_y, 3)
    ordered = points[0][np.argsort(episode.support_y[0])]
    np.testing.assert_allclose(prototypes[0], ordered, rtol=1e-5)


def test_permuting_the_classes_permutes_the_logits():
    episode, order = random_episode(5), np.array([2, 0, 1])
    learner = GaussianProtoNet(identity(5))
    permuted = episode._replace(support_y=order[episode.support_y].astype(np.int32))
    np.testing.assert_allclose(
        tf.gather(learner.query_predictions(permuted), order, axis=-1),
        learner.query_predictions(episode),
        rtol=1e-5,
    )


def test_a_query_on_its_prototype_has_a_finite_gradient():
    embedded = tf.constant([[(1.0, 2.0, 0.0), (5.0, 1.0, 0.0)]])
    learner = GaussianProtoNet(identity(3))
    with tf.GradientTape() as tape:
        tape.watch(embedded)
        labels = tf.constant([[0, 1]])
        episode = Episode(embedded, labels, embedded, labels)
        loss = tf.reduce_sum(learner.query_predictions(episode))
    assert np.isfinite(tape.gradient(loss, embedded)).all()


def test_confidences_get_a_gradient():
    episode = random_episode(5)
    learner = GaussianProtoNet(identity(5))
    with tf.GradientTape() as tape:
        support = tf.constant(episode.support_x)
        tape.watch(support)
        whole = episode._replace(support_x=support, query_y=np.zeros((1, 5), np.int32))
        loss = learner.meta_loss(whole)
    gradient = tape.gradient(loss, support).numpy()
    assert np.all(np.abs(gradient[..., 4]) > 0)


@pytest.mark.parametrize("confidence", gaussian_protonet.CONFIDENCES)
def test_saved_and_loaded_learners_agree(confidence, tmp_path):
    config = replace(Config.smoke(), filters=4, confidence=confidence, form="sigmoid", squared=True)
    learner = gaussian_protonet.new_learners(config, (28, 28, 1))["gaussian_protonet"]
    episode = EpisodeSampler(load("glyphs", "test"), 3, 2, 2).episode(0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_allclose(
        loaded.predict_task(*episode[:3]), learner.predict_task(*episode[:3]), rtol=1e-6
    )
    assert (loaded.confidence, loaded.form, loaded.squared) == (confidence, "sigmoid", True)


def test_both_learners_start_alike():
    learners = gaussian_protonet.new_learners(Config.smoke(), (28, 28, 1))
    ours, plain = (learner.network.get_weights() for learner in learners.values())
    assert len(ours) == len(plain) + 5  # a kernel and its normalisation
    for a, b in zip(ours, plain, strict=False):
        np.testing.assert_array_equal(a, b)


def test_a_linear_layer_goes_behind_the_features():
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 1)).astype(np.float32)
    network = networks.conv4((16, 16, 1), None, filters=4, strided=False)
    longer = networks.with_linear(network, 2)
    assert longer.output_shape == (None, 6)
    np.testing.assert_allclose(longer(images)[:, :4], network(images), rtol=1e-6)


@pytest.fixture(scope="module")
def trained():
    """A short run with a few wide classes of settings, and its result."""
    tried = RunSettings(steps=60, dataset="glyphs")
    config = replace(
        Config(), n_way=5, n_query=3, test_ways=(5,), test_query=5, filters=16,
        eval_episodes=40, run=tried,
    )  # fmt: skip
    return config, gaussian_protonet.run(config)


def test_it_learns(trained):
    _, result = trained
    damaged = result.metrics["gaussian_protonet_accuracy_5_way_5_shot_damaged"]
    assert damaged.mean - damaged.ci95 > 0.33, damaged  # untrained 0.26, chance 0.2
    assert result.history["loss"][-1] < np.log(5) - 0.1  # untrained above 2


def test_gain_is_the_paired_difference(trained):
    _, result = trained
    for task in ("5_way_5_shot_clean", "5_way_5_shot_damaged"):
        ours, plain = (
            result.metrics[f"{name}_accuracy_{task}"] for name in ("gaussian_protonet", "protonet")
        )
        gain = result.metrics[f"gain_{task}"]
        assert gain.mean == pytest.approx(ours.mean - plain.mean, abs=1e-6)
        assert gain.n == ours.n == plain.n == 40


def test_draws_its_figures(trained, tmp_path):
    config, result = trained
    confidence_experiment.draw(result, config, tmp_path)
    names = {"episode.png", "gaussians.png", "confidences.png", "learning_curve.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_figures_of_diagonal_and_of_equal_confidences():
    episode = EpisodeSampler(load("glyphs", "test"), 5, 2, 3).episode(0)
    for confidence in ("diagonal", "none"):
        config = replace(Config.smoke(), confidence=confidence)
        learner = gaussian_protonet.new_learners(config, (28, 28, 1))["gaussian_protonet"]
        figure = confidence_figures.draw_gaussians(learner, episode)
        assert len(figure.axes[0].patches) == 5  # an ellipse for each class


def test_writes_what_it_needs_to_be_resumed(tmp_path):
    config = replace(Config.smoke(), eval_episodes=2, filters=4)
    config = replace(config, run=replace(config.run, steps=2))
    first = gaussian_protonet.run(config, tmp_path)
    assert (tmp_path / "learner.weights.h5").exists()
    assert (tmp_path / "protonet" / "learner.weights.h5").exists()
    again = gaussian_protonet.run(config, tmp_path)  # both are finished: nothing is trained again
    assert again.metrics == first.metrics


@pytest.mark.slow
def test_damaged_images_are_less_sure():
    config = replace(
        Config(), n_way=10, n_query=3, filters=32,
        run=RunSettings(steps=300, dataset="glyphs"),
    )  # fmt: skip
    sampler, tests = confidence_experiment.samplers(config)
    task = tests["5_way_5_shot_damaged"]
    learner = gaussian_protonet.new_learners(config, (28, 28, 1))["gaussian_protonet"]
    # Damaged images are alike, so that any direction sorts them from the whole ones, one way or
    # the other: start from the wrong way round.
    kernel = learner.network.get_layer("confidence").kernel
    if pairs_sorted(learner, task, 20).mean > 0.5:
        kernel.assign(-kernel.value)
    assert pairs_sorted(learner, task, 20).mean < 0.5
    confidence_experiment.train({"gaussian": learner}, sampler, config)
    sorted_pairs = pairs_sorted(learner, task, 20)
    assert sorted_pairs.mean - sorted_pairs.ci95 > 0.8, sorted_pairs  # chance is 0.5


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--confidence", "sphere"], "confidence must be one of"),
        (["--form", "exp"], "form must be one of"),
        (["--damage", "1.5"], "--damage must be between 0 and 1"),
        (["--damage-factor", "0"], "--damage-factor must be at least 1"),
        (["--damage-factor", "29"], "factor"),
        (["--dataset", "sine"], ""),
    ],
)
def test_bad_input_ends_in_one_line(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--smoke", "--output-dir", str(tmp_path), *flags])
    with pytest.raises(SystemExit) as stop:
        gaussian_protonet.main()
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert words in message
    assert not list(tmp_path.rglob("*.json"))


def test_names_of_learners_are_refused_early():
    with pytest.raises(UserError, match="confidence must be one of"):
        GaussianProtoNet(identity(3), "sphere")
    with pytest.raises(UserError, match="form must be one of"):
        GaussianProtoNet(identity(3), form="exp")


def test_the_command_repeats_the_run():
    assert command.command_line(Config()) == "python chapter03_protonets/gaussian_protonet.py"
    config = replace(Config(), confidence="diagonal")
    assert command.command_line(config).endswith("gaussian_protonet.py --confidence diagonal")


def test_needs_a_damaged_sampler_of_the_same_images():
    config = replace(Config.smoke(), damage=1.0)
    sampler, tests = confidence_experiment.samplers(config)
    assert isinstance(sampler, DamagedSampler)
    assert list(tests) == ["5_way_5_shot_clean", "5_way_5_shot_damaged"]


def test_confidences_of_a_network_of_fewer_bits():
    inputs = keras.Input((3,))
    exact = GaussianProtoNet(keras.Model(inputs, keras.layers.Identity()(inputs)))
    coarse = keras.Model(inputs, keras.layers.Identity(dtype="bfloat16")(inputs))
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    sure = confidence_experiment.confidences(GaussianProtoNet(coarse), rows)
    assert sure.dtype == np.float32
    np.testing.assert_allclose(sure, confidence_experiment.confidences(exact, rows), rtol=0.01)
