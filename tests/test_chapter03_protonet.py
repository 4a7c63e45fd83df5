"""Prototypical networks against hand calculation and what must not matter; and that they learn."""

import json
import math
from dataclasses import replace

from chapter03_protonets import protonet
from chapter03_protonets.protonet import Config, ProtoNet, ZeroShotProtoNet
from common import command, metric_experiment, networks, training
from common.datasets import load
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.settings import RunSettings

import keras
import numpy as np
import pytest
import tensorflow as tf


def identity(*shape):
    """An embedding that leaves its items as they are."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Identity()(inputs))


def points(n_tasks=2, n_way=3, k_shot=2, n_query=4, features=5, seed=0):
    """Tasks of random points."""
    random = np.random.default_rng(seed)
    parts = []
    for n in (k_shot, n_query):
        x = random.normal(size=(n_tasks, n_way * n, features)).astype(np.float32)
        y = random.permuted(np.tile(np.arange(n_way), (n_tasks, n)), axis=1).astype(np.int32)
        parts += [tf.constant(x), tf.constant(y)]
    return Episode(*parts)


def images(n_tasks=2, n_way=3, seed=0):
    episode = points(n_tasks, n_way, k_shot=1, n_query=2, features=8 * 8, seed=seed)
    square = (*episode.support_x.shape[:1], -1, 8, 8, 1)
    return episode._replace(
        support_x=tf.reshape(episode.support_x, square),
        query_x=tf.reshape(episode.query_x, square),
    )


def small_conv(**options):
    return networks.conv4((8, 8, 1), None, filters=4, blocks=2, strided=False, **options)


# By hand.

SUPPORT_X = np.float32([(0, 0), (2, 0), (0, 3), (0, 5)])  # prototypes (1, 0) and (0, 4)
SUPPORT_Y = np.int32([0, 0, 1, 1])
QUERY = np.float32([(1, 1)])  # squared distances 1 and 10


def test_two_classes_worked_by_hand():
    learner = ProtoNet(identity(2))
    prototypes = learner.prototypes(tf.constant(SUPPORT_X[None]), SUPPORT_Y[None], 2)
    np.testing.assert_array_equal(prototypes, [[(1, 0), (0, 4)]])
    np.testing.assert_allclose(learner.logits(QUERY[None], prototypes), [[(-1, -10)]])
    probabilities = learner.predict_task(SUPPORT_X, SUPPORT_Y, QUERY)
    np.testing.assert_allclose(probabilities, [(0.999877, 0.000123)], atol=1e-6)
    episode = Episode(*(tf.constant(part)[None] for part in (SUPPORT_X, SUPPORT_Y, QUERY)), [[0]])
    assert float(learner.meta_loss(episode)) == pytest.approx(1.234e-4, rel=1e-3)


def test_squared_distances_not_plain_ones():
    # Not squared, the logits would be -1 and -sqrt(10): p_A = 0.897.
    (row,) = ProtoNet(identity(2)).predict_task(SUPPORT_X, SUPPORT_Y, QUERY)
    assert row[0] > 0.99


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("n_way", [2, 5, 20])
def test_a_constant_embedding_costs_the_logarithm_of_the_number_of_classes(distance, n_way):
    inputs = keras.Input((5,))
    constant = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="zeros")(inputs))
    loss = ProtoNet(constant, distance).meta_loss(points(n_way=n_way))
    assert float(loss) == pytest.approx(math.log(n_way), rel=1e-5)


# What must not matter, and what must be equal.


def test_rotating_and_shifting_the_embedding_changes_nothing():
    episode = points()
    random = np.random.default_rng(1)
    rotation = np.linalg.qr(random.normal(size=(5, 5)))[0].astype(np.float32)
    moved = episode._replace(
        support_x=episode.support_x @ rotation + 3.0, query_x=episode.query_x @ rotation + 3.0
    )
    learner = ProtoNet(identity(5))
    before, after = learner.query_predictions(episode), learner.query_predictions(moved)
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)
    assert np.std(before) > 1


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_permuting_the_classes_permutes_the_answers(distance):
    episode, order = points(n_way=4), np.int32([2, 0, 3, 1])  # label c becomes order[c]
    learner = ProtoNet(identity(5), distance)
    renamed = episode._replace(support_y=tf.gather(order, episode.support_y))
    before, after = learner.query_predictions(episode), learner.query_predictions(renamed)
    np.testing.assert_allclose(tf.gather(after, order, axis=-1), before, rtol=1e-5, atol=1e-5)
    assert np.abs(after - before).max() > 0.1


def test_the_order_of_the_support_items_changes_nothing():
    episode, order = points(), [3, 1, 5, 0, 2, 4]
    shuffled = episode._replace(
        support_x=tf.gather(episode.support_x, order, axis=1),
        support_y=tf.gather(episode.support_y, order, axis=1),
    )
    learner = ProtoNet(identity(5))
    before, after = learner.query_predictions(episode), learner.query_predictions(shuffled)
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


def test_a_prototype_of_one_item_is_its_embedding():
    network, episode = small_conv(), images()
    learner = ProtoNet(network)
    embedded = network(episode.support_x[0]).numpy()
    prototypes = learner.prototypes(embedded[None], episode.support_y[:1], 3)[0].numpy()
    np.testing.assert_allclose(prototypes[episode.support_y[0].numpy()], embedded, rtol=1e-6)


def test_the_answer_is_linear_in_the_embedding():
    # -|z - c|^2 = 2 c.z - |c|^2 - |z|^2, and the last is the same for all classes (section 2.4).
    random = np.random.default_rng(0)
    z, c = random.normal(size=(1, 6, 4)), random.normal(size=(1, 3, 4))
    linear = 2 * z @ c.transpose(0, 2, 1) - np.sum(c**2, -1)[:, None, :]
    logits = ProtoNet(identity(4)).logits(tf.constant(z), tf.constant(c))
    np.testing.assert_allclose(tf.nn.softmax(logits), tf.nn.softmax(linear), rtol=1e-10)


def test_scaled_cosines_are_bounded_and_ignore_length():
    learner, episode = ProtoNet(identity(5), "cosine", scale=7.0), points()
    logits = learner.query_predictions(episode)
    assert np.abs(logits).max() <= 7.0 + 1e-5
    longer = episode._replace(support_x=100 * episode.support_x, query_x=0.01 * episode.query_x)
    np.testing.assert_allclose(learner.query_predictions(longer), logits, rtol=1e-4, atol=1e-5)


def test_training_and_test_may_have_different_numbers_of_classes():
    learner = ProtoNet(identity(5), train_way=6)
    assert learner.query_predictions(points(n_way=6), training=True).shape == (2, 24, 6)
    assert learner.query_predictions(points(n_way=3)).shape == (2, 12, 3)
    config = Config(n_way=12, test_ways=(5, 7))
    train, test = metric_experiment.samplers(config)
    assert train.episode(0).support_y.max() == 11
    assert [sampler.episode(0).support_y.max() for sampler in test.values()] == [4, 6]
    assert list(test) == ["5_way_1_shot", "7_way_1_shot"]


def test_an_image_is_embedded_by_itself_at_test_time():
    learner, episode = ProtoNet(small_conv(norm="fused")), images()
    learner.query_predictions(episode, training=True)  # moves the averages
    alone = episode._replace(query_x=episode.query_x[:, :1])
    together = learner.query_predictions(episode)[:, :1]
    np.testing.assert_allclose(learner.query_predictions(alone), together, rtol=1e-4, atol=1e-5)
    in_training = learner.query_predictions(episode, training=True)[:, :1]
    assert np.abs(in_training - together).max() > 1e-3


def test_an_unknown_distance_is_refused():
    with pytest.raises(UserError, match="euclidean, cosine; got 'manhattan'"):
        ProtoNet(identity(2), "manhattan")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--n-way", "1"], "--n-way must be at least 2, got 1"),
        (["--test-ways", "1"], "--test-ways must be numbers of at least 2"),
        (["--scale", "0"], "--scale must be greater than 0"),
        (["--query", "a.png"], "--query needs --support DIR"),
        (["--weights", "outputs"], "--weights needs --support DIR"),
        (["--support", "."], "--support needs --query FILE"),
        (["--support", ".", "--query", "a.png", "--zero-shot"], "leave out one"),
    ],
)
def test_impossible_settings_are_refused(flags, words):
    with pytest.raises(UserError) as refusal:
        command.parse(Config, flags)
    assert words in str(refusal.value)


# Zero-shot.


def described(n_tasks=2, n_way=4, seed=0):
    """Images of which one row is that of the class, which is described by the row's number."""
    random = np.random.default_rng(seed)
    labels = random.permuted(np.tile(np.arange(n_way), (n_tasks, 1)), axis=1).astype(np.int32)
    descriptions = np.eye(n_way, dtype=np.float32)[labels]
    query_y = random.permuted(np.tile(np.arange(n_way), (n_tasks, 3)), axis=1).astype(np.int32)
    query_x = random.uniform(0, 0.2, (n_tasks, 3 * n_way, 8, 8, 1)).astype(np.float32)
    for task, row in np.ndindex(query_y.shape):
        query_x[task, row, 2 * query_y[task, row]] += 1
    return Episode(*map(tf.constant, (descriptions, labels, query_x, query_y)))


