"""Energies and losses of the siamese network against values worked out by hand."""

from chapter02_siamese import siamese
from chapter02_siamese.siamese import (
    ENERGIES,
    ContrastiveLoss,
    EnergyCrossEntropy,
    LearnedL1,
    SiameseNetwork,
    TripletLoss,
)  # fmt: skip
from common.errors import UserError

import keras
import numpy as np
import pytest
import tensorflow as tf

H1, H2 = tf.constant([[1.0, 2.0]]), tf.constant([[0.0, 4.0]])


def small_siamese(energy="euclidean", seed=0):
    keras.utils.set_random_seed(seed)
    items = keras.Input((3,))
    network = keras.Model(items, keras.layers.Dense(4, activation="tanh")(items), name="twin")
    return SiameseNetwork(network, energy)


def some_pairs(n=6, seed=0):
    x = np.random.default_rng(seed).normal(size=(2, n, 3)).astype(np.float32)
    return x[0], x[1]


# Energies


@pytest.mark.parametrize(
    ("energy", "expected"),
    [
        ("euclidean", 5**0.5),
        ("squared_euclidean", 5.0),
        ("manhattan", 3.0),
        ("cosine", 1 - 8 / (5**0.5 * 4)),  # (1, 2) . (0, 4) = 8
    ],
)
def test_energies_of_two_points(energy, expected):
    np.testing.assert_allclose(ENERGIES[energy]()([H1, H2]), [expected], rtol=1e-6)


def koch():
    energy = LearnedL1()
    energy.build([(None, 2), (None, 2)])
    energy.a.assign([-1.0, -0.5])
    return energy


def test_probability_of_koch():
    energy = koch()
    np.testing.assert_allclose(tf.sigmoid(-energy([H1, H2])), [0.119203], atol=1e-6)  # s(-2)
    np.testing.assert_allclose(tf.sigmoid(-energy([H1, H1])), [0.5])  # without a bias at best this
    energy.b.assign(1.0)
    np.testing.assert_allclose(tf.sigmoid(-energy([H1, H1])), [0.731059], atol=1e-6)


@pytest.mark.parametrize("energy", ENERGIES)
def test_an_energy_is_symmetric_and_lowest_at_identical_items(energy):
    learner, (first, second) = small_siamese(energy), some_pairs()
    there, back = learner((first, second)), learner((second, first))
    assert there.shape == (6,)
    np.testing.assert_allclose(there, back, rtol=1e-5)
    assert np.all(learner((first, first)) < there)


@pytest.mark.parametrize("energy", ENERGIES)
def test_an_energy_compares_all_with_all_by_broadcasting(energy):
    layer = small_siamese(energy).energy
    a, b = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    table = layer([a[:, None], b[None]])
    assert table.shape == (5, 5)
    np.testing.assert_allclose(np.diag(table), layer([a, b]), rtol=1e-4, atol=1e-6)


def test_the_twins_share_their_weights():
    learner, (first, _) = small_siamese(), some_pairs()
    assert len(learner.trainable_variables) == 2
    np.testing.assert_allclose(learner((first, first)), np.zeros(6), atol=1e-5)
    np.testing.assert_allclose(learner(first), learner.network(first))


def test_an_unknown_energy_is_refused():
    with pytest.raises(UserError, match=r"--energy must be one of euclidean, .*; got 'hamming'"):
        small_siamese("hamming")


# Losses


def test_contrastive_loss_of_the_book():
    loss = ContrastiveLoss(margin=1.0, reduction=None)
    values = loss(tf.constant([1.0, 0.0]), tf.constant([0.6, 0.6]))
    np.testing.assert_allclose(values, [0.36, 0.16], rtol=1e-6)
    # Hadsell et al.: half of it
    np.testing.assert_allclose(values / 2, [0.18, 0.08], rtol=1e-6)


def test_cross_entropy_of_koch():
    loss = EnergyCrossEntropy(reduction=None)
    values = loss(tf.constant([1.0, 0.0]), tf.repeat(koch()([H1, H2]), 2))
    np.testing.assert_allclose(values, [-np.log(0.119203), -np.log(1 - 0.119203)], rtol=1e-5)


def triplets(positive, negative):
    """a, p and n with d(a, p) = positive and d(a, n) = d(p, n) = negative, all squared."""
    height = (negative - positive / 4) ** 0.5
    half = positive**0.5 / 2
    return tf.constant([[-half, 0.0], [half, 0.0], [0.0, height]])


@pytest.mark.parametrize(
    ("positive", "negative", "expected"), [(0.5, 0.6, 0.1), (0.5, 0.8, 0.0), (0.5, 0.3, 0.4)]
)
def test_triplet_loss(positive, negative, expected):
    value = TripletLoss(margin=0.2)(tf.constant([0, 0, 1]), triplets(positive, negative))
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_triplet_loss_chooses_the_nearest_negative_beyond_the_positive():
    def loss_of(anchor_distances):
        """On a line: a at 0, p at 1 (squared distance 1), negatives farther out to the left."""
        points = [0.0, 1.0, *(-(d**0.5) for d in anchor_distances)]
        labels = [0, 0, *range(1, len(anchor_distances) + 1)]
        return float(TripletLoss(margin=0.2)(tf.constant(labels), tf.constant(points)[:, None]))

    # From p all negatives are far away, and its part of the mean is 0.
    assert loss_of([1.1]) == pytest.approx(0.05, abs=1e-5)
    assert loss_of([1.1, 9.0]) == pytest.approx(0.05, abs=1e-5)  # the nearest one counts
    assert loss_of([1.1, 0.25]) == pytest.approx(0.05, abs=1e-5)  # the harder one does not
    assert loss_of([0.25, 0.64]) == pytest.approx((1 - 0.64 + 0.2) / 2, abs=1e-5)  # none is beyond


