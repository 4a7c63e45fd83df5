"""Learners that see support sets only, against hand calculation and Keras; and that they learn."""

import json
from dataclasses import replace
from functools import partial

from chapter01_intro import episodes
from chapter01_intro.episodes import (
    Config,
    FromScratch,
    logistic_regression,
    nearest_neighbour,
)
from common import adaptation, command, episode_figures, networks, support_experiment
from common.datasets import FewShotData
from common.episodes import Episode, EpisodeSampler
from common.errors import UserError
from common.results import Estimate
from common.settings import RunSettings

import keras
import numpy as np
import pytest
import tensorflow as tf


def points(support, labels, query, query_labels=None):
    """An episode of one task whose items are points."""
    x, asked = (np.float32(part)[None] for part in (support, query))
    answers = np.zeros(len(query)) if query_labels is None else np.array(query_labels)
    return Episode(x, np.int32([labels]), asked, np.int32([answers]))


def stripes(n_classes=6, n_items=8, noise=60, split="test"):
    """Images of 8 x 8: class c has a bright row c, under noise."""
    random = np.random.default_rng(0)
    drawings = random.uniform(0, noise, (n_classes, n_items, 8, 8))
    for number in range(n_classes):
        drawings[number, :, number % 8] += 255 - noise
    names = {"class_names": tuple(map(str, range(n_classes))), "class_groups": ("one",) * n_classes}
    return FewShotData.from_drawings(
        drawings.astype(np.uint8), name="stripes", split=split, **names
    )


def images(n_tasks=3, n_way=3, k_shot=2, n_query=4):
    return next(iter(EpisodeSampler(stripes(), n_way, k_shot, n_query).fixed(n_tasks, n_tasks)))


def small_network(outputs=3, **options):
    return networks.conv4((8, 8, 1), outputs, filters=4, blocks=2, norm="none", **options)


# Nearest neighbour: equation 1.


def test_nearest_neighbour_by_hand():
    # From (2, 1) it is 5 to (0, 0) and 5.41 to (3, 3.1), both squared.
    episode = points([(0, 0), (3, 3.1), (9, 9)], [2, 0, 1], [(2, 1), (3, 2), (7, 6.5), (0, -4)])
    assert nearest_neighbour(episode).tolist() == [[2, 0, 1, 2]]


def test_it_is_the_nearest_item_and_not_the_nearest_mean():
    # Class 0 has its mean at 5, where only an item of class 1 is near.
    episode = points([[0], [10], [6], [6.5]], [0, 0, 1, 1], [[5], [9]])
    assert nearest_neighbour(episode).tolist() == [[1, 0]]


# Logistic regression: equation 2.


def test_logistic_regression_splits_two_points_half_way():
    # By symmetry the border of (0, 0) and (2, 0) is x = 1, whatever the penalty.
    episode = points([(0, 0), (2, 0)], [0, 1], [(0.9, 5), (1.1, -5), (-3, 0), (3, 0)])
    for penalty in (0.01, 1.0, 100.0):
        assert logistic_regression(episode, penalty).tolist() == [[0, 1, 0, 1]]


def test_with_one_item_of_each_class_and_a_strong_penalty_the_largest_product_wins():
    # For C -> 0 the weights are C times the gradient at 0, sum_i (onehot(y_i) - 1/n) x_i: the
    # class whose item has the largest inner product wins, up to the bias, which is 0 here.
    random = np.random.default_rng(0)
    support, query = random.normal(size=(4, 6)), random.normal(size=(20, 6))
    support /= np.linalg.norm(support, axis=1, keepdims=True)
    found = logistic_regression(points(support, [0, 1, 2, 3], query), penalty=1e-4)
    scores = query @ support.T
    clear = np.diff(np.sort(scores, axis=1)[:, -2:], axis=1)[:, 0] > 0.05
    assert clear.sum() > 10
    assert (found[0] == scores.argmax(1))[clear].all()


def test_each_task_has_an_answer_of_its_own():
    episode = images(n_tasks=3)
    together = logistic_regression(episode)
    for task in range(3):
        alone = Episode(*(part[task : task + 1] for part in episode))
        np.testing.assert_array_equal(logistic_regression(alone)[0], together[task])
        np.testing.assert_array_equal(nearest_neighbour(alone), nearest_neighbour(episode)[[task]])


# A network from scratch: equation 3.


def linear(weights):
    """Logits W x with these weights `(features, classes)`."""
    network = keras.Sequential(
        [keras.Input((len(weights),)), keras.layers.Dense(2, use_bias=False)]
    )
    network.set_weights([np.float32(weights)])
    return network


