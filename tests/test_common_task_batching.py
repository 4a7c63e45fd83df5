"""A network with a task axis computes what a plain loop over the tasks computes."""

import common  # noqa: F401 - before Keras
from common.networks import conv4, mlp
from common.task_batching import TaskBatchedNetwork, task_batched

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops, tree

TASKS, EXAMPLES, RATE = 3, 4, 0.1


# The zoo: networks as readers write them.


def sequential():
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dense(3, use_bias=False)]
    )


def residual():
    x = images = keras.Input((7, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    x = first = layers.Activation("gelu")(layers.BatchNormalization()(x))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    x = layers.BatchNormalization(scale=False)(x)
    shortcut = layers.Conv2D(4, 1, strides=2)(first)
    x = layers.Add()([x, shortcut])
    x = layers.Activation("tanh")(x)
    return keras.Model(images, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def layer_normalized():
    x = images = keras.Input((5, 5, 2))
    x = layers.Conv2D(3, 3, activation="tanh")(x)
    x = layers.LayerNormalization(axis=(-3, -2, -1))(x)
    x = layers.Flatten()(x)
    x = layers.LayerNormalization(center=False)(layers.Dense(6)(x))
    return keras.Model(images, layers.Dense(2)(x))


def depthwise():
    x = images = keras.Input((6, 7, 3))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="tanh")(x)
    x = layers.DepthwiseConv2D(2, strides=2, use_bias=False)(x)
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))


def pooled():
    x = images = keras.Input((9, 8, 2))
    for pooling in (layers.MaxPooling2D(), layers.AveragePooling2D(padding="same")):
        x = layers.Conv2D(4, 3, padding="same")(layers.ZeroPadding2D(1)(x))
        x = pooling(layers.LeakyReLU()(layers.BatchNormalization()(x)))
    return keras.Model(images, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))


def separable():
    x = images = keras.Input((6, 6, 2))
    x = layers.SeparableConv2D(4, 3, activation="tanh")(x)
    x = layers.Conv2DTranspose(2, 3, strides=2)(x)
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))


def embedding_lstm():
    x = words = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(x)
    return keras.Model(words, layers.Dense(2)(layers.LSTM(3)(x)))


def gru():
    x = series = keras.Input((5, 2))
    x = layers.GRU(3, return_sequences=True)(layers.Masking()(x))
    return keras.Model(series, layers.Dense(2)(x))


def bidirectional():
    x = series = keras.Input((4, 2))
    return keras.Model(series, layers.Dense(2)(layers.Bidirectional(layers.LSTM(3))(x)))


def attention():
    x = series = keras.Input((4, 6))
    attended = layers.MultiHeadAttention(num_heads=2, key_dim=3)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    return keras.Model(series, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def shared():
    left, right = keras.Input((4,)), keras.Input((4,))
    dense = layers.Dense(3, "tanh")
    return keras.Model([left, right], layers.Dense(2)(dense(left) * dense(right)))


def nested():
    x = inputs = keras.Input((5, 5, 2))
    embed = keras.Sequential(
        [layers.Conv2D(3, 3, activation="tanh"), layers.Flatten(), sequential_head()]
    )
    return keras.Model(inputs, layers.Dense(2)(embed(x)))


def sequential_head():
    x = features = keras.Input((27,))
    return keras.Model(features, layers.Dense(4, "tanh")(x))


def operations():
    x = inputs = keras.Input((3, 4))
    a, b = layers.Dense(4, "tanh")(x), layers.Dense(4)(x)
    x = ops.concatenate([a + b, ops.mean(x, axis=2, keepdims=True) * a], axis=-1)
    x = 1.0 - ops.reshape(x, (-1, 24)) / 2.0
    x = ops.stack([x, ops.sin(x)], axis=1) @ np.linspace(-1, 1, 48).reshape(24, 2)
    return keras.Model(inputs, layers.Dense(2)(ops.sum(x, axis=1)))


def inputs_and_outputs():
    image, word = keras.Input((4, 4, 1), name="image"), keras.Input((2,), name="word")
    seen = layers.Flatten()(layers.Conv2D(2, 2, activation="tanh")(image))
    both = layers.Concatenate()([seen, layers.Dense(3)(word)])
    return keras.Model(
        {"image": image, "word": word},
        {"logits": layers.Dense(3)(both), "value": layers.Dense(1)(seen)},
    )


class Scale(layers.Layer):
    """A layer of the user's own, for which there is no twin."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")
        self.power = self.add_weight(shape=(), initializer="ones", name="power")

    def call(self, inputs):
        return ops.tanh(inputs * self.factor) * self.power


def custom():
    x = inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2)(Scale()(layers.Dense(3)(x))))


def one_dimensional():
    x = series = keras.Input((8, 2))
    x = layers.Conv1D(3, 3, padding="causal", activation="tanh")(x)
    x = layers.BatchNormalization()(x)
    x = layers.GroupNormalization(groups=3)(x)
    x = layers.PReLU()(layers.UnitNormalization()(x))
    return keras.Model(series, layers.Dense(2)(layers.Flatten()(x)))


def masked_normalization():
    x = series = keras.Input((5, 2))
    x = layers.BatchNormalization()(layers.Masking()(x))
    return keras.Model(series, layers.Dense(2)(layers.Flatten()(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(4, "tanh"), layers.Dense(2)
        self.norm = layers.BatchNormalization()

    def call(self, inputs, training=False):
        return self.second(self.norm(self.first(inputs), training=training))


def subclassed():
    network = Subclassed()
    network(np.zeros((1, 5), "float32"))
    return network


def subclassed_inside():
    x = inputs = keras.Input((5,))
    return keras.Model(inputs, layers.Dense(2)(Subclassed()(x)))


def frozen():
    network = residual()
    network.layers[1].trainable = network.layers[2].trainable = False
    return network


ZOO = {
    "sine network": mlp,
    "strided conv4": lambda: conv4((9, 9, 1), 3, filters=4, blocks=2),
    "pooled conv4": lambda: conv4((9, 9, 1), 3, filters=4, blocks=2, strided=False),
    "conv4 with layer norm": lambda: conv4((9, 9, 1), 3, filters=4, blocks=2, norm="layer"),
    "conv4 without norm": lambda: conv4((9, 9, 1), 3, filters=4, blocks=2, norm="none"),
    **{
        function.__name__.replace("_", " "): function
        for function in (
            sequential, residual, layer_normalized, depthwise, pooled, separable, embedding_lstm,
            gru, bidirectional, attention, shared, nested, operations, inputs_and_outputs, custom,
            one_dimensional, masked_normalization, subclassed, subclassed_inside, frozen,
        )
    },
}  # fmt: skip


# The plain loop over tasks, and what is compared.


def some_inputs(network, n_tasks=TASKS, examples=EXAMPLES):
    """Random inputs `(tasks, examples, ...)` in the network's own structure."""
    random = np.random.default_rng(1)

    def draw(tensor):
        shape = (n_tasks, examples, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return tf.constant(random.integers(0, 7, shape), tensor.dtype)
        values = random.normal(size=shape)
        if len(shape) == 4:
            values[:, :, -1] = 0.0  # an end of series, which masks may leave out
        return tf.constant(values, tensor.dtype)

    symbolic = keras.KerasTensor((None, 5)) if network.inputs is None else network.input
    return tree.map_structure(draw, symbolic)


def own_weights(network, n_tasks=TASKS):
    """Different weights for each task."""
    random = np.random.default_rng(2)
    return [
        v.value + tf.constant(0.3 * random.normal(size=(n_tasks, *v.shape)), v.dtype)
        for v in network.trainable_variables
    ]


def scramble_state(network):
    """Moving statistics and frozen weights as after some training."""
    random = np.random.default_rng(3)
    for variable in network.non_trainable_variables:
        if "float" in variable.dtype:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))


