"""A network with a task axis computes what a plain loop over the tasks computes."""

from common import task_convolution, task_layers
from common.networks import conv4, mlp
from common.task_batching import TaskBatchedNetwork, task_batched
from common.task_convolution import FEW_EXAMPLES

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
    for pooling in (layers.MaxPooling2D(), layers.AveragePooling2D(2, padding="same")):
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


def group_normalized():
    x = images = keras.Input((5, 6, 3))
    x = layers.GroupNormalization(groups=2)(layers.Conv2D(6, 3, padding="same")(x))
    x = layers.GroupNormalization(groups=-1, center=False)(layers.Activation("tanh")(x))
    x = layers.GroupNormalization(groups=1, scale=False)(x)
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))


def bare_normalizations():
    x = images = keras.Input((5, 6, 3))
    x = layers.LayerNormalization(center=False, scale=False)(layers.Conv2D(4, 3)(x))
    x = layers.GroupNormalization(2, center=False, scale=False)(layers.Activation("tanh")(x))
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))


def channels_in_competition():
    """Activations that look at all channels must not look at those of other tasks."""
    x = images = keras.Input((5, 6, 3))
    x = layers.Conv2D(6, 3, activation="softmax")(x)
    x = layers.Activation("log_softmax")(layers.Conv2D(4, 2)(x))
    x = layers.DepthwiseConv2D(2, activation="sparsemax")(x)
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))


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


@pytest.fixture(autouse=True)
def same_weights_whatever_ran_before():
    """A finite difference can step over a kink of some random weights, and not of these."""
    keras.utils.set_random_seed(0)


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
            one_dimensional, group_normalized, bare_normalizations, channels_in_competition,
            masked_normalization, subclassed,
            subclassed_inside, frozen,
        )
    },
}  # fmt: skip
SLOW = ("embedding lstm", "gru", "bidirectional")  # tracing their derivatives takes long


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

    if not hasattr(network, "inputs"):
        return draw(keras.KerasTensor((None, 5)))
    symbolic = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
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
    return tf.add_n([tf.reduce_sum(tf.square(tf.cast(o, tf.float64) - 0.3)) for o in outputs])


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
        gradients = [tf.convert_to_tensor(g) for g in gradients]  # an embedding's may be sparse
        fast_weights = [w - RATE * g for w, g in zip(weights, gradients)]
        query_loss = loss_of(forward(fast_weights, inputs))
    meta_gradients = outer.gradient(query_loss, weights, unconnected_gradients=zero)
    return outputs, gradients, meta_gradients


def loop(network, weights, inputs, training):
    """`everything`, one task after the other, with the network itself."""
    state = [v.value for v in network.non_trainable_variables]

    def forward(weights, inputs):
        outputs, _ = network.stateless_call(weights, state, inputs, training=training)
        return tree.flatten(outputs)

    # Eagerly: in a graph, oneDNN may merge the gradients of a Keras convolution's filter and bias,
    # of which the one can depend on the other in a second derivative ("nodes in a cycle").
    tasks = [
        everything(forward, *tree.map_structure(lambda value: value[t], (weights, inputs)))  # noqa: B023
        for t in range(len(weights[0]))
    ]
    return [[tf.stack(values) for values in zip(*part)] for part in zip(*tasks)]


def batched(network, weights, inputs, training, batch_statistics=False):
    """`everything`, all tasks at once."""
    twin = task_batched(network, len(weights[0]), batch_statistics=batch_statistics)
    state = [v.value for v in twin.non_trainable_variables]

    def forward(weights, inputs):
        outputs, _ = twin.stateless_call(weights, state, inputs, training=training)
        return tree.flatten(outputs)

    return tf.function(lambda weights, inputs: everything(forward, weights, inputs))(
        weights, inputs
    )


def assert_equal_to_loop(network, training, *, examples=EXAMPLES, n_tasks=TASKS, tolerance=1e-4):
    scramble_state(network)
    weights, inputs = own_weights(network, n_tasks), some_inputs(network, n_tasks, examples)
    expected = loop(network, weights, inputs, training)
    assert_close(batched(network, weights, inputs, training), expected, tolerance)


def assert_close(found, expected, tolerance):
    """Relative to the largest number of the kind, for some gradients are zero."""
    for name, one, other in zip(("outputs", "gradients", "meta-gradients"), found, expected):
        assert len(one) == len(other)
        one, other = ([tf.cast(v, tf.float64).numpy() for v in values] for values in (one, other))
        scale = max(np.abs(values).max() for values in other)
        for index, (a, b) in enumerate(zip(one, other)):
            np.testing.assert_allclose(
                a / scale, b / scale, rtol=0, atol=tolerance, err_msg=f"{name} {index}"
            )


