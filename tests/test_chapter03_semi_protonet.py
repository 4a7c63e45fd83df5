"""Soft k-means, its extra cluster and its masks, against hand calculation; and that they learn."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from chapter03_protonets import semi_protonet
from chapter03_protonets.protonet import ProtoNet
from chapter03_protonets.semi_protonet import METHODS, Config, MaskedSoftKMeans, SoftKMeans
from common import networks, semi_experiment
from common.embedding import distance_statistics
from common.episodes import Episode
from common.errors import UserError
from common.semi_supervised import SemiSupervisedEpisode
from common.settings import RunSettings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent

every_method = pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)


def plain(features=1):
    """An embedding that leaves its inputs as they are."""
    return keras.Sequential([keras.Input((features,)), keras.layers.Identity()])


def column(*numbers):
    """Numbers as points on a line, `(1, n, 1)`."""
    return tf.constant(numbers, tf.float32, (1, len(numbers), 1))


def labels(*numbers):
    return tf.constant([numbers])


def episode(n_tasks=2, n_way=3, n_unlabelled=7, features=4, seed=0):
    """Tasks of random points, each class around a centre of its own."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(n_tasks, n_way, features))
    labels = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    hidden = random.integers(-1, n_way, (n_tasks, n_unlabelled)).astype(np.int32)

    def points(labels):
        middle = np.take_along_axis(centres, labels[..., None], axis=1)
        return tf.cast(middle + random.normal(0, 0.3, (*labels.shape, features)), tf.float32)

    support_y, query_y = labels
    return SemiSupervisedEpisode(
        points(support_y), support_y, points(query_y), query_y, points(hidden), hidden
    )


def dense(kind):
    """A learner with an embedding that has weights, so that there is something to train."""
    network = networks.mlp(4, (8,), 3)
    return kind(network)


# By hand.


def test_soft_k_means_worked_by_hand():
    # p = 0 and 2, u = 0.5: d = 0.25 and 2.25, z = 1 / (1 + e^-2) and the rest;
    # p~_1 = 0.5 * 0.880797 / 1.880797, p~_2 = (2 + 0.5 * 0.119203) / 1.119203
    learner, prototypes = SoftKMeans(plain()), column(0, 2)
    z = learner.assignments(column(0.5), prototypes)
    np.testing.assert_allclose(z, [[[0.880797, 0.119203]]], atol=1e-6)
    refined = learner.refine(prototypes, column(0, 2), labels(0, 1), column(0.5))
    np.testing.assert_allclose(refined, column(0.234155, 1.840240), atol=1e-6)
    asked = SemiSupervisedEpisode(
        column(2, 0), labels(1, 0), column(1), labels(0), column(0.5), labels(0)
    )
    expected = [[[-((1 - 0.234155) ** 2), -((1 - 1.840240) ** 2)]]]
    np.testing.assert_allclose(learner.query_predictions(asked), expected, atol=1e-5)


def test_cluster_of_distractors_worked_by_hand():
    # p = 3 and -3 with r = 1, and 0 with r = 2; u = 1: -4, -16, and -1 / 4 - ln 2
    learner = METHODS["cluster"](plain())
    learner.log_radius.assign(np.log(2.0))
    z = learner.assignments(column(1), column(3, -3))[0, 0]
    np.testing.assert_allclose(z, [0.044923, 0], atol=1e-5)
    np.testing.assert_allclose(1 - tf.reduce_sum(z), 0.955077, atol=1e-5)
    # With the code's extra 1/2 it would be .234583; without A, whose part is ln 2, .022986.


def learner_with_mask(b, g):
    learner = MaskedSoftKMeans(plain())
    last = learner.mlp.layers[-1]
    last.set_weights([np.zeros((20, 2)), np.log([b, g])])
    return learner


def test_mask_worked_by_hand():
    # d = 1 and 3, their mean 2: d~ = 0.5 and 1.5; b = 1, g = 2: m = sigmoid(1) and sigmoid(-1)
    learner = learner_with_mask(b=1, g=2)
    mask = learner.mask(column(1, 3))
    np.testing.assert_allclose(mask, column(0.731059, 0.268941), atol=1e-6)
    np.testing.assert_allclose(learner.mask(10 * column(1, 3)), mask, atol=1e-6)