def test_a_step_by_hand():
    # At W = 0 both classes have probability 1/2: for x = 2 of class 0 the gradient is
    # (-1/2 * 2, 1/2 * 2), and a step of 0.1 leads to (0.1, -0.1).
    episode = points([[2.0]], [0], [[1.0]])
    learner = FromScratch(linear([[0, 0]]), "sgd", rate=0.1, steps=1)
    (weights,) = learner.adapt(episode.support_x, episode.support_y)
    np.testing.assert_allclose(weights, [[[0.1, -0.1]]], rtol=1e-6)
    np.testing.assert_allclose(learner.query_predictions(episode), [[[0.1, -0.1]]], rtol=1e-6)
    # Adam's first step has the length of the rate, whatever the gradient.
    learner = FromScratch(linear([[0, 0]]), "adam", rate=0.1, steps=1)
    (weights,) = learner.adapt(episode.support_x, episode.support_y)
    np.testing.assert_allclose(weights, [[[0.1, -0.1]]], rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_it_is_what_keras_does_task_by_task(optimizer):
    episode, network, steps = images(n_tasks=2), small_network(), 4
    rate = {"sgd": 0.3, "adam": 0.01}[optimizer]
    learner = FromScratch(network, optimizer, rate, steps)
    found = learner.adapt(episode.support_x, episode.support_y)
    for task in range(2):
        alone = keras.models.clone_model(network)
        alone.set_weights(network.get_weights())
        by_keras = {
            "sgd": keras.optimizers.SGD(rate),
            "adam": keras.optimizers.Adam(rate, beta_1=0.0, epsilon=1e-7),
        }
        alone.compile(by_keras[optimizer], keras.losses.SparseCategoricalCrossentropy(True))
        for _ in range(steps):
            alone.train_on_batch(episode.support_x[task], episode.support_y[task])
        for ours, theirs in zip(found, alone.get_weights(), strict=True):
            np.testing.assert_allclose(ours[task], theirs, rtol=2e-3, atol=2e-5)


def test_the_same_step_by_step():
    episode, learner = images(), FromScratch(small_network(), "adam", 0.01, steps=3)
    by_step = adaptation.scores_by_step(learner, [episode], steps=3)
    np.testing.assert_allclose(by_step[:, -1], learner.episode_scores([episode]), atol=1e-6)
    (before,) = learner.adapt(episode.support_x, episode.support_y, steps=0)[:1]
    np.testing.assert_array_equal(before[0], learner.network.trainable_variables[0])


def test_it_fits_the_support_set_and_learns_the_stripes():
    episode = images(n_tasks=20)
    learner = FromScratch(small_network(), "adam", 0.01, steps=30)
    on_support = episode._replace(query_x=episode.support_x, query_y=episode.support_y)
    assert learner.episode_scores([on_support]).mean() == 1
    assert learner.episode_scores([episode]).mean() > 0.8  # guessing: 0.33


def test_a_new_rate_needs_no_new_graph():
    episode, learner = images(), FromScratch(small_network(), "sgd", rate=0.1, steps=2)
    answers = support_experiment.answers_of(learner)
    first = learner.adapt(episode.support_x, episode.support_y)
    before = answers(episode)
    np.testing.assert_array_equal(episodes.at_rate(learner, answers, 0.1, episode), before)
    episodes.at_rate(learner, answers, 10.0, episode)
    assert float(learner.rate) == 10
    second = learner.adapt(episode.support_x, episode.support_y)
    assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) > 0.1


def test_it_is_saved_and_loaded_whole(tmp_path):
    learner, episode = FromScratch(small_network(), "sgd", 0.2, steps=3), images()
    config = keras.saving.serialize_keras_object(learner)
    again = keras.saving.deserialize_keras_object(config)
    again.network.set_weights(learner.network.get_weights())
    assert (again.optimizer_name, again.steps) == ("sgd", 3)
    np.testing.assert_allclose(
        again.query_predictions(episode), learner.query_predictions(episode), rtol=1e-5
    )


