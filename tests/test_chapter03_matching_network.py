"""Matching networks against hand calculation and a NumPy LSTM; and that they learn."""

import json
import sys
from dataclasses import replace

from chapter03_protonets import matching_network
from chapter03_protonets.matching_network import Config, MatchingNetwork
from common import networks
from common.episodes import Episode
from common.errors import UserError
from common.settings import RunSettings

import keras
import numpy as np
import pytest
import tensorflow as tf


def identity(features=2):
    """The embedding f(x) = x."""
    return keras.Sequential([keras.Input((features,)), keras.layers.Identity()])


def small_conv(filters=4):
    return networks.conv4((16, 16, 1), None, filters=filters, strided=False, norm="fused")


def points(support, support_y, query):
    """An episode of one task, of points in the plane; every query is of class 0."""
    support, query = (np.array([part], np.float32) for part in (support, query))
    labels = np.zeros(query.shape[:2], np.int32)
    return Episode(support, np.array([support_y], np.int32), query, labels)


def random_points(n_tasks=2, n_way=4, k_shot=2, features=3, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(2, n_tasks, n_way * k_shot, features)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, k_shot)), axis=-1)
    return Episode(x[0], y[0].astype(np.int32), x[1], y[1].astype(np.int32))


def probabilities(learner, episode):
    return np.exp(learner.query_predictions(episode))


def with_support(episode, order):
    """The same episode, its support items in another order."""
    return episode._replace(
        support_x=episode.support_x[:, order], support_y=episode.support_y[:, order]
    )


# Attention and classes, by hand.


@pytest.mark.parametrize("fce_steps", [0, 2])
def test_attention_sums_to_one(fce_steps):
    episode = random_points()
    learner = MatchingNetwork(identity(3), fce_steps=fce_steps)
    query, support, readings = learner.embeddings(episode.support_x, episode.query_x)
    attention = np.exp(learner.log_attention(query, support))
    assert attention.shape == (2, 8, 8)  # (tasks, queries, supports)
    assert len(readings) == fce_steps
    for weights in (attention, *readings):
        np.testing.assert_allclose(np.sum(weights, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(probabilities(learner, episode).sum(axis=-1), 1, rtol=1e-5)


def test_a_class_has_the_attention_of_all_its_support_items():
    # Cosines 1, 0, -1, 0.6 with the query (2, 0). Weights before they are divided by their sum:
    # e = 2.718282, 1, 1/e = 0.367879, e^0.6 = 1.822119; sum 5.908280. Class 0 has the first and
    # the third: 3.086161 / 5.908280.
    episode = points([[3, 0], [0, 5], [-1, 0], [0.3, 0.4]], [0, 1, 0, 1], [[2, 0]])
    learner = MatchingNetwork(identity(), scale=1.0)
    query, support, _ = learner.embeddings(episode.support_x, episode.query_x)
    np.testing.assert_allclose(
        np.exp(learner.log_attention(query, support))[0, 0],
        [0.460080, 0.169254, 0.062265, 0.308401],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        probabilities(learner, episode)[0, 0], [0.522345, 0.477655], atol=1e-6
    )
    assert float(learner.meta_loss(episode)) == pytest.approx(0.649427, abs=1e-6)  # -ln 0.522345
    # The softmax that `predict_task` takes of the logits leaves the probabilities as they are.
    np.testing.assert_allclose(
        learner.predict_task(*(part[0] for part in episode[:3])),
        probabilities(learner, episode)[0],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("n_way", "best", "loss", "best_of_positive", "loss_of_positive"),
    [(5, 0.648786, 0.432653, 0.404610, 0.904832), (20, 0.280005, 1.272949, 0.125161, 2.078154)],
)
def test_a_true_cosine_bounds_the_probability(
    n_way, best, loss, best_of_positive, loss_of_positive
):
    # At best the cosine is 1 for the right class and -1 for all others: e / (e + (n_way - 1) / e);
    # where no feature is negative, 0 for all others: e / (e + n_way - 1).
    learner = MatchingNetwork(identity(), scale=1.0)
    for others, probability, cost in (
        ([-1, 0], best, loss),
        ([0, 1], best_of_positive, loss_of_positive),
    ):
        episode = points([[1, 0]] + [others] * (n_way - 1), range(n_way), [[1, 0]])
        assert probabilities(learner, episode)[0, 0, 0] == pytest.approx(probability, abs=1e-6)
        assert float(learner.meta_loss(episode)) == pytest.approx(cost, abs=1e-5)
    for seed in range(20):
        episode = random_points(n_tasks=5, n_way=n_way, k_shot=1, seed=seed)
        assert probabilities(learner, episode).max() <= best
    # Scaled, the bound is as good as gone: no second softmax (whose floor is 0.904832 for 5).
    episode = points([[1, 0]] + [[-1, 0]] * (n_way - 1), range(n_way), [[1, 0]])
    assert float(MatchingNetwork(identity()).meta_loss(episode)) < 1e-6


def test_large_scales_stay_finite():
    episode = random_points()
    learner = MatchingNetwork(identity(3), scale=1000.0)
    with tf.GradientTape() as tape:
        support = tf.constant(episode.support_x)
        tape.watch(support)
        loss = learner.meta_loss(episode._replace(support_x=support))
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, support)).all()