@pytest.fixture
def exact_moments(monkeypatch):
    """Gives Keras's own layers the right second derivative of a normalisation.

    `tf.nn.moments` stops the gradient of the mean inside the variance. Its first derivative is
    right all the same, its second is not; what is compared with the twins has to be.
    """

    def moments(x, axes, shift=None, keepdims=False, name=None):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
        return (mean if keepdims else tf.squeeze(mean, axes)), variance

    monkeypatch.setattr(tf.nn, "moments", moments)


@pytest.mark.usefixtures("exact_moments")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ZOO],
)
def test_equals_a_loop_over_tasks(name):
    assert_equal_to_loop(ZOO[name](), training=False)


@pytest.mark.usefixtures("exact_moments")
@pytest.mark.parametrize(
    "name",
    [
        "strided conv4", "pooled conv4", "residual", "pooled", "attention", "one dimensional",
        "masked normalization", "subclassed", "subclassed inside", "frozen",
    ],
)  # fmt: skip
def test_equals_a_loop_over_tasks_in_training(name):
    assert_equal_to_loop(ZOO[name](), training=True)


CONVOLUTIONS = {
    "valid": {"padding": "valid"},
    "strided": {"padding": "same", "strides": 2},
    "strided both ways": {"padding": "valid", "strides": (1, 2), "use_bias": False},
    "dilated": {"padding": "same", "dilation_rate": 2},
    "grouped": {"padding": "same", "groups": 2, "activation": "tanh"},
}


@pytest.mark.parametrize("groups_work", [True, False], ids=["groups", "no groups"])
@pytest.mark.parametrize("examples", [3, FEW_EXAMPLES + 1], ids=["few", "many"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_equal_a_loop(name, examples, groups_work, monkeypatch):
    if not groups_work:
        monkeypatch.setattr(task_convolution, "grouped_convolution_works", lambda *_: False)
        monkeypatch.setattr(task_layers, "grouped_convolution_works", lambda *_: False)
    network = keras.Sequential(
        [
            keras.Input((5, 6, 4)),  # odd and even
            layers.Conv2D(4, 3, **CONVOLUTIONS[name]),
            layers.GlobalAveragePooling2D(),
        ]
    )
    assert_equal_to_loop(network, False, examples=examples)


@pytest.mark.usefixtures("exact_moments")
@pytest.mark.parametrize("name", ["strided conv4", "pooled", "depthwise", "residual"])
def test_equals_a_loop_with_many_examples(name):
    assert_equal_to_loop(ZOO[name](), False, examples=FEW_EXAMPLES + 1, tolerance=1e-3)


@pytest.mark.usefixtures("exact_moments")
@pytest.mark.parametrize("examples", [EXAMPLES, FEW_EXAMPLES + 1])
def test_batch_statistics_without_training(examples):
    network = residual()
    scramble_state(network)
    weights, inputs = own_weights(network), some_inputs(network, examples=examples)
    expected = loop(network, weights, inputs, training=True)
    found = batched(network, weights, inputs, training=False, batch_statistics=True)
    assert_close(found, expected, 1e-3)


@pytest.mark.usefixtures("exact_moments")
@pytest.mark.parametrize("name", ["residual", "conv4 with layer norm", "shared", "custom"])
def test_one_task(name):
    assert_equal_to_loop(ZOO[name](), False, n_tasks=1)


@pytest.fixture
def dtype_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("exact_moments")
@pytest.mark.parametrize("name", ["residual", "conv4 with layer norm", "attention", "pooled"])
def test_float64(name, dtype_policy):
    dtype_policy("float64")
    assert_equal_to_loop(ZOO[name](), True, tolerance=1e-9)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["residual", "conv4 with layer norm", "attention"])
def test_mixed_precision(name, policy, dtype_policy):
    dtype_policy(policy)
    network = ZOO[name]()
    weights, inputs = own_weights(network), some_inputs(network)
    outputs, gradients, meta_gradients = batched(
        network, weights, inputs, training=False, batch_statistics=True
    )
    expected, expected_gradients, _ = loop(network, weights, inputs, training=True)
    assert outputs[0].dtype == expected[0].dtype == policy.removeprefix("mixed_")
    assert {gradient.dtype for gradient in gradients + meta_gradients} == {tf.float32}
    assert_close([outputs, gradients], [expected, expected_gradients], 0.1)


def second_derivative_error(network, n_tasks=2, examples=5):
    """Largest difference to a finite difference, along a random direction, over its size."""
    twin = task_batched(network, n_tasks, batch_statistics=True)
    state = [v.value for v in twin.non_trainable_variables]
    weights, inputs = own_weights(network, n_tasks), some_inputs(network, n_tasks, examples)
    random = np.random.default_rng(4)
    direction = [tf.constant(random.normal(size=w.shape)) for w in weights]

    def gradients(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = loss_of([twin.stateless_call(weights, state, inputs)[0]])
        return tape.gradient(loss, weights)

    with tf.GradientTape() as tape:
        tape.watch(weights)
        product = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(gradients(weights), direction)])
    exact = tape.gradient(product, weights)
    step = 1e-5
    ahead, behind = (
        gradients([w + sign * step * d for w, d in zip(weights, direction)]) for sign in (1, -1)
    )
    pairs = [(e, (a - b) / (2 * step)) for e, a, b in zip(exact, ahead, behind)]
    return max(float(tf.reduce_max(tf.abs(e - n) / (1 + tf.abs(n)))) for e, n in pairs)


