"""A `MetaLearner` is a Keras model like any other, and its numbers are what NumPy says."""

from chapter05_maml_adml.maml import MAML
from common.datasets import FewShotData
from common.episodes import Episode, EpisodeSampler
from common.learner import MetaLearner
from common.networks import mlp
from common.sine import SineTasks

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

N_WAY = 3


@keras.saving.register_keras_serializable("tests")
class NearestMean(MetaLearner):
    """The least that classifies: the class whose mean embedding is nearest."""

    def query_predictions(self, episode, training=False):
        members = tf.one_hot(episode.support_y, N_WAY, axis=1)  # (tasks, n_way, supports)
        members /= tf.reduce_sum(members, axis=-1, keepdims=True)
        means = members @ tf.cast(self.embed(episode.support_x, training), tf.float32)
        queries = tf.cast(self.embed(episode.query_x, training), tf.float32)
        differences = queries[:, :, None] - means[:, None]  # (tasks, queries, n_way, d)
        return tf.cast(-tf.reduce_sum(tf.square(differences), axis=-1), self.compute_dtype)

    def embed(self, items, training):
        merged = self.network(tf.reshape(items, [-1, *items.shape[2:]]), training=training)
        return tf.reshape(merged, [items.shape[0], items.shape[1], -1])


@keras.saving.register_keras_serializable("tests")
class Offset(MetaLearner):
    """The least that does regression: the network, moved by its mean error on the support set."""

    def query_predictions(self, episode, training=False):
        error = episode.support_y - self.values(episode.support_x)
        return self.values(episode.query_x) + tf.reduce_mean(error, axis=1, keepdims=True)

    def values(self, x):
        outputs = self.network(tf.reshape(x, [-1, 1]))
        return tf.reshape(tf.cast(outputs, tf.float32), tf.shape(x))


def clusters(n_classes=8, n_items=12, spread=1.2) -> FewShotData:
    """Points around a centre for each class, in four dimensions."""
    random = np.random.default_rng(0)
    centres = np.repeat(random.normal(size=(n_classes, 4)), n_items, axis=0)
    return FewShotData(
        items=(centres + spread * random.normal(size=centres.shape)).astype(np.float32),
        labels=np.repeat(np.arange(n_classes), n_items).astype(np.int32),
        class_names=tuple(map(str, range(n_classes))),
        class_groups=("all",) * n_classes,
        name="clusters",
        split="train",
    )


def images(size=8) -> FewShotData:
    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, (6, 1, size, size, 1))
    noise = random.integers(-60, 60, (6, 5, size, size, 1))
    drawings = np.clip(patterns + noise, 0, 255).astype(np.uint8)
    return FewShotData(
        items=drawings.reshape(-1, size, size, 1),
        labels=np.repeat(np.arange(6), 5).astype(np.int32),
        class_names=tuple(map(str, range(6))),
        class_groups=("all",) * 6,
        name="patterns",
        split="train",
    )


def cluster_sampler(**options):
    return EpisodeSampler(clusters(**options), N_WAY, 2, 3)


def sine_sampler():
    return EpisodeSampler(SineTasks(), 1, 5, 7)


def residual_network():
    """A network of a user's own: residual, with what its ends need to be four-dimensional."""
    x = inputs = keras.Input((8, 8, 1))
    x = first = layers.Conv2D(6, 3, strides=2, padding="same")(x)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("relu")(x + first)
    return keras.Model(inputs, layers.Dense(N_WAY)(layers.GlobalAveragePooling2D()(x)))


def nearest_mean(seed=0):
    return NearestMean(mlp(4, (8,), 5, seed=seed))


def maml_on_clusters(order=2):
    return MAML(mlp(4, (8,), N_WAY), 0.5, 2, order, test_steps=3)


def maml_on_waves():
    return MAML(mlp(1, (8,), 1), 0.01, loss="mse")