def zero_shot_learner(n_attributes=4):
    network = networks.conv4((8, 8, 1), 6, filters=4, blocks=2, strided=False)
    return ZeroShotProtoNet(network, networks.mlp(n_attributes, (), 6))


def test_zero_shot_prototypes_are_descriptions_of_length_one():
    # g doubles, f leaves as it is: c = (0.6, 0.8), (1, 0); q = (1, 1): squared distances
    # 0.16 + 0.04 and 1.
    inputs = keras.Input((2,))
    doubled = keras.Model(inputs, keras.layers.Rescaling(2.0)(inputs))
    learner = ZeroShotProtoNet(identity(2), doubled)
    parts = np.float32([[(5, 0), (3, 4)]]), np.int32([[1, 0]]), QUERY[None], np.int32([[0]])
    logits = learner.query_predictions(Episode(*map(tf.constant, parts)))
    np.testing.assert_allclose(logits, [[(-0.2, -1.0)]], rtol=1e-5)


def test_zero_shot_both_embeddings_learn():
    learner, episode = zero_shot_learner(), described()
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(episode)
    gradients = tape.gradient(loss, [v.value for v in learner.trainable_variables])
    assert len(gradients) == len(learner.network.trainable_variables) + 2
    assert all(np.abs(gradient).max() > 0 for gradient in gradients[-2:])


