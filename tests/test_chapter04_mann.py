"""Least-recently-used access against hand calculation and NumPy; no label leaks; it learns."""

import json
from dataclasses import replace

from chapter04_ntm_mann import mann
from chapter04_ntm_mann.mann import Config, MANNCell
from common import command, experiment, instance_experiment, memory_episodes, training
from common.datasets import FewShotData
from common.errors import UserError
from common.late_labels import LateLabelLearner
from common.settings import RunSettings

import keras
import numpy as np
import pytest
import tensorflow as tf

TINY = {"units": 12, "slots": 7, "width": 5, "reads": 2}


def digits(n_classes=8, n_items=6, size=8, seed=0):
    """Images of a random pattern for each class, with a little noise."""
    random = np.random.default_rng(seed)
    patterns = random.integers(0, 200, (n_classes, 1, size, size))
    drawings = patterns + random.integers(0, 56, (n_classes, n_items, size, size))
    names = tuple(f"class {i}" for i in range(n_classes))
    return FewShotData.from_drawings(
        drawings.astype(np.uint8), class_names=names, class_groups=names, name="noise", split="test"
    )


def tiny_learner(name="MANN", strings=False, **options):
    config = Config(n_way=3, instances=4, image_size=6, strings=strings, **{**TINY, **options})
    sampler = memory_episodes.sampler(digits(), 3, 4, strings=strings, size=6)
    return mann.new_learner(config, sampler, name), sampler


def one_batch(sampler, n_tasks=3):
    return next(iter(sampler.dataset(n_tasks)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reads": 5, "slots": 3}, "reads must be at most slots, 3; got 5"),
        ({"slots": 0}, "slots must be at least 1"),
        ({"units": 0}, "units must be at least 1"),
    ],
)
def test_impossible_cells_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        MANNCell(**options)


# By hand.


def test_write_weights_and_usage_worked_by_hand():
    usage, w_r = tf.constant([[0.3, 0.9, 0.1]]), tf.constant([[[0.2, 0.7, 0.1]]])
    w_lu = mann.least_used(usage, 1)
    np.testing.assert_array_equal(w_lu, [[0, 0, 1]])
    # 0.25 (0.2, 0.7, 0.1) + 0.75 (0, 0, 1)
    w_w = mann.write_weights(tf.constant([[0.25]]), w_r, w_lu)
    np.testing.assert_allclose(w_w, [[[0.05, 0.175, 0.775]]], rtol=1e-6)
    # 0.95 (0.3, 0.9, 0.1) + (0.1, 0.8, 0.1) + w_w
    usage = mann.new_usage(usage, tf.constant([[[0.1, 0.8, 0.1]]]), w_w, 0.95)
    np.testing.assert_allclose(usage, [[0.435, 1.83, 0.97]], rtol=1e-6)


def test_the_least_used_row_is_zeroed_and_written():
    memory = tf.constant([[[1.0, 2.0], [3.0, 4.0]]])
    w_lu, w_w = tf.constant([[0.0, 1.0]]), tf.constant([[[0.5, 0.25]]])
    written = mann.write(memory, w_w, w_lu, tf.constant([[[2.0, -4.0]]]))
    np.testing.assert_allclose(written, [[[1 + 1, 2 - 2], [0.5, -1]]])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_exactly_n_rows_are_least_used(n):
    usage = tf.constant([[2.0, 1.0, 1.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]])
    expected = [[4, 1, 2, 3, 0], [0, 1, 2, 3, 4]]  # among equals, the first ones
    for row, order in zip(mann.least_used(usage, n).numpy(), expected):
        assert set(np.flatnonzero(row)) == set(order[:n])
        assert row.sum() == n


def test_heads_write_more_than_one_in_all():
    # A head's read weights sum to 1, and w_lu has n ones: gate + (1 - gate) n.
    w_r = tf.nn.softmax(tf.random.stateless_normal((2, 3, 8), (0, 0)))
    w_lu = mann.least_used(tf.random.stateless_uniform((2, 8), (0, 1)), 3)
    gates = tf.random.stateless_uniform((2, 3), (0, 2))
    sums = tf.reduce_sum(mann.write_weights(gates, w_r, w_lu), axis=-1)
    np.testing.assert_allclose(sums, gates + (1 - gates) * 3, rtol=1e-5)