def test_mask_multiplies_the_assignments_once():
    learner = learner_with_mask(b=1, g=2)
    unlabelled, prototypes = column(0.5, 1.8, -4), column(0, 2)
    z = SoftKMeans(plain()).assignments(unlabelled, prototypes)
    mask = learner.mask((unlabelled - tf.reshape(prototypes, (1, 1, 2))) ** 2)
    np.testing.assert_allclose(learner.assignments(unlabelled, prototypes), z * mask, rtol=1e-5)


def test_masks_start_at_one_half_where_the_distance_is_the_mean():
    mask = MaskedSoftKMeans(plain()).mask(column(1, 2, 3))[0, :, 0]
    np.testing.assert_allclose(mask, [0.6225, 0.5, 0.3775], atol=0.03)


def test_statistics_worked_by_hand():
    found = distance_statistics(column(0.5, 1.5))
    np.testing.assert_allclose(found, [[[0.5, 1.5, 0.25, 0, -2]]], atol=1e-5)


def test_statistics_are_those_of_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=(2, 9, 3)).astype(np.float32)
    moments = [np.var(values, 1), stats.skew(values, 1), stats.kurtosis(values, 1)]
    expected = np.stack([values.min(1), values.max(1), *moments], -1)
    np.testing.assert_allclose(distance_statistics(values), expected, rtol=1e-3, atol=1e-4)


def test_several_refinements_are_soft_k_means():
    task = episode(n_tasks=1)
    support, labels, query, _, unlabelled, _ = (np.array(part[0], np.float64) for part in task)
    own = np.eye(3)[labels.astype(int)]
    prototypes = own.T @ support / own.sum(0)[:, None]
    for _ in range(3):
        z = np.exp(-np.sum((unlabelled[:, None] - prototypes) ** 2, axis=-1))
        z = np.concatenate([own, z / z.sum(axis=1, keepdims=True)])
        prototypes = z.T @ np.concatenate([support, unlabelled]) / z.sum(0)[:, None]
    expected = -np.sum((query[:, None] - prototypes) ** 2, axis=-1)
    learner = SoftKMeans(plain(4))
    learner.refinements = 3
    found = learner.query_predictions(task)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# What must be equal, and what must not.


@every_method
def test_without_unlabelled_items_it_is_the_prototypical_network(kind):
    task = episode()
    learner = dense(kind)
    expected = ProtoNet(learner.network).query_predictions(task)
    empty = task._replace(unlabelled_x=task.unlabelled_x[:, :0], unlabelled_y=task[5][:, :0])
    for without in (Episode(*task[:4]), empty):
        np.testing.assert_allclose(learner.query_predictions(without), expected, rtol=1e-5)
    assert np.abs(learner.query_predictions(task) - expected).max() > 0.01
    probabilities = learner.predict_task(task[0][0], task[1][0], task[2][0])
    np.testing.assert_allclose(probabilities, tf.nn.softmax(expected[0]), rtol=1e-4)


def test_a_vanishing_radius_or_an_open_mask_is_soft_k_means():
    task = episode()
    learner = dense(SoftKMeans)
    expected = learner.query_predictions(task)
    cluster = METHODS["cluster"](learner.network)
    cluster.log_radius.assign(np.log(0.01))
    np.testing.assert_allclose(cluster.query_predictions(task), expected, rtol=1e-4)
    masked = MaskedSoftKMeans(learner.network)
    masked.mlp.layers[-1].set_weights([np.zeros((20, 2)), np.array([4.0, 2.0])])  # b = e^4
    np.testing.assert_allclose(masked.query_predictions(task), expected, rtol=1e-4)