def loss_of(outputs):
    return tf.add_n([tf.reduce_sum(tf.square(tf.cast(o, tf.float32) - 0.3)) for o in outputs])


def everything(forward, weights, inputs):
    """Outputs, the gradient of a loss, and its gradient through one inner step.

    `forward(weights, inputs)` returns outputs as a flat list.
    """
    with tf.GradientTape() as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(weights)
            outputs = forward(weights, inputs)
            loss = loss_of(outputs)
        zero = tf.UnconnectedGradients.ZERO
        gradients = inner.gradient(loss, weights, unconnected_gradients=zero)
        fast_weights = [w - RATE * g for w, g in zip(weights, gradients)]
        query_loss = loss_of(forward(fast_weights, inputs))
    meta_gradients = outer.gradient(query_loss, weights, unconnected_gradients=zero)
    return outputs, gradients, meta_gradients


def loop(network, weights, inputs, training):
    """`everything`, one task after the other, with the network itself."""
    state = [v.value for v in network.non_trainable_variables]

    def forward(weights, inputs):
        return tree.flatten(network.stateless_call(weights, state, inputs, training=training)[0])

    tasks = [
        everything(forward, [w[t] for w in weights], tree.map_structure(lambda x: x[t], inputs))  # noqa: B023
        for t in range(len(weights[0]))
    ]
    return [[tf.stack(values) for values in zip(*part)] for part in zip(*tasks)]


def batched(network, weights, inputs, training, batch_statistics=False):
    """`everything`, all tasks at once."""
    twin = task_batched(network, len(weights[0]), batch_statistics=batch_statistics)
    state = [v.value for v in twin.non_trainable_variables]

    def forward(weights, inputs):
        return tree.flatten(twin.stateless_call(weights, state, inputs, training=training)[0])

    return everything(forward, weights, inputs)


def assert_equal_to_loop(network, training, *, examples=EXAMPLES, n_tasks=TASKS, tolerance=1e-4):
    scramble_state(network)
    weights, inputs = own_weights(network, n_tasks), some_inputs(network, n_tasks, examples)
    expected = tf.function(loop)(network, weights, inputs, training)
    found = tf.function(batched)(network, weights, inputs, training)
    for name, one, other in zip(("outputs", "gradients", "meta-gradients"), found, expected):
        assert len(one) == len(other)
        for index, (a, b) in enumerate(zip(one, other)):
            a, b = tf.cast(a, tf.float64).numpy(), tf.cast(b, tf.float64).numpy()
            scale = 1e-2 + np.abs(b).max()
            np.testing.assert_allclose(
                a / scale, b / scale, rtol=0, atol=tolerance, err_msg=f"{name} {index}"
            )


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", ZOO)
def test_equals_a_loop_over_tasks(name, training):
    assert_equal_to_loop(ZOO[name](), training)
