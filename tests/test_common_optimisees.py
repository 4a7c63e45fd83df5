"""Functions to minimise: their values by hand and against Keras, and how they are drawn."""

import common.optimisees as module
from common.errors import UserError
from common.optimisees import Classifiers, Images, OptimiseeSampler, Quadratics, load_images

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits


def test_quadratic_by_hand():
    # W theta - y = (1 + 2 - 1, 2 - 4) = (2, -2)
    matrix, target = tf.constant([[[1.0, 2], [0, 2]]]), tf.constant([[1.0, 4]])
    losses = Quadratics(2).losses(tf.constant([[1.0, 1]]), (matrix, target), 0)
    np.testing.assert_allclose(losses, [8.0])


def test_quadratics_start_at_the_expected_value():
    # E f(0) = E |y|^2 = 10, with a standard deviation of sqrt(20)
    optimisees = Quadratics(10, start_scale=0.0)
    theta, data = optimisees.sample((0, 0), 4000, 1)
    assert float(tf.reduce_mean(optimisees.losses(theta, data, 0))) == pytest.approx(10, abs=0.3)


def some_images():
    random = np.random.default_rng(0)
    return {
        split: Images(random.uniform(size=(n, 6)).astype(np.float32), np.arange(n) % 3)
        for split, n in (("train", 12), ("validation", 6), ("test", 9))
    }


@pytest.mark.parametrize(("hidden", "activation"), [((4,), "sigmoid"), ((4, 5), "relu"), ((), "")])
def test_networks_have_the_losses_of_keras(hidden, activation):
    images = some_images()
    optimisees = Classifiers(images, hidden, activation or "sigmoid", batch_size=7)
    theta, chosen = optimisees.sample((0, 1), 3, 5, "test")
    assert chosen.shape == (3, 6, 7)
    assert 18 <= int(tf.reduce_min(chosen)) <= int(tf.reduce_max(chosen)) < 27  # those of the test
    layers = [keras.layers.Dense(n, activation) for n in hidden]
    network = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])
    assert theta.shape[1] == network.count_params()
    losses = optimisees.losses(theta + 0.1, chosen, 2)
    for task in range(3):
        parts = np.split(
            theta[task] + 0.1, np.cumsum([v.shape.num_elements() for v in network.weights])[:-1]
        )
        network.set_weights([p.reshape(v.shape) for p, v in zip(parts, network.weights)])
        index = chosen[task, 2].numpy() - 18
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        expected = loss(images["test"].y[index], network(images["test"].x[index]))
        np.testing.assert_allclose(losses[task], expected, rtol=1e-5)


def test_batches_depend_on_seed_and_step_alone_and_splits_share_none():
    def starts(batches):
        return [batch[0].numpy() for batch in batches]

    sampler = OptimiseeSampler(Quadratics(3), 5, seed=4)
    first, second, third = starts(sampler.dataset(2).take(3))
    np.testing.assert_array_equal(starts(sampler.dataset(2, start_step=2).take(1))[0], third)
    test, validation = (starts(sampler.fixed(5, 2, split)) for split in ("test", "validation"))
    assert [len(batch) for batch in test] == [2, 2, 1]
    np.testing.assert_array_equal(starts(sampler.fixed(5, 2))[1], test[1])
    other = starts(OptimiseeSampler(Quadratics(3), 5, seed=5).dataset(2).take(1))[0]
    drawn = np.concatenate([first, second, third, other, *test, *validation])
    assert len(np.unique(drawn[:, 0])) == len(drawn)


def test_digits_come_in_three_disjoint_parts():
    images = load_images("digits")
    assert [len(part.y) for part in images.values()] == [1078, 359, 359]
    assert all(part.x.shape[1] == 64 and part.x.max() == 1 for part in images.values())
    assert all(len(np.unique(part.y)) == 10 for part in images.values())
    # Together they are scikit-learn's, none of them twice, but for the one left over.
    found = [(x.tobytes(), y) for part in images.values() for x, y in zip(part.x, part.y)]
    x, y = load_digits(return_X_y=True)
    known = {(row.tobytes(), label) for row, label in zip((x / 16).astype(np.float32), y)}
    assert len(known) == len(y) == 1797
    assert len(set(found)) == len(found) == 1796
    assert set(found) < known


# MNIST.


@pytest.fixture
def no_mnist(monkeypatch, tmp_path):
    """A machine without MNIST, whose images are of 2 x 2 pixels: the folder of Keras's files."""
    shapes = {name: (shape[0], 2, 2)[: len(shape)] for name, shape in module.MNIST.items()}
    monkeypatch.setattr(module, "MNIST", shapes)
    monkeypatch.delenv("META_LEARNING_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def fail():
        raise Exception("URL fetch failure on https://storage: None\n -- no network")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    return tmp_path / "keras" / "datasets"


def write_mnist(folder, n_train=60000, **changes):
    """Writes white images of class 0 to train on, and black ones of class 1 to test on."""
    arrays = {"x_train": np.full((n_train, 2, 2), 255, np.uint8), "y_train": np.zeros(n_train)}
    arrays |= {"x_test": np.zeros((10000, 2, 2), np.uint8), "y_test": np.ones(10000)}
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(folder / "mnist.npz", **arrays)
    return folder / "mnist.npz"


@pytest.mark.parametrize("place", ["--data-dir", "its folder mnist", "variable", "Keras"])
def test_mnist_is_found_where_data_sets_are(no_mnist, monkeypatch, tmp_path, place):
    folder, data_dir = tmp_path / "data", None
    if place == "variable":
        monkeypatch.setenv("META_LEARNING_DATA", str(folder))
    elif place != "Keras":
        data_dir = folder
    write_mnist({"its folder mnist": folder / "mnist", "Keras": no_mnist}.get(place, folder))
    images = load_images("mnist", data_dir)
    assert [len(part.y) for part in images.values()] == [50000, 10000, 10000]
    assert images["train"].x.shape == (50000, 4)
    assert images["train"].x.min() == 1
    assert images["test"].x.max() == 0
    assert images["test"].y.min() == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_train": 100}, "expected x_train of shape (60000, 2, 2), found (100, 2, 2)"),
        ({"y_test": np.ones(9)}, "expected y_test of shape (10000,), found (9,)"),
        ({"x_train": None}, "expected an archive of x_train, y_train, x_test, y_test, found"),
    ],
)
def test_another_mnist_is_refused(no_mnist, tmp_path, changes, words):
    path = write_mnist(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load_images("mnist", tmp_path)
    assert str(caught.value).startswith(f"{path} is damaged, or not MNIST: {words}")
    assert "put a whole copy there" in str(caught.value)


@pytest.mark.parametrize("kept", [None, 0, 0.5])
def test_a_damaged_mnist_is_refused(no_mnist, tmp_path, kept):
    path = write_mnist(tmp_path)
    content = path.read_bytes()
    path.write_bytes(b"not MNIST" if kept is None else content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"is damaged, or not MNIST: .* found no zip archive; del"):
        load_images("mnist", tmp_path)


def test_a_folder_of_data_must_be_there(no_mnist, tmp_path):
    with pytest.raises(UserError, match=r"Expected a folder of data sets in .*nowhere"):
        load_images("mnist", tmp_path / "nowhere")


def test_without_mnist_one_line_names_the_embedded_digits(no_mnist, tmp_path):
    with pytest.raises(UserError, match="--dataset digits needs no download") as caught:
        load_images("mnist", tmp_path)
    assert "no network" in str(caught.value)
    assert "META_LEARNING_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)