def test_the_cluster_takes_weight_from_every_class():
    task = episode()
    soft = SoftKMeans(plain(4))
    cluster = METHODS["cluster"](plain(4))
    prototypes = soft.prototypes(task.support_x, task.support_y, 3)
    z, less = (each.assignments(task.unlabelled_x, prototypes) for each in (soft, cluster))
    np.testing.assert_allclose(tf.reduce_sum(z, -1), np.ones((2, 7)), rtol=1e-5)
    assert np.all(less < z)
    np.testing.assert_allclose(less / tf.reduce_sum(less, -1, True), z, rtol=1e-4)


@every_method
def test_permuting_the_classes_permutes_the_logits(kind):
    task, learner = episode(), dense(kind)
    order = np.array([2, 0, 1], np.int32)  # label c becomes order[c]
    before = learner.query_predictions(task)
    after = learner.query_predictions(task._replace(support_y=order[task.support_y]))
    np.testing.assert_allclose(tf.gather(after, order, axis=-1), before, rtol=1e-4, atol=1e-5)


@every_method
def test_neither_hidden_labels_nor_the_order_of_items_matter(kind):
    task, learner = episode(), dense(kind)
    before = learner.query_predictions(task)
    turned = task._replace(
        unlabelled_x=task.unlabelled_x[:, ::-1], unlabelled_y=np.zeros_like(task.unlabelled_y)
    )
    np.testing.assert_allclose(learner.query_predictions(turned), before, rtol=1e-4, atol=1e-5)


@every_method
def test_a_task_does_not_depend_on_its_batch(kind):
    task, learner = episode(n_tasks=3), dense(kind)
    together = learner.query_predictions(task)
    alone = task._make(part[1:2] for part in task)
    np.testing.assert_allclose(learner.query_predictions(alone)[0], together[1], rtol=1e-4)


def gradients(learner, task):
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(task)
    return tape.gradient(loss, [v.value for v in learner.trainable_variables])


@every_method
def test_every_weight_has_a_gradient(kind):
    learner = dense(kind)
    assert len(learner.trainable_variables) == 4 + {"cluster": 1, "masked": 4}.get(
        {value: key for key, value in METHODS.items()}[kind], 0
    )
    for gradient in gradients(learner, episode()):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@every_method
@pytest.mark.parametrize("where", ["one point", "on the prototypes"])
def test_gradients_are_finite_where_nothing_varies(kind, where):
    task, learner = episode(), dense(kind)
    if where == "one point":
        same = tf.repeat(task.unlabelled_x[:, :1], 7, axis=1)
        task = task._replace(unlabelled_x=same)
    else:
        point = tf.ones_like(task.support_x)
        task = task._replace(support_x=point, unlabelled_x=tf.ones_like(task.unlabelled_x))
    assert np.isfinite(learner.query_predictions(task)).all()
    for gradient in gradients(learner, task):
        assert np.isfinite(gradient).all()


def test_gradients_flow_through_the_assignments():
    class Stopped(SoftKMeans):
        def assignments(self, unlabelled, prototypes):
            return tf.stop_gradient(super().assignments(unlabelled, prototypes))

    learner = dense(SoftKMeans)
    through, stopped = (
        gradients(kind(learner.network), episode()) for kind in (SoftKMeans, Stopped)
    )
    assert np.abs(through[0] - stopped[0]).max() > 0.01 * np.abs(through[0]).max()


@every_method
def test_saved_and_loaded_learners_agree(kind, tmp_path):
    task, learner = episode(), dense(kind)
    for weight in learner.trainable_variables:
        weight.assign_add(0.1 * tf.ones_like(weight))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert type(loaded) is kind
    expected = learner.query_predictions(task)
    np.testing.assert_allclose(loaded.query_predictions(task), expected, rtol=1e-6)


# It learns.


def short(**changes):
    config = replace(Config(), filters=8, eval_episodes=200, outer_lr=0.005, meta_batch_size=2)
    return replace(config, run=RunSettings(steps=150, dataset="glyphs"), **changes)