# Saved, resumed, with fewer bits.


@pytest.mark.parametrize("kind", ["euclidean", "cosine", "zero-shot"])
def test_saved_and_loaded_models_agree(tmp_path, kind):
    if kind == "zero-shot":
        learner, episode = zero_shot_learner(), described()
    else:
        learner, episode = ProtoNet(small_conv(), kind, scale=3.0, train_way=3), images()
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert type(loaded) is type(learner)
    assert (loaded.distance, loaded.train_way) == (learner.distance, learner.train_way)
    np.testing.assert_allclose(
        loaded.query_predictions(episode), learner.query_predictions(episode), rtol=1e-6
    )


def test_fewer_bits_give_nearly_the_same(request):
    before = keras.config.dtype_policy()
    request.addfinalizer(lambda: keras.config.set_dtype_policy(before))
    episode, exact = images(), ProtoNet(small_conv(norm="fused"))
    keras.config.set_dtype_policy("mixed_bfloat16")
    coarse = ProtoNet(small_conv(norm="fused"))
    logits = coarse.query_predictions(episode)
    assert logits.dtype == tf.float32
    expected = exact.query_predictions(episode)
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())
    coarse.compile(keras.optimizers.Adam(0.001))
    coarse.fit(tf.data.Dataset.from_tensors(episode), verbose=0)
    assert all(np.isfinite(v.numpy()).all() for v in coarse.variables)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    sampler = EpisodeSampler(load("glyphs", "train"), 3, 1, 2)

    def trained(*parts, folder):
        for steps in parts:
            learner = ProtoNet(
                networks.conv4((28, 28, 1), None, filters=4, strided=False, norm="fused"),
                train_way=3,
            )
            learner.compile(keras.optimizers.Adam(0.01))
            training.train(learner, sampler, steps=steps, meta_batch_size=2, directory=folder)
        return learner.get_weights()

    whole = trained(4, folder=tmp_path / "whole")
    parts = trained(2, 4, folder=tmp_path / "parts")
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


# It learns.


def test_unseen_scripts_are_learned_from_one_glyph():
    config = replace(
        Config(), n_way=20, n_query=3, filters=16, test_ways=(5,), outer_lr=0.005,
        run=RunSettings(steps=60, dataset="glyphs"),
    )  # fmt: skip
    training.prepare(config.run)
    train, tests = metric_experiment.samplers(config)
    learner = protonet.new_learner(config, (28, 28, 1))
    episodes = tests["5_way_1_shot"].fixed(100, 10)
    before = learner.evaluate_episodes(episodes).mean
    metric_experiment.train(learner, train, config)
    after = learner.evaluate_episodes(episodes).mean
    assert before < 0.5  # measured: 0.41
    assert after > 0.7  # measured: 0.79
    assert after > before + 0.25


def test_unseen_letters_are_learned_from_their_names():
    config = replace(
        Config(), n_way=20, n_query=5, filters=16, test_ways=(10,), outer_lr=0.005,
        zero_shot=True, run=RunSettings(steps=160, dataset="glyphs"),
    )  # fmt: skip
    training.prepare(config.run)
    train, tests = metric_experiment.samplers(config)
    learner = protonet.new_learner(config, *metric_experiment.shapes(train))
    metric_experiment.train(learner, train, config)
    accuracy = learner.evaluate_episodes(tests["10_way_zero_shot"].fixed(60, 10)).mean
    assert accuracy > 0.4  # measured: 0.58; chance is 0.1


# As a script.


def test_smoke_run_leaves_all_files(tmp_path, capfd):
    for place, flags in ((tmp_path, []), (tmp_path / "zero", ["--zero-shot"])):
        flags = ["--smoke", "--steps", "2", "--output-dir", str(place), *flags]
        command.main(Config, protonet.run, metric_experiment.draw, flags)
    capfd.readouterr()
    for place in ("protonet", "zero/protonet"):
        (folder,) = (tmp_path / place).iterdir()
        names = {path.name for path in folder.iterdir()}
        assert names >= {"config.json", "result.json", "learner.weights.h5", "episode.png"}
        content = json.loads((folder / "result.json").read_text())
        assert set(content["config"]).isdisjoint({"support", "query", "weights"})
    assert content["command"] == (
        "python chapter03_protonets/protonet.py --smoke --steps 2 --zero-shot"
    )
    assert "protonet_accuracy_5_way_zero_shot" in content["metrics"]