LEARNERS = {
    "nearest mean": (nearest_mean, cluster_sampler),
    "offset": (lambda: Offset(mlp(1, (8,), 1), "mse"), sine_sampler),
    "MAML, classes": (maml_on_clusters, cluster_sampler),
    "MAML, waves": (maml_on_waves, sine_sampler),
}


@pytest.fixture(params=LEARNERS)
def made(request):
    """A compiled learner and its sampler."""
    new_learner, new_sampler = LEARNERS[request.param]
    learner = new_learner()
    learner.compile(optimizer=keras.optimizers.Adam(0.01))
    return learner, new_sampler()


@pytest.fixture
def dtype_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def fit(learner, sampler, steps=4, **options):
    options = {"epochs": 1, "steps_per_epoch": steps, "verbose": 0, **options}
    return learner.fit(sampler.dataset(4), **options).history


def assert_same_variables(one, other, **options):
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), err_msg=a.path, **options)


def test_fit_lowers_the_loss(made):
    learner, sampler = made
    episodes = sampler.fixed(30, 8)
    before = learner.evaluate(episodes, verbose=0, return_dict=True)["loss"]
    history = fit(learner, sampler, steps=15, epochs=6, validation_data=episodes)
    assert set(history) == {"loss", "val_loss", f"val_{learner.score_name}"}
    assert len(history["loss"]) == len(history["val_loss"]) == 6
    assert history["val_loss"][-1] < before


def test_evaluation_is_what_numpy_says(made):
    learner, sampler = made
    scores, losses = [], []
    for index in range(10):
        episode = Episode(*(np.asarray(part) for part in sampler.episode(index)))
        outputs = learner.predict_task(*episode[:3])
        if learner.classifies:
            assert outputs.shape == (len(episode.query_x), N_WAY)
            np.testing.assert_allclose(outputs.sum(axis=1), 1.0, rtol=1e-5)
            scores.append(np.mean(outputs.argmax(axis=1) == episode.query_y))
            losses.append(-np.mean(np.log(outputs[np.arange(len(outputs)), episode.query_y])))
        else:
            assert outputs.shape == episode.query_y.shape
            scores.append(np.mean((outputs - episode.query_y) ** 2))
            losses.append(scores[-1])

    episodes = sampler.fixed(10, 4)  # batches of 4, 4 and 2
    estimate = learner.evaluate_episodes(episodes)
    assert estimate.n == 10
    assert estimate.mean == pytest.approx(np.mean(scores), rel=1e-4)
    assert estimate.ci95 == pytest.approx(1.96 * np.std(scores, ddof=1) / np.sqrt(10), rel=1e-4)
    np.testing.assert_allclose(learner.episode_scores(sampler.fixed(10, 10)), scores, rtol=1e-4)

    found = learner.evaluate(episodes, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found[learner.score_name] == pytest.approx(np.mean(scores), rel=1e-4)
    assert learner.evaluate(sampler.dataset(5), steps=2, verbose=0)  # an endless stream, too


def test_bytes_and_fractions_are_the_same_images():
    learner = MAML(residual_network(), 0.1)
    items = images().items
    support_x, query_x, support_y = items[:15:5], items[1:25:5], [0, 1, 2]
    from_bytes = learner.predict_task(support_x, support_y, query_x)
    from_fractions = learner.predict_task(support_x / 255.0, np.array(support_y), query_x / 255.0)
    assert from_bytes.shape == (5, N_WAY)
    np.testing.assert_allclose(from_bytes, from_fractions, atol=1e-6)


def test_untrained_learner_needs_no_compile():
    sampler = cluster_sampler()
    assert maml_on_clusters().evaluate_episodes(sampler.fixed(6, 4)).n == 6
    assert maml_on_clusters()(next(iter(sampler.dataset(2)))).shape == (2, 3 * N_WAY, N_WAY)


@pytest.mark.parametrize("name", ["nearest mean", "MAML, waves"])
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"steps_per_execution": 3}, 1e-6),
        ({"jit_compile": True}, 1e-4),
        ({"run_eagerly": True}, 1e-5),
    ],
    ids=["steps per execution", "jit", "eager"],
)
def test_ways_to_compile_end_in_the_same_weights(name, options, tolerance):
    new_learner, new_sampler = LEARNERS[name]
    sampler, learners = new_sampler(), (new_learner(), new_learner())
    for learner, chosen in zip(learners, ({"jit_compile": False}, options)):
        learner.compile(optimizer=keras.optimizers.SGD(0.01), **chosen)
        fit(learner, sampler, steps=6)
        assert learner.optimizer.iterations == 6
        assert np.isfinite(learner.evaluate(sampler.fixed(8, 4), verbose=0)).all()
    assert_same_variables(*learners, atol=tolerance)


