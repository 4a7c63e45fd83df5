"""Layers with a context: what they compute, and their twins with a task axis."""

from common import networks
from common.context import AppendContext, FiLM
from common.errors import UserError
from common.task_batching import TaskBatchedNetwork, task_batched

import keras
import numpy as np
import pytest
import tensorflow as tf


def set_context(layer, values):
    layer.context.assign(values)


def test_context_is_appended_to_every_example():
    layer = AppendContext(2)
    x = np.array([[1.0], [2.0], [3.0]], np.float32)
    np.testing.assert_array_equal(layer(x), [[1, 0, 0], [2, 0, 0], [3, 0, 0]])
    set_context(layer, [5, 6])
    np.testing.assert_array_equal(layer(x), [[1, 5, 6], [2, 5, 6], [3, 5, 6]])


def test_film_scales_and_shifts_each_channel():
    layer = FiLM(2)
    x = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(layer(x), x)  # the identity, with the context at 0
    kernel = np.array([[1, 0, 0, 0, 2, 0], [0, 0, 1, 0, 0, 3]], np.float32)
    layer.kernel.assign(kernel)
    set_context(layer, [1, 2])  # scale 1 + (1, 0, 2), shift (0, 2, 6)
    np.testing.assert_allclose(layer(x), x * [2, 1, 3] + [0, 2, 6])


@pytest.mark.parametrize("kind", ["append", "film dense", "film maps"])
def test_twin_gives_each_task_its_own_context(kind):
    random = np.random.default_rng(0)
    layer = AppendContext(3) if kind == "append" else FiLM(3)
    shape = (4, 5, 2) if kind == "film maps" else (2,)
    network = keras.Sequential([keras.Input(shape), layer])
    twin = task_batched(network, 4)
    x = random.normal(size=(4, 6, *shape)).astype(np.float32)
    weights = [random.normal(size=v.shape).astype("f") for v in twin.trainable_variables]
    outputs, _ = twin.stateless_call(weights, [], x)
    for task in range(4):
        network.set_weights([weight[task] for weight in weights])
        np.testing.assert_allclose(outputs[task], network(x[task]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [AppendContext(2), FiLM(2)])
def test_layers_come_back_from_their_configuration(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.size == 2
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("size", [0, -3, 1.5, "two"])
def test_impossible_sizes_are_refused(size):
    for layer in (AppendContext, FiLM):
        with pytest.raises(UserError, match="at least 1 number"):
            layer(size)


def test_networks_have_one_context_or_none():
    for make in (networks.mlp, networks.conv4):
        for size in (0, 3):
            network = make(context_size=size)
            contexts = [v for v in network.trainable_variables if v.name == "context"]
            assert [v.shape for v in contexts] == [(size,)] * bool(size)
    assert networks.mlp(context_size=5).count_params() == 1761 + 5 * 40 + 5


def test_weights_that_are_shared_for_good_are_not_multiplied_by_the_tasks():
    # The gradient by the copies does not exist: the one weight stands in their place.
    network = networks.mlp(hidden=(4,), context_size=2)
    batched = TaskBatchedNetwork(network, adapted="context")
    names = [v.name for v in network.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        weights = batched.repeated_weights(3)
        tape.watch(weights)
        outputs = batched(weights, tf.ones((3, 5, 1)))
    by_name = dict(zip(names, weights))
    assert tape.gradient(outputs, by_name["kernel"]) is None
    assert tape.gradient(outputs, by_name["context"]).shape == (3, 2)
    assert tape.gradient(outputs, network.layers[-1].kernel.value).shape == (4, 1)