def test_unseen_characters_are_learned_with_unlabelled_ones(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(semi_experiment, "CURVE_EPISODES", 5)
    result = semi_protonet.run(short(methods=("masked",)))
    scores = {name: estimate.mean for name, estimate in result.metrics.items()}
    assert set(scores) == {
        "supervised_accuracy", "masked_accuracy", "inference_accuracy", "masked_gain",
        "inference_gain",
    }  # fmt: skip
    assert scores["supervised_accuracy"] > 0.5  # measured: 0.64
    assert scores["masked_gain"] > 0.03  # measured: 0.085
    gain = scores["masked_accuracy"] - scores["supervised_accuracy"]
    assert scores["masked_gain"] == pytest.approx(gain)
    assert result.metrics["masked_gain"].n == 200
    assert result.extra["n_unlabelled"] == [1, 2, 5, 10, 18]
    assert list(result.history) == ["step", "supervised", "masked"]
    assert result.history["masked"][-1] < 0.7 * result.history["masked"][0]
    assert list(tmp_path.iterdir()) == []  # without a directory it writes nothing
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_seed_decides_the_result_and_a_run_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(semi_experiment, "accuracy_by_unlabelled", lambda *_: {})

    def metrics(seed, directory=None):
        settings = RunSettings(steps=3, seed=seed, dataset="glyphs")
        config = replace(short(methods=("cluster",), distractors=2), eval_episodes=10)
        return semi_protonet.run(replace(config, run=settings), directory).metrics

    first = metrics(0, tmp_path)
    shutil.rmtree(tmp_path / "cluster")  # as if killed after the first of the learners
    assert metrics(0, tmp_path) == first == metrics(0) != metrics(1)


@pytest.mark.slow
def test_real_characters_are_split_as_in_the_paper(real_data):
    folder = real_data("omniglot").parent
    settings = RunSettings(dataset="omniglot-random", data_dir=folder)
    config = replace(Config.for_dataset("omniglot-random"), distractors=5, run=settings)
    sampler, test_sampler = semi_experiment.samplers(config)
    assert sampler.episode(0).unlabelled_x.shape == (50, 28, 28, 1)
    assert test_sampler.episode(0).unlabelled_x.shape == (180, 28, 28, 1)  # of 20 drawings 18


# What is refused.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("soft", "hard")}, "--methods must be among soft cluster masked, got hard"),
        ({"distractors": -1}, "--distractors must be at least 0, got -1"),
        ({"labelled": 0.0}, "--labelled must be greater than 0, got 0.0"),
        ({"n_unlabelled": 0}, "--n-unlabelled must be at least 1, got 0"),
        ({"n_way": 1}, "--n-way must be at least 2, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        replace(Config(), **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labelled": 1.5}, "labelled must be a share between 0 and 1, got 1.5"),
        ({"k_shot": 2}, "at least 3 labelled items in every class"),
        ({"n_unlabelled": 19}, "from 1 to 18 unlabelled items"),
        ({"distractors": 5000}, "at least 5005 classes"),
        ({"run": RunSettings(dataset="sine")}, "found sine; choose another --dataset"),
    ],
)
def test_episodes_that_the_data_cannot_give_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        semi_protonet.run(replace(Config(), **changes))


# As a script.


def start(*command, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_smoke_run_of_the_script_leaves_all_files(tmp_path):
    flags = ("--smoke", "--distractors", "2")
    done = start(ROOT / "chapter03_protonets" / "semi_protonet.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "cluster_gain" in done.stdout
    (folder,) = (tmp_path / "outputs" / "semi_protonet").iterdir()
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert names >= {
        "config.json", "result.json", "supervised/learner.weights.h5", "masked/learner.weights.h5",
        "episode.png", "rounds_soft.png", "rounds_cluster.png", "masks.png", "by_unlabelled.png",
        "learning_curves.png",
    }  # fmt: skip
    content = json.loads((folder / "result.json").read_text())
    assert (
        content["command"] == "python chapter03_protonets/semi_protonet.py --smoke --distractors 2"
    )
    assert content["metrics"]["soft_gain"]["n"] == 20


def test_bad_flags_end_in_one_line(tmp_path):
    script = ROOT / "chapter03_protonets" / "semi_protonet.py"
    done = start(script, "--smoke", "--methods", "hard", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --methods must be among soft cluster masked, got hard\n"
    assert list(tmp_path.iterdir()) == []