# Invariants.


def test_length_of_an_embedding_does_not_matter():
    episode = random_points()
    learner = MatchingNetwork(identity(3))
    lengths = np.random.default_rng(1).uniform(0.1, 10, (2, 2, 8, 1)).astype(np.float32)
    longer = episode._replace(
        support_x=episode.support_x * lengths[0], query_x=episode.query_x * lengths[1]
    )
    np.testing.assert_allclose(
        probabilities(learner, longer), probabilities(learner, episode), rtol=1e-4
    )


def test_only_full_context_embeddings_depend_on_the_order_of_the_support():
    episode = random_points()
    other = with_support(episode, np.array([5, 2, 7, 0, 1, 6, 3, 4]))
    plain, full = (MatchingNetwork(identity(3), fce_steps=steps) for steps in (0, 2))
    np.testing.assert_allclose(
        probabilities(plain, other), probabilities(plain, episode), rtol=1e-4
    )
    assert np.abs(probabilities(full, other) - probabilities(full, episode)).max() > 0.01


@pytest.mark.parametrize("fce_steps", [0, 2])
def test_permuting_the_classes_permutes_the_probabilities(fce_steps):
    episode = random_points(n_way=4)
    learner = MatchingNetwork(identity(3), fce_steps=fce_steps)
    order = np.array([2, 0, 3, 1], np.int32)  # label c becomes order[c]
    renamed = episode._replace(support_y=order[episode.support_y])
    before, after = probabilities(learner, episode), probabilities(learner, renamed)
    assert before.std(axis=-1).min() > 1e-3  # it tells classes apart
    np.testing.assert_allclose(after[..., order], before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fce_steps", [0, 2])
def test_tasks_and_queries_do_not_see_one_another(fce_steps):
    episode = random_points(n_tasks=3)
    learner = MatchingNetwork(identity(3), fce_steps=fce_steps)
    together = learner.query_predictions(episode)
    for task in range(3):
        alone = Episode(*(part[task : task + 1] for part in episode))
        alone = alone._replace(query_x=alone.query_x[:, 4:5])
        np.testing.assert_allclose(
            learner.query_predictions(alone)[0, 0], together[task, 4], rtol=1e-4, atol=1e-5
        )


# Full-context embeddings, equations 3 to 6, with an LSTM of our own in NumPy.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(weights, x, h, c):
    """Input gate, forget gate, candidate, output gate: the order of Keras's weights."""
    kernel, recurrent, bias = weights
    into, forget, candidate, out = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
    c = sigmoid(forget) * c + sigmoid(into) * np.tanh(candidate)
    return sigmoid(out) * np.tanh(c), c


def lstm(weights, items):
    h = c = np.zeros(items.shape[-1])
    outputs = []
    for x in items:
        h, c = lstm_step(weights, x, h, c)
        outputs.append(h)
    return np.array(outputs)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_full_context_embeddings_equal_those_of_a_numpy_lstm(steps):
    learner = MatchingNetwork(identity(3), fce_steps=steps)
    random = np.random.default_rng(0)
    for weight in (*learner.support_lstm.weights, *learner.query_cell.weights):
        if "seed" not in weight.path:
            weight.assign(random.normal(size=weight.shape))
    episode = random_points(n_tasks=1)
    query, support, _ = learner.embeddings(episode.support_x, episode.query_x)

    items, asked = episode.support_x[0], episode.query_x[0]
    forward = [w.numpy() for w in learner.support_lstm.forward_layer.trainable_weights]
    backward = [w.numpy() for w in learner.support_lstm.backward_layer.trainable_weights]
    g = lstm(forward, items) + lstm(backward, items[::-1])[::-1] + items
    np.testing.assert_allclose(support[0], g, rtol=1e-4, atol=1e-5)

    cell = [w.numpy() for w in learner.query_cell.trainable_weights]
    for x, f in zip(asked, query[0]):
        h = c = np.zeros(3)
        for _ in range(steps):
            a = np.exp(g @ h) / np.exp(g @ h).sum()  # equation 6
            r = a @ g  # equation 5
            output, c = lstm_step(cell, np.concatenate([x, r]), h, c)  # equation 3
            h = output + x  # equation 4
        np.testing.assert_allclose(f, h, rtol=1e-4, atol=1e-5)


def test_one_reading_worked_by_hand():
    # One feature, weights of the query's LSTM all 0 but the candidate's of r, which is 1. The
    # first reading is the mean of the support, g = 1 and 3: r = 2. All gates are s(0) = 1/2:
    # c = tanh(2) / 2 = 0.482014; h^ = tanh(c) / 2 = 0.223927; f = 0.223927 + f', f' = 1.
    learner = MatchingNetwork(identity(1), fce_steps=1)
    kernel, recurrent, bias = learner.query_cell.trainable_weights
    kernel.assign([[0, 0, 0, 0], [0, 0, 1, 0]])  # rows f', r; columns in, forget, candidate, out
    recurrent.assign(tf.zeros((1, 4)))
    bias.assign(tf.zeros(4))
    f, (attention,) = learner.read(tf.constant([[[1.0]]]), tf.constant([[[1.0], [3.0]]]))
    np.testing.assert_allclose(attention, [[[0.5, 0.5]]])
    assert float(f[0, 0, 0]) == pytest.approx(1.223927, abs=1e-6)


def test_lstms_that_say_nothing_leave_the_plain_network():
    episode = random_points()
    plain, full = (MatchingNetwork(identity(3), fce_steps=steps) for steps in (0, 3))
    for weight in full.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_allclose(
        probabilities(full, episode), probabilities(plain, episode), rtol=1e-5
    )


# The learner as a Keras model.


def images(n_tasks=2, n_way=3, seed=0):
    random = np.random.default_rng(seed)
    x = random.uniform(size=(2, n_tasks, 2 * n_way, 16, 16, 1)).astype(np.float32)
    y = random.permuted(np.tile(np.arange(n_way), (2, n_tasks, 2)), axis=-1).astype(np.int32)
    return Episode(x[0], y[0], x[1], y[1])


@pytest.mark.parametrize("fce_steps", [0, 2])
def test_every_weight_learns(fce_steps):
    learner = MatchingNetwork(small_conv(), fce_steps=fce_steps)
    learner.compile(keras.optimizers.Adam(0.01))
    before = [v.numpy() for v in learner.trainable_variables]
    learner.fit(tf.data.Dataset.from_tensors(images()), verbose=0)
    assert len(before) == 12 + (9 if fce_steps else 0)
    for variable, old in zip(learner.trainable_variables, before):
        assert np.abs(variable.numpy() - old).max() > 0, variable.path


@pytest.mark.parametrize("fce_steps", [0, 2])
def test_saved_and_loaded_it_answers_the_same(tmp_path, fce_steps):
    episode = images(n_tasks=1)
    task = [part[0] for part in episode[:3]]
    learner = MatchingNetwork(small_conv(), scale=7.0, fce_steps=fce_steps)
    expected = learner.predict_task(*task)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert (again.scale, again.fce_steps) == (7.0, fce_steps)
    np.testing.assert_allclose(again.predict_task(*task), expected, rtol=1e-5)

    learner.save_weights(tmp_path / "learner.weights.h5")
    other = MatchingNetwork(small_conv(), scale=7.0, fce_steps=fce_steps)
    for weight in other.trainable_weights:
        weight.assign(weight + 0.1)
    other.load_weights(tmp_path / "learner.weights.h5")
    np.testing.assert_allclose(other.predict_task(*task), expected, rtol=1e-5)


def test_a_task_may_have_another_number_of_classes_than_training():
    learner = MatchingNetwork(identity(3), train_way=4)
    for n_way in (2, 7):
        predictions = learner.query_predictions(random_points(n_way=n_way))
        assert predictions.shape[-1] == n_way


# It learns.


def tiny(**changes):
    config = Config(n_way=20, n_query=3, filters=16, test_ways=(5,), test_query=5, **changes)
    return replace(config, eval_episodes=100, run=RunSettings(steps=60, dataset="glyphs"))


@pytest.mark.slow
@pytest.mark.parametrize("fce", [False, True])
def test_unseen_scripts_are_learned_from_one_glyph(fce):
    result = matching_network.run(tiny(fce=fce, fce_steps=2))
    trained, untrained = (
        result.metrics[f"{name}_accuracy_5_way_1_shot"].mean for name in ("matching", "untrained")
    )
    assert trained > untrained + 0.15  # measured: 0.66 against 0.41
    assert result.history["loss"][-1] < 0.8 * np.log(20)


@pytest.mark.slow
def test_a_seed_decides_the_result():
    def short(seed):
        config = replace(Config.smoke(), fce=True, fce_steps=2, eval_episodes=4)
        return matching_network.run(replace(config, run=replace(config.run, steps=3, seed=seed)))

    first, again, other = short(0), short(0), short(1)
    assert again.metrics == first.metrics
    assert again.history == first.history
    assert other.history != first.history


# Settings and the script.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.0}, "--scale"),
        ({"scale": -1.0}, "--scale"),
        ({"scale": float("nan")}, "--scale"),
        ({"fce_steps": 0}, "--fce-steps"),
        ({"n_way": 1}, "--n-way"),
        ({"k_shot": 0}, "--k-shot"),
        ({"test_ways": ()}, "--test-ways"),
        ({"test_ways": (5, 1)}, "--test-ways"),
        ({"eval_episodes": 1}, "--eval-episodes"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(UserError, match=words) as refusal:
        Config(**options)
    assert str(*options.values()) in str(refusal.value)


@pytest.mark.parametrize("options", [{"scale": -1.0}, {"fce_steps": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match=str(*options.values())):
        MatchingNetwork(identity(), **options)


def call(monkeypatch, tmp_path, *flags):
    """The script with these flags, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["matching_network.py", *flags])
    matching_network.main()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--scale", "0"], "--scale"),
        (["--norm", "group"], "norm must be"),
        (["--n-way", "9999"], "9999"),
        (["--dataset", "no-such-data"], "no-such-data"),
    ],
)
def test_bad_flags_end_in_one_line(monkeypatch, tmp_path, capsys, flags, words):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, tmp_path, *flags)
    assert stop.value.code == 2
    complaint = capsys.readouterr().err.strip()
    assert words in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--fce", "--fce-steps", "3", "--k-shot", "2"]])
def test_smoke_run_leaves_all_files(monkeypatch, tmp_path, flags):
    call(monkeypatch, tmp_path, "--smoke", *flags)
    (folder,) = (tmp_path / "outputs" / "matching_network").iterdir()
    assert {path.name for path in folder.iterdir()} >= {
        "config.json", "result.json", "learner.weights.h5",
        "attention.png", "episode.png", "learning_curve.png",
    }  # fmt: skip
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    task = f"5_way_{2 if flags else 1}_shot"
    assert set(metrics) == {
        f"{name}_accuracy_{task}" for name in ("matching", "untrained", "pixels")
    }