@pytest.mark.parametrize(
    "name",
    [
        "residual",
        "conv4 with layer norm",
        "group normalized",
        "bare normalizations",
        "masked normalization",
    ],
)
def test_second_derivative_against_finite_differences(name, dtype_policy):
    # Here Keras itself is no oracle: see `exact_moments`.
    dtype_policy("float64")
    assert second_derivative_error(ZOO[name]()) < 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_variables_are_the_networks(name):
    network = ZOO[name]()
    scramble_state(network)
    for index, variable in enumerate(network.trainable_variables):  # no two of them are equal
        variable.assign(variable + tf.cast(index, variable.dtype))
    before = [v.numpy() for v in network.variables]
    twin = task_batched(network, TASKS)
    for kind in ("trainable_variables", "non_trainable_variables"):
        theirs, ours = getattr(network, kind), getattr(twin, kind)
        assert len(theirs) == len(ours)
        for network_variable, twin_variable in zip(theirs, ours):
            assert twin_variable.dtype == network_variable.dtype
            if network_variable.name != "seed_generator_state":
                expected = np.broadcast_to(
                    network_variable.numpy(), (TASKS, *network_variable.shape)
                )
                np.testing.assert_array_equal(twin_variable.numpy(), expected)
    for old, new in zip(before, network.variables):
        np.testing.assert_array_equal(old, new.numpy())


def outputs_of(network, inputs, training=False):
    """The network with its own weights for each task, by a loop."""
    state = [v.value for v in network.non_trainable_variables]
    weights = [v.value for v in network.trainable_variables]
    return np.stack(
        [network.stateless_call(weights, state, x, training=training)[0] for x in inputs]
    )


def test_operations_and_layers_that_mix_examples():
    """What is not Keras's own may look at the whole batch, or hold an array of any shape."""

    class Centre(layers.Layer):
        def call(self, inputs):
            return inputs - ops.mean(inputs, axis=0, keepdims=True)

    x = inputs = keras.Input((TASKS, 4))
    x = layers.Dense(4)(x) + np.arange(4.0 * TASKS).reshape(TASKS, 4)  # no task axis
    x = x - ops.mean(x, axis=0)
    x = Centre()(ops.softmax(x, axis=0))
    x = layers.Lambda(lambda x: x / ops.max(x, axis=0))(x)
    network = keras.Model(inputs, layers.Dense(2)(ops.flip(x, axis=0)))
    inputs = some_inputs(network)
    twin = task_batched(network, TASKS)
    np.testing.assert_allclose(twin(inputs), outputs_of(network, inputs), atol=1e-5)


def test_number_of_examples_may_change():
    network = ZOO["residual"]()
    twin = tf.function(TaskBatchedNetwork(network), reduce_retracing=True)
    weights = TaskBatchedNetwork(network).repeated_weights(TASKS)
    for examples in (4, 7, 9, FEW_EXAMPLES + 1, FEW_EXAMPLES + 3):
        inputs = some_inputs(network, examples=examples)
        expected = outputs_of(network, inputs, training=True)
        np.testing.assert_allclose(twin(weights, inputs), expected, atol=1e-4)


