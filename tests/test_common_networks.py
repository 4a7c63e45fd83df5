"""The networks of the chapters have the shapes, sizes and seeds that the papers' have."""

import itertools

from common.errors import UserError
from common.networks import conv4, mlp

import keras
import numpy as np
import pytest
from keras import layers


def kinds(network):
    return [type(layer).__name__ for layer in network.layers]


def test_sine_network_of_the_paper():
    network = mlp()
    assert network.count_params() == 1761  # 2 * 40 + 41 * 40 + 41
    assert [layer.activation.__name__ for layer in network.layers[1:]] == ["relu", "relu", "linear"]
    assert network(np.zeros((5, 1))).shape == (5, 1)


def test_mlp_of_any_size():
    network = mlp(3, (7,), 2, initializer=keras.initializers.Constant(0.5))
    assert [tuple(v.shape) for v in network.weights] == [(3, 7), (7,), (7, 2), (2,)]
    # 7 hidden units of relu(0.5 (1 + 2 + 3)) = 3, halved and added up: 10.5.
    np.testing.assert_allclose(network(np.array([[1.0, 2.0, 3.0]])), [[10.5, 10.5]])
    linear = mlp(2, (), 1)
    assert kinds(linear) == ["InputLayer", "Dense"]


@pytest.mark.parametrize(
    ("strided", "norm", "parameters"),
    [
        # 3 x 3 x (1 + 3 x 64) x 64 filters, and 4 x 4 x 64 of statistics and scales; the images
        # shrink from 28 to 14, 7, 4, 2 with strides and to 14, 7, 3, 1 with pooling.
        (True, "batch", 9 * 193 * 64 + 4 * 256 + (4 * 64 + 1) * 5),
        (False, "batch", 9 * 193 * 64 + 4 * 256 + (64 + 1) * 5),
        (True, "none", 9 * 193 * 64 + 256 + (4 * 64 + 1) * 5),
        # layer normalisation has a scale and a shift for each number of a feature map
        (True, "layer", 9 * 193 * 64 + 256 + 128 * (14**2 + 7**2 + 4**2 + 2**2) + 257 * 5),
    ],
)
def test_conv4_of_the_papers(strided, norm, parameters):
    network = conv4(strided=strided, norm=norm)
    assert network.count_params() == parameters
    assert kinds(network).count("Conv2D") == 4
    assert kinds(network).count("MaxPooling2D") == (0 if strided else 4)
    assert network(np.zeros((3, 28, 28, 1))).shape == (3, 5)


def test_conv4_as_embedding():
    assert conv4(outputs=None, strided=False)(np.zeros((2, 28, 28, 1))).shape == (2, 64)
    network = conv4((84, 84, 3), None, filters=32, strided=False, blocks=3)
    assert network(np.zeros((1, 84, 84, 3))).shape == (1, 10 * 10 * 32)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_examples_do_not_influence_one_another(norm):
    network = conv4((9, 9, 1), 3, filters=4, norm=norm)
    images = np.random.default_rng(0).normal(size=(4, 9, 9, 1))
    together = network(images, training=True)
    alone = [network(image[None], training=True)[0] for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("make", [mlp, conv4])
def test_seed_decides_the_weights(make):
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    for a, b in zip(first.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)
    kernels = [
        [v.numpy() for v in network.weights if v.name == "kernel"] for network in (first, other)
    ]
    assert all(np.any(a != b) for a, b in zip(*kernels))
    for one, two in itertools.combinations(kernels[0], 2):  # each layer draws its own
        assert one.shape != two.shape or np.any(one != two)


def test_networks_are_plain_keras_models(tmp_path):
    for network in (mlp(), conv4(norm="layer"), conv4(strided=False)):
        assert all(type(layer).__module__.startswith("keras.") for layer in network.layers)
        network.save(tmp_path / "network.keras")
        loaded = keras.models.load_model(tmp_path / "network.keras")
        x = np.ones((2, *network.input_shape[1:]))
        np.testing.assert_array_equal(loaded(x), network(x))
    on_top = layers.Dense(2)(conv4(outputs=None).output)
    assert on_top.shape == (None, 2)


def test_wrong_settings_are_refused():
    with pytest.raises(
        UserError, match="norm must be one of batch, fused, layer, none; got 'group'"
    ):
        conv4(norm="group")
    with pytest.raises(UserError, match=r"at least 16 x 16 pixels.*got 12 x 28"):
        conv4((12, 28, 1), strided=False)
    assert conv4((12, 28, 1), strided=True)(np.zeros((1, 12, 28, 1))).shape == (1, 5)