def test_saved_learner_is_the_same_and_learns_on(made, tmp_path):
    learner, sampler = made
    fit(learner, sampler)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert type(loaded) is type(learner)
    assert_same_variables(loaded.optimizer, learner.optimizer)
    episode = sampler.episode(0)
    for one in (learner, loaded):
        assert one.optimizer.iterations == 4
    np.testing.assert_array_equal(
        loaded.predict_task(*episode[:3]), learner.predict_task(*episode[:3])
    )
    for one in (learner, loaded):
        one.fit(sampler.dataset(4, start_step=4), steps_per_epoch=3, verbose=0)
    assert_same_variables(loaded.network, learner.network, atol=1e-6)


def test_saved_weights_are_loaded_into_a_new_learner(made, tmp_path):
    learner, sampler = made
    fit(learner, sampler)
    learner.save_weights(tmp_path / "learner.weights.h5")
    other = type(learner).from_config(learner.get_config())
    other.load_weights(tmp_path / "learner.weights.h5")
    assert_same_variables(other.network, learner.network)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", LEARNERS)
def test_mixed_precision(name, policy, dtype_policy):
    dtype_policy(policy)
    new_learner, new_sampler = LEARNERS[name]
    learner, sampler = new_learner(), new_sampler()
    learner.compile(optimizer=keras.optimizers.Adam(0.01))
    before = [v.numpy() for v in learner.network.trainable_variables]
    history = fit(learner, sampler, steps=5, validation_data=sampler.fixed(6, 4))
    assert np.isfinite(list(history.values())).all()
    assert {v.dtype for v in learner.network.variables} == {"float32"}
    for old, variable in zip(before, learner.network.trainable_variables):
        assert np.any(old != variable.numpy()), f"{variable.path} did not move"
    outputs = learner.predict_task(*sampler.episode(0)[:3])
    assert outputs.dtype == np.float32
    if learner.classifies:
        np.testing.assert_allclose(outputs.sum(axis=1), 1.0, rtol=1e-5)


def test_callbacks(tmp_path):
    learner, sampler = nearest_mean(), cluster_sampler()
    learner.compile(optimizer=keras.optimizers.SGD(0.0))  # nothing can get better
    callbacks = [
        keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=2),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss"),
        keras.callbacks.TensorBoard(tmp_path / "logs", write_graph=False),
    ]
    fit(learner, sampler, epochs=9, validation_data=sampler.fixed(6, 4), callbacks=callbacks)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,val_accuracy,val_loss"
    assert len(lines) == 1 + 3  # the first, and two in vain
    assert isinstance(keras.models.load_model(tmp_path / "best.keras"), NearestMean)
    assert list((tmp_path / "logs").rglob("events*"))


@keras.saving.register_keras_serializable("tests")
def fourth_power(labels, predictions):
    return tf.reduce_mean((labels - predictions) ** 4, axis=-1)


def huber(error):
    return np.where(np.abs(error) <= 1, error**2 / 2, np.abs(error) - 1 / 2)


LOSSES = {
    "name": ("mae", np.abs),
    "instance": (keras.losses.Huber(), huber),
    "function of Keras": (keras.losses.mean_squared_error, np.square),
    "own function": (fourth_power, lambda error: error**4),
}