def test_triplet_loss_does_not_depend_on_the_order_of_the_batch():
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(12, 3)).astype(np.float32), np.repeat(np.arange(4), 3)
    order = random.permutation(12)
    loss = TripletLoss(margin=0.5)
    assert float(loss(labels, x)) > 0.1
    np.testing.assert_allclose(loss(labels, x), loss(labels[order], x[order]), rtol=1e-5)
    np.testing.assert_allclose(loss(labels, x), loss(3 - labels, x), rtol=1e-5)


# Gradients


def gradients(learner, loss, first, second, same):
    with tf.GradientTape() as tape:
        value = loss(same, learner((first, second)))
    return [np.array(g) for g in tape.gradient(value, learner.network.trainable_variables)]


def test_no_gradient_of_different_pairs_beyond_the_margin():
    learner, pair = small_siamese(), some_pairs()
    least = float(tf.reduce_min(learner(pair)))
    for margin, moves in ((0.5 * least, False), (4.0, True)):
        found = gradients(learner, ContrastiveLoss(margin), *pair, tf.zeros(6))
        assert all(np.any(g != 0) == moves for g in found)


@pytest.mark.parametrize("energy", ENERGIES)
def test_a_finite_gradient_at_identical_items(energy):
    learner, (first, _) = small_siamese(energy), some_pairs()
    loss = EnergyCrossEntropy() if energy == "learned" else ContrastiveLoss()
    for same in (tf.ones(6), tf.zeros(6)):
        for gradient in gradients(learner, loss, first, first, same):
            assert np.isfinite(gradient).all()
    same_places = tf.constant(np.repeat(first, 2, axis=0))
    with tf.GradientTape() as tape:
        value = TripletLoss()(np.arange(12) // 4, learner(same_places))
    for gradient in tape.gradient(value, learner.network.trainable_variables):
        assert np.isfinite(gradient).all()


def test_gradient_of_the_contrastive_loss_is_its_closed_form():
    # d/dh1 (Y E^2 + (1 - Y) (m - E)^2) = 2 Y (h1 - h2) - 2 (1 - Y) (m - E) (h1 - h2) / E
    h1, h2 = tf.constant([[0.3, 0.1]]), tf.constant([[0.0, 0.5]])  # E = 0.5
    for same, factor in ((1.0, 2.0), (0.0, -2 * (1 - 0.5) / 0.5)):
        with tf.GradientTape() as tape:
            tape.watch(h1)
            loss = ContrastiveLoss()(tf.constant([same]), siamese.Euclidean()([h1, h2]))
        np.testing.assert_allclose(tape.gradient(loss, h1), factor * (h1 - h2), rtol=1e-4)


# Learning and saving


@pytest.mark.parametrize("kind", ["contrastive", "cross_entropy", "triplet"])
def test_it_learns_which_inputs_count(kind):
    # Classes differ in the first of three inputs; the others are noise.
    random = np.random.default_rng(0)

    def items(labels):
        return np.c_[labels * 2.0 - 3, random.normal(size=(len(labels), 2)) * 2].astype(np.float32)

    def separation(learner):
        same, other = random.integers(4, size=(2, 200))
        anchor = items(same)
        near = learner.predict((anchor, items(same)), verbose=0)
        far = learner.predict((anchor, items((same + 1 + other % 3) % 4)), verbose=0)
        return np.mean(near < far)

    learner = small_siamese("learned" if kind == "cross_entropy" else "euclidean")
    before = separation(learner)
    if kind == "triplet":
        labels = random.integers(4, size=1600)
        x, y, loss = items(labels), labels, TripletLoss(0.5)
    else:
        y = np.tile([1.0, 0.0], 800).astype(np.float32)
        first = random.integers(4, size=1600)
        second = np.where(y == 1, first, (first + random.integers(1, 4, size=1600)) % 4)
        x = (items(first), items(second))
        loss = ContrastiveLoss() if kind == "contrastive" else EnergyCrossEntropy()
    learner.compile(keras.optimizers.Adam(0.02), loss)
    learner.fit(x, y, batch_size=40, epochs=10, verbose=0)
    assert before < 0.85
    assert separation(learner) > 0.97


@pytest.mark.parametrize("energy", ENERGIES)
def test_saved_and_loaded_models_agree(tmp_path, energy):
    learner, pair = small_siamese(energy), some_pairs()
    loss = EnergyCrossEntropy() if energy == "learned" else ContrastiveLoss(0.7)
    learner.compile("adam", loss)
    learner.fit(pair, np.float32([1, 0] * 3), verbose=0)
    learner.save(tmp_path / "siamese.keras")
    loaded = keras.saving.load_model(tmp_path / "siamese.keras")
    np.testing.assert_allclose(loaded(pair), learner(pair), rtol=1e-6)
    assert loaded.loss.get_config() == loss.get_config()

    other = small_siamese(energy, seed=1)
    assert not np.allclose(other(pair), learner(pair))
    learner.save_weights(tmp_path / "siamese.weights.h5")
    other.load_weights(tmp_path / "siamese.weights.h5")
    np.testing.assert_allclose(other(pair), learner(pair), rtol=1e-6)


@pytest.mark.parametrize("loss", [ContrastiveLoss(2.0), EnergyCrossEntropy(), TripletLoss(0.4)])
def test_losses_come_back_from_their_config(loss):
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