def test_usage_of_all_rows_settles():
    # With one head, reading and writing add 1 each: the sum tends to 2 / (1 - gamma).
    cell = MANNCell(**{**TINY, "reads": 1}, decay=0.8)
    x = tf.random.stateless_normal((1, 60, 3), (0, 0))
    *_, usage, _, _, _ = keras.layers.RNN(cell, return_state=True)(x)
    assert float(tf.reduce_sum(usage)) == pytest.approx(2 / (1 - 0.8), rel=1e-4)


# The cell.


def in_numpy(cell, inputs):
    """Outputs of every step for one sequence `(steps, features)`, equation by equation."""

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    kernel, recurrent, bias, head_kernel, head_bias = cell.get_weights()
    n, width, slots = cell.reads, cell.width, cell.slots
    h, c, usage = np.zeros(cell.units), np.zeros(cell.units), np.zeros(slots)
    memory, w_r, r = np.zeros((slots, width)), np.zeros((n, slots)), np.zeros(n * width)
    outputs = []
    for x in inputs:
        z = np.concatenate([x, r]) @ kernel + h @ recurrent + bias
        i, f, g, o = np.split(z, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        heads = h @ head_kernel + head_bias
        keys, gates = np.tanh(heads[: n * width]).reshape(n, width), sigmoid(heads[n * width :])
        rows = np.argsort(usage, kind="stable")[:n]
        w_w = gates[:, None] * w_r
        w_w[:, rows] += 1 - gates[:, None]
        lengths = np.maximum(np.linalg.norm(memory, axis=1), 1e-3)
        cosines = keys @ memory.T / lengths / np.linalg.norm(keys, axis=1)[:, None]
        w_r = np.exp(cell.strength * cosines)
        w_r /= w_r.sum(axis=1, keepdims=True)
        r = (w_r @ memory).reshape(-1)
        memory[rows] = 0
        memory += w_w.T @ keys
        usage = cell.decay * usage + (w_r + w_w).sum(axis=0)
        outputs.append(np.concatenate([h, r]))
    return np.array(outputs)


@pytest.mark.parametrize("strength", [1.0, 10.0])
def test_cell_equals_numpy(strength):
    keras.utils.set_random_seed(1)
    cell = MANNCell(**TINY, strength=strength)
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    found = keras.layers.RNN(cell, return_sequences=True)(x)
    assert found.shape == (2, 9, 12 + 2 * 5)
    for sequence, outputs in zip(x, found):
        np.testing.assert_allclose(outputs, in_numpy(cell, sequence), rtol=1e-3, atol=1e-5)


def test_a_written_row_is_found_by_its_key():
    memory, key = tf.zeros((1, 6, 4)), tf.constant([[[0.5, -0.5, 0.1, 0.2]]])
    w_lu = mann.least_used(tf.zeros((1, 6)), 1)
    memory = mann.write(memory, mann.write_weights(tf.zeros((1, 1)), 0.0, w_lu), w_lu, key)
    weights = tf.nn.softmax(100 * mann.cosine_similarity(memory, key))
    np.testing.assert_allclose(weights, w_lu[:, None], atol=1e-6)
    np.testing.assert_allclose(mann.read(memory, weights), key, rtol=1e-5)


def test_gradients_are_finite_and_reach_every_weight():
    learner, sampler = tiny_learner()
    with tf.GradientTape() as tape:
        loss = learner.meta_loss(one_batch(sampler))
    gradients = tape.gradient(loss, [v.value for v in learner.trainable_variables])
    assert all(np.isfinite(g).all() and np.any(g) for g in gradients)


# The sequences.


def test_every_class_comes_equally_often_under_labels_dealt_anew():
    sampler = memory_episodes.sampler(digits(), 3, 4, size=6)
    x, y, _, query_y = one_batch(sampler, 40)
    assert x.shape == (40, 12, 6, 6, 1)
    assert float(tf.reduce_min(x)) >= 0
    assert float(tf.reduce_max(x)) <= 1
    np.testing.assert_array_equal(y, query_y)
    assert (np.sort(y, axis=1) == np.repeat(np.arange(3), 4)).all()
    assert len({tuple(row) for row in y.numpy()}) > 30
    number = memory_episodes.instance_numbers(y.numpy())
    assert (np.sort(number, axis=1) == np.sort(np.tile(np.arange(4) + 1, 3))).all()
    assert (number[:, 0] == 1).all()


def test_images_of_a_class_are_of_that_class():
    # Without turns and jitter and at their own size, images are those of the data set.
    data = digits()
    options = {"rotations": False, "size": 8, "jitter": False}
    x, y, *_ = memory_episodes.sampler(data, 3, 4, **options).episode(0)
    known = {item.tobytes(): label for item, label in zip(data.items, data.labels)}
    classes = [known[np.round(255 * image).astype(np.uint8).tobytes()] for image in x]
    assert len(set(zip(classes, y.tolist()))) == 3
    assert len({image.tobytes() for image in x}) == 12


def test_images_are_turned_by_up_to_a_sixteenth_of_a_half_turn():
    ink = np.zeros((3, 4, 105, 105), np.uint8)
    ink[:, :, 50:55, 10:95] = 255  # a lying bar
    names = ("a", "b", "c")
    data = FewShotData.from_drawings(
        ink, class_names=names, class_groups=names, name="bars", split="test"
    )
    options = {"size": 105, "rotations": False}
    x, *_ = one_batch(memory_episodes.sampler(data, 3, 4, **options), 10)
    ink, place = tf.reshape(x, (-1, 105, 105)).numpy(), np.arange(105)
    total = ink.sum(axis=(1, 2))
    middle = [(ink.sum(axis=axis) * place).sum(axis=1) / total for axis in (2, 1)]
    y, x = (place - m[:, None] for m in middle)
    xy = np.einsum("nij,ni,nj->n", ink, y, x) / np.einsum("nij,nj->n", ink, x**2)
    angles = np.arctan(xy)
    assert np.abs(angles).max() < np.pi / 16 + 0.01
    assert np.abs(angles).max() > np.pi / 32
    assert angles.min() < 0 < angles.max()


def test_jitter_is_small():
    ink = np.zeros((3, 4, 105, 105), np.uint8)
    ink[:, :, 45:60, 45:60] = 255
    names = ("a", "b", "c")
    data = FewShotData.from_drawings(
        ink, class_names=names, class_groups=names, name="dots", split="test"
    )
    x, *_ = one_batch(memory_episodes.sampler(data, 3, 4, size=105), 10)
    ink = tf.reshape(x, (-1, 105, 105)).numpy()
    place = np.arange(105) - 52
    for axis in (1, 2):
        moved = (ink.sum(axis=axis) * place).sum(axis=1) / ink.sum(axis=(1, 2))
        assert np.abs(moved).max() < 10.1
        assert np.abs(moved).max() > 5


def test_a_seed_decides_the_episodes():
    samplers = [memory_episodes.sampler(digits(), 3, 4, seed, size=6) for seed in (0, 0, 1)]
    first, again, other = (one_batch(sampler) for sampler in samplers)
    np.testing.assert_array_equal(first.query_x, again.query_x)
    np.testing.assert_array_equal(first.query_y, again.query_y)
    assert np.any(first.query_y != other.query_y)


def test_strings_are_all_different_and_new_in_every_episode():
    sampler = memory_episodes.sampler(digits(), 8, 4, strings=True, size=6)
    _, y, *_ = one_batch(sampler, 5)
    assert y.shape == (5, 32, 5)
    assert set(np.unique(y)) == set(range(5))
    strings = [{tuple(string) for string in task} for task in y.numpy()]
    assert [len(task) for task in strings] == 5 * [8]
    assert len(set.union(*strings)) > 35
    assert memory_episodes.instance_numbers(y.numpy()).max() == 4


# Labels come late, and nothing else comes with them.


def test_inputs_hold_the_label_of_the_step_before():
    learner, _ = tiny_learner()
    x, y = np.zeros((1, 4, 6, 6, 1), np.float32), np.int32([[2, 0, 1, 1]])
    seen = learner.inputs(x, y)[0, :, 36:]
    np.testing.assert_array_equal(seen, [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_inputs_hold_five_letters():
    learner, _ = tiny_learner(strings=True)
    x, y = np.zeros((1, 2, 6, 6, 1), np.float32), np.int32([[[0, 4, 2, 1, 0]] * 2])
    first, second = learner.inputs(x, y)[0, :, 36:].numpy().reshape(2, 5, 5)
    assert not first.any()
    np.testing.assert_array_equal(second.argmax(axis=1), y[0, 0])
    assert second.sum() == 5


@pytest.mark.parametrize("name", ["MANN", "LSTM", "NTM"])
def test_an_answer_depends_on_nothing_that_comes_after_it(name):
    learner, sampler = tiny_learner(name)
    episode, step = one_batch(sampler), 5
    before = learner.query_predictions(episode)
    x, y = episode.query_x.numpy(), episode.query_y.numpy()
    y[:, step] = (y[:, step] + 1) % 3  # told at the next step
    after = learner.query_predictions(episode._replace(query_y=y))
    np.testing.assert_array_equal(before[:, : step + 1], after[:, : step + 1])
    assert np.any(before[:, step + 1] != after[:, step + 1])
    x[:, step] = 1 - x[:, step]
    after = learner.query_predictions(episode._replace(query_x=x))
    np.testing.assert_array_equal(before[:, :step], after[:, :step])
    assert np.any(before[:, step] != after[:, step])


@pytest.mark.parametrize("name", ["MANN", "NTM"])
def test_the_memory_is_wiped_between_episodes(name):
    learner, sampler = tiny_learner(name)
    episode = one_batch(sampler)
    together = learner.query_predictions(episode)
    alone = learner.query_predictions(episode._make(part[1:2] for part in episode))
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(together, learner.query_predictions(episode))


def test_a_task_is_predicted_after_its_support_set():
    learner, sampler = tiny_learner()
    x, y, *_ = sampler.episode(0)
    probabilities = learner.predict_task(x[:6], y[:6], x[6:8])
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    logits = learner.query_predictions(sampler.episode(0)._make(p[None] for p in (x, y, x, y)))
    np.testing.assert_allclose(probabilities[0], tf.nn.softmax(logits[0, 6]), rtol=1e-4)


# Scores.


def test_accuracy_by_instance_worked_by_hand():
    y = np.int32([[0, 1, 0, 1]])
    logits = tf.one_hot([[0, 0, 0, 1]], 2)  # wrong at the first instance of class 1
    learner = LateLabelLearner(keras.Sequential([keras.Input((None, 4))]), (1, 2))
    learner.query_predictions = lambda episode, training=False: logits
    episode = next(iter(memory_episodes.sampler(digits(), 2, 2).fixed(1, 1)))
    found = instance_experiment.instance_accuracies(learner, [episode._replace(query_y=y)])
    np.testing.assert_array_equal(found, [[0.5, 1.0]])
    np.testing.assert_array_equal(learner.task_scores(y, logits), [0.75])


def test_a_string_is_right_if_all_its_letters_are():
    learner, _ = tiny_learner(strings=True)
    said = np.int32([[[0, 1, 2, 3, 4], [0, 1, 2, 3, 3]]])
    logits = tf.reshape(tf.one_hot(said, 5), (1, 2, 25))
    truth = np.int32([[[0, 1, 2, 3, 4]] * 2])
    np.testing.assert_array_equal(learner.hits(truth, logits), [[True, False]])


@pytest.mark.parametrize(("n_way", "expected"), [(5, 0.4567), (15, 0.2212)])
def test_the_ceiling_of_first_instances(n_way, expected):
    assert instance_experiment.first_instance_ceiling(n_way) == pytest.approx(expected, abs=5e-5)


def test_an_untrained_network_guesses():
    learner, sampler = tiny_learner()
    assert learner.evaluate_episodes(sampler.fixed(50, 25)).mean == pytest.approx(1 / 3, abs=0.1)


# It can be kept, goes on, and refuses what makes no sense.


@pytest.mark.parametrize("name", ["MANN", "NTM"])
def test_saved_learner_is_the_same(name, tmp_path):
    learner, sampler = tiny_learner(name)
    learner.compile(keras.optimizers.Adam(0.01))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert isinstance(loaded, LateLabelLearner)
    episode = one_batch(sampler)
    predictions = [one.query_predictions(episode) for one in (learner, loaded)]
    np.testing.assert_allclose(*predictions, rtol=1e-5)


def test_interrupted_training_goes_on(tmp_path):
    weights = []
    for steps, folder in ((2, "a"), (4, "a"), (4, "b")):
        learner, sampler = tiny_learner()
        config = replace(Config.smoke(), outer_decay=False)
        learner.compile(learner.outer_optimizer(config))
        options = {"steps": steps, "meta_batch_size": 2, "directory": tmp_path / folder}
        training.train(learner, sampler, **options)
        weights.append(learner.network.get_weights())
    for resumed, unbroken in zip(*weights[1:]):
        np.testing.assert_allclose(resumed, unbroken, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n-way", "1"], "--n-way must be at least 2, got 1"),
        (["--reads", "5", "--slots", "4"], "--reads must be at most --slots, 4; got 5"),
        (["--baselines", "GRU"], "--baselines must be among LSTM and NTM; got GRU"),
        (["--usage-decay", "1.5"], "--usage-decay must be between 0 and 1, got 1.5"),
        (["--instances", "21"], "at least 21 items in every class of glyphs (train), found 20"),
        (["--n-way", "4000"], "at least n_way=4000 classes, found 3944 in glyphs"),
        (["--dataset", "sine"], "expected square images, found a distribution of regression"),
        (["--dataset", "sounds"], "square images"),
    ],
)
def test_bad_settings_end_in_one_line(flags, message, capsys, tmp_path):
    words = ["--smoke", "--output-dir", str(tmp_path / "out"), *flags]
    with pytest.raises(SystemExit) as stop:
        command.main(Config, mann.run, instance_experiment.draw, words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*/*"))


def test_settings_for_data_sets():
    assert Config.for_dataset("glyphs") == Config()
    assert Config.for_dataset("omniglot-random").run.steps > Config().run.steps
    assert Config.smoke().run.smoke


# It learns.


def test_classes_are_remembered():
    # Two classes of an episode are told apart easily; what has to be learned is to bind a label.
    settings = RunSettings(steps=1000, dataset="glyphs")
    config = Config(n_way=2, instances=3, image_size=6, units=32, slots=8, width=8, reads=1,
                    outer_lr=0.01, run=settings)  # fmt: skip
    training.prepare(config.run)
    options = {"rotations": False, "size": 6, "jitter": False}
    data = digits(n_classes=60, seed=1), digits(n_classes=40, seed=2)
    sampler, test_sampler = (memory_episodes.sampler(d, 2, 3, **options) for d in data)
    learner = mann.new_learner(config, sampler)
    untrained = instance_experiment.instance_accuracies(learner, test_sampler.fixed(400, 400))
    history = experiment.train({"MANN": learner}, sampler, config)
    found = instance_experiment.instance_accuracies(learner, test_sampler.fixed(400, 400))
    first, second, third = found.mean(axis=0)
    interval = 1.96 * found[:, 0].std() / 400**0.5
    assert first < instance_experiment.first_instance_ceiling(2) + interval  # no label leaks
    assert min(second, third) > 0.6  # who never saw a label is right half the time
    assert untrained.mean() < 0.55
    assert history["loss"][-1] < 0.95 * history["loss"][0]


def test_script_trains_all_three_and_draws(tmp_path):
    flags = ["--smoke", "--steps", "2", "--output-dir", str(tmp_path)]
    command.main(Config, mann.run, instance_experiment.draw, flags)
    (folder,) = (tmp_path / "mann").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json", "result.json", "learner.weights.h5", "LSTM", "NTM", "instances.png",
        "episode.png", "memory.png", "learning_curve.png",
    }  # fmt: skip
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert metrics["MANN_accuracy_instance_10"]["n"] == 20
    assert {"LSTM_accuracy_instance_2", "MANN_less_NTM_accuracy_instance_2"} <= metrics.keys()


@pytest.mark.slow
def test_a_seed_decides_the_result():
    def short(seed):
        config = replace(Config.smoke(), baselines=())
        return mann.run(replace(config, run=replace(config.run, steps=3, seed=seed)))

    first, again, other = (short(seed) for seed in (0, 0, 1))
    assert again.metrics == first.metrics
    assert again.extra == first.extra
    assert other.metrics != first.metrics


def test_gradients_are_cut_to_the_norm_of_the_settings():
    learner, _ = tiny_learner(clip_norm=3.0)
    assert learner.clip_norm == 3.0
    learner.compile(learner.outer_optimizer(Config(clip_norm=3.0)))
    assert learner.optimizer.global_clipnorm == 3.0