@pytest.mark.parametrize("options", [{"optimizer": "lion"}, {"rate": 0.0}, {"steps": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match=str(*options.values())):
        FromScratch(small_network(), **options)


# The comparison.


def test_the_best_candidate_is_chosen():
    episode_sampler = EpisodeSampler(stripes(), 3, 1, 2)
    right, wrong = (lambda e: e.query_y.numpy()), (lambda e: 1 - e.query_y.numpy())
    found = support_experiment.choose({"a": wrong, "b": right}, episode_sampler, 6)
    assert found[0] == "b"
    assert found[1]["b"] == 1 > found[1]["a"]

    def never(episode):
        raise AssertionError("there is nothing to choose")

    assert support_experiment.choose({"only": never}, episode_sampler, 6) == ("only", {})


@pytest.fixture
def stripes_by_name(monkeypatch):
    """Whatever data set is asked for, it is one of stripes."""
    monkeypatch.setattr(
        support_experiment, "load", lambda name, split, folder: stripes(noise=120, split=split)
    )


def short(**changes):
    small = {"n_way": 3, "shots": (1, 3), "n_query": 4, "filters": 4, "scratch_steps": 15}
    settings = RunSettings(steps=10, dataset="glyphs")
    return Config(**small | {"choice_episodes": 5, "eval_episodes": 30, "run": settings} | changes)


def test_everything_is_above_guessing_and_figures_are_drawn(stripes_by_name, tmp_path, capfd):
    config = short()
    result = episodes.run(config)
    assert capfd.readouterr() == ("", "")
    assert set(result.metrics) == {
        f"{name}_accuracy_3_way_{k}_shot"
        for name in ("nearest_neighbour", "logistic_regression", "network_from_scratch",
                     "prototypical_network")
        for k in (1, 3)
    }  # fmt: skip
    for name, estimate in result.metrics.items():
        assert estimate.n == 30
        assert estimate.mean - estimate.ci95 > 0.45, name  # guessing: 1/3
    assert set(result.extra["chosen"]) == {"logistic_regression", "network_from_scratch"}
    for name, chosen in result.extra["chosen"].items():
        for k, best in chosen.items():
            tried = result.extra["tried"][name][k]
            assert tried[best] == max(tried.values())
    support_experiment.draw(result, config, tmp_path)
    names = {"splits.png", "episode.png", "answers.png", "by_shots.png", "learning_curve.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    json.dumps(result.extra["answers"])

    again = episodes.run(replace(config, shots=(1,)))  # the same seed gives the same numbers
    assert again.extra["answers"] == result.extra["answers"]
    assert len(again.metrics) == 4
    for name, estimate in again.metrics.items():
        assert estimate == result.metrics[name]


def test_support_sets_are_what_they_learn_from(stripes_by_name):
    # With the labels of the support items shuffled, there is nothing to learn.
    sampler = support_experiment.samplers(short())["test"]
    random = np.random.default_rng(0)
    batches = list(sampler.fixed(60, 20))
    shuffled = [
        batch._replace(support_y=tf.constant(random.permuted(batch.support_y.numpy(), axis=1)))
        for batch in batches
    ]
    learners = [nearest_neighbour, partial(logistic_regression, penalty=1.0)]
    learners.append(
        support_experiment.answers_of(FromScratch(small_network(), "adam", 0.01, steps=10))
    )
    for answers in learners:
        assert support_experiment.scores(answers, batches).mean() > 0.45
        assert support_experiment.scores(answers, shuffled).mean() == pytest.approx(1 / 3, abs=0.1)


def test_settings_are_chosen_on_validation_episodes_alone(stripes_by_name, monkeypatch):
    chosen_on, used = [], []

    def choose(candidates, sampler, n_episodes):
        chosen_on.append((sampler.data.split, sampler.k_shot, n_episodes))
        return "second", {}

    def answers(name, episode):
        used.append(name)
        return episode.query_y.numpy()

    monkeypatch.setattr(support_experiment, "choose", choose)
    candidates = {name: partial(answers, name) for name in ("first", "second")}
    result = support_experiment.measure({"learner": candidates}, short())
    assert chosen_on == [("validation", 1, 5), ("validation", 3, 5)]
    assert set(used) == {"second"}
    assert all(estimate.mean == 1 for estimate in result.metrics.values())


def test_the_scripts_of_a_split_are_named():
    names = {"class_names": ("a", "b"), "class_groups": ("DIGIT", "ARMENIAN")}
    data = replace(stripes(n_classes=2), **names)
    assert episode_figures._classes(data) == "2 classes of Armenian, digits"


def test_scores_count_what_is_right():
    batch = points([[0], [1]], [0, 1], [[0], [0], [1], [1]], [0, 1, 1, 1])
    assert support_experiment.scores(nearest_neighbour, [batch]).tolist() == [0.75]


def test_queries_of_every_class_are_shown():
    labels = np.array([2, 2, 0, 1, 1, 0, 2, 1])
    shown = episode_figures._some_of_each(labels, 5)
    assert labels[shown].tolist() == [0, 0, 1, 1, 2]
    figure = episode_figures.draw_by_shots([1], {"a": [Estimate(0.5, 0.1, 9)]}, 5)
    assert figure.axes[0].get_ylim() == (0, 1)


# As a script.


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shots", "0", "1"], "--shots must be numbers of at least 1"),
        (["--n-way", "1"], "--n-way must be at least 2"),
        (["--norm", "group"], "--norm must be batch or layer or none"),
        (["--scratch-steps", "0"], "--scratch-steps must be at least 1"),
        (["--dataset", "sine"], "expected a data set with classes, found sine"),
        (["--shots", "7"], "expected at least 9 items in every class (k_shot=7 + n_query=2)"),
    ],
)
def test_bad_input_ends_in_one_line(flags, words, tmp_path, capsys, request):
    if "--shots" in flags:
        request.getfixturevalue("stripes_by_name")
    output = ["--output-dir", str(tmp_path / "outputs")]
    with pytest.raises(SystemExit) as stop:
        command.main(Config, episodes.run, support_experiment.draw, ["--smoke", *flags, *output])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_settings_of_a_data_set():
    assert Config.for_dataset("glyphs") == Config()
    omniglot = Config.for_dataset("omniglot-random")
    assert omniglot == replace(Config(), run=replace(Config().run, dataset="omniglot-random"))
    assert Config.for_dataset("fsdd").n_way == 4  # it has no more classes to test
    assert max(Config.for_dataset("faces").shots) + Config.for_dataset("faces").n_query == 10