@pytest.mark.parametrize("name", LOSSES)
def test_any_keras_loss(name, tmp_path):
    loss, by_hand = LOSSES[name]
    learner = MAML(mlp(1, (8,), 2), 0.01, loss=loss)
    random = np.random.default_rng(0)
    labels, predictions = random.normal(size=(2, 4, 3, 2)).astype(np.float32) * 3
    expected = by_hand(labels - predictions).mean(axis=(1, 2))
    np.testing.assert_allclose(learner.task_losses(labels, predictions), expected, rtol=1e-5)
    np.testing.assert_allclose(learner.task_scores(labels, predictions), expected, rtol=1e-5)
    assert not learner.classifies
    learner.compile()
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_allclose(loaded.task_losses(labels, predictions), expected, rtol=1e-5)


def test_cross_entropy_by_hand():
    learner = nearest_mean()
    logits = np.array(
        [[[0.0, 0.0, 0.0], [np.log(2), 0.0, 0.0]], [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]]
    )
    labels = np.array([[1, 0], [0, 0]], np.int32)
    losses = learner.task_losses(labels, logits)
    sure = np.log(np.exp(9) + 2)
    np.testing.assert_allclose(losses, [(np.log(3) + np.log(2)) / 2, sure - 4.5], rtol=1e-5)
    np.testing.assert_array_equal(learner.task_scores(labels, logits), [1 / 2, 1 / 2])


def test_meta_loss_may_be_overridden():
    class Doubled(NearestMean):
        def meta_loss(self, episode, training=True):
            return 2.0 * super().meta_loss(episode, training)

    sampler, network = cluster_sampler(), mlp(4, (8,), 5)
    losses = []
    for kind in (NearestMean, Doubled):
        learner = kind(network)
        learner.compile(optimizer=keras.optimizers.SGD(0.0))
        losses.append(fit(learner, sampler)["loss"][0])
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)


def test_base_class_says_what_is_missing():
    with pytest.raises(TypeError, match="MetaLearner must define query_predictions"):
        MetaLearner(mlp())(sine_sampler().episode(0))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_maml_trains_a_network_of_ones_own(policy, dtype_policy, tmp_path):
    dtype_policy(policy)
    sampler = EpisodeSampler(images(), N_WAY, 1, 2)
    learner = MAML(residual_network(), 0.3, test_steps=2)
    learner.compile(optimizer=keras.optimizers.Adam(0.01))
    history = fit(learner, sampler, steps=10, epochs=4, validation_data=sampler.fixed(20, 8))
    assert history["val_accuracy"][-1] > 0.5  # chance is a third
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    episode = sampler.episode(0)
    np.testing.assert_allclose(
        loaded.predict_task(*episode[:3]), learner.predict_task(*episode[:3]), atol=1e-6
    )


def test_maml_on_words():
    """Whole numbers stay whole: an embedding looks them up."""
    x = words = keras.Input((4,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(9, 3)(x))
    network = keras.Model(words, layers.Dense(N_WAY)(x))
    learner = MAML(network, 0.5)
    learner.compile(optimizer="adam")
    random = np.random.default_rng(0)
    labels = np.tile(np.arange(N_WAY), 10)
    items = (3 * labels[:, None] + random.integers(0, 3, (30, 4))).astype(np.int32)
    data = FewShotData(
        items[np.argsort(labels)], np.sort(labels).astype(np.int32), tuple("abc"), ("all",) * 3,
        "words", "train",
    )  # fmt: skip
    sampler = EpisodeSampler(data, N_WAY, 2, 2)
    history = fit(learner, sampler, steps=10, epochs=3)
    assert history["loss"][-1] < history["loss"][0]
    support_y = np.arange(N_WAY)
    assert learner.predict_task(items[:3], support_y, items[3:]).shape == (27, N_WAY)