def test_first_inner_step_is_by_ordinary_convolutions(monkeypatch):
    used = []
    shared_convolution = task_convolution.shared_convolution
    monkeypatch.setattr(
        task_convolution,
        "shared_convolution",
        lambda *args: used.append(True) or shared_convolution(*args),
    )
    network = ZOO["strided conv4"]()
    batched_network = TaskBatchedNetwork(network)
    weights, inputs = batched_network.repeated_weights(TASKS), some_inputs(network)
    first = batched_network(weights, inputs)
    n_convolutions = sum(isinstance(layer, layers.Conv2D) for layer in network.layers)
    assert len(used) == n_convolutions > 1
    adapted = batched_network([weight + 0.0 for weight in weights], inputs)
    assert len(used) == n_convolutions  # not those of tasks with weights of their own
    np.testing.assert_allclose(first, adapted, atol=1e-5)


def test_frozen_weights_are_todays():
    network = frozen()
    batched_network = TaskBatchedNetwork(network)
    weights, inputs = batched_network.repeated_weights(TASKS), some_inputs(network)
    batched_network(weights, inputs)
    network.layers[1].kernel.assign(2.0 * network.layers[1].kernel + 1.0)
    network.layers[2].gamma.assign([0.5, 1.0, 1.5, 2.0])
    found = batched_network(weights, inputs)
    for layer in network.layers:  # a frozen normalisation, too, uses the statistics of the batch
        layer.trainable = True
    np.testing.assert_allclose(found, outputs_of(network, inputs, training=True), atol=1e-4)


def test_layers_may_be_frozen_later():
    network = sequential()
    batched_network = TaskBatchedNetwork(network)
    inputs = some_inputs(network)
    expected = outputs_of(network, inputs)
    for trainable in (True, False, True):
        network.layers[0].trainable = trainable
        weights = batched_network.repeated_weights(TASKS)
        assert len(weights) == (3 if trainable else 1)
        np.testing.assert_allclose(batched_network(weights, inputs), expected, atol=1e-6)


def noisy(layer, twice=False):
    inputs = keras.Input((4, 8))
    x = layers.Dense(8)(inputs)
    return keras.Model(inputs, layer(x, x) if twice else layer(x))


@pytest.mark.parametrize(
    "network",
    [
        lambda: noisy(layers.Dropout(0.5)),
        lambda: noisy(layers.GaussianNoise(1.0)),
        lambda: noisy(keras.Sequential([keras.Input((4, 8)), layers.Dropout(0.5)])),
        lambda: noisy(layers.MultiHeadAttention(1, 4, dropout=0.5), twice=True),
        pytest.param(lambda: noisy(layers.LSTM(8, dropout=0.5)), marks=pytest.mark.slow),
    ],
    ids=["dropout", "noise", "nested", "attention", "lstm"],
)
def test_noise(network):
    """Each task, call and step has its own; the same `noise` gives the same, also after a load."""
    network = network()
    batched_network = TaskBatchedNetwork(network)
    weights = batched_network.repeated_weights(TASKS)
    inputs = tf.ones((TASKS, 5, 4, 8))

    @tf.function
    def call(noise):
        return batched_network(weights, inputs, training=True, noise=noise)

    first, again, second = (call(tf.constant(n, tf.int64)).numpy() for n in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != second)
    for one in range(TASKS):
        for other in range(one):
            assert np.any(first[one] != first[other])
    quiet = batched_network(weights, inputs, training=False)
    np.testing.assert_allclose(quiet, outputs_of(network, inputs), atol=1e-6)

    twin_of_copy = TaskBatchedNetwork(keras.models.clone_model(network))
    twin_of_copy.network.set_weights(network.get_weights())
    for theirs, ours in zip(network.variables, twin_of_copy.network.variables):
        ours.assign(theirs)  # as loading does: the states of noise are variables, too
    loaded = twin_of_copy(weights, inputs, training=True, noise=3)
    np.testing.assert_array_equal(first, loaded)


def test_unbuilt_network_is_refused():
    with pytest.raises(ValueError, match="needs a built network"):
        task_batched(keras.Sequential([layers.Dense(3)]), 2)
    with pytest.raises(ValueError, match="needs a built network"):
        task_batched(Subclassed(), 2)


@pytest.mark.parametrize("n_tasks", [0, -1])
def test_no_tasks_are_refused(n_tasks):
    with pytest.raises(ValueError, match=f"n_tasks must be at least 1, got {n_tasks}"):
        task_batched(mlp(), n_tasks)
