"""Any Keras model with a task axis on its inputs and on every one of its weights.

Meta-learning adapts the same network to many tasks at once, and each task then has weights of
its own. `task_batched(network, n_tasks)` is a model that takes all of them in one call:

    twin = task_batched(network, n_tasks)
    fast_weights = [broadcast(v, (n_tasks, *v.shape)) for v in network.trainable_variables]
    outputs, _ = twin.stateless_call(fast_weights, state, inputs)   # (tasks, examples, outputs)

so that an inner loop over tasks is a tensor operation instead of a Python loop. Three things
may become of a layer:

- a layer with weights gets its twin from `common.task_layers`, if there is one;
- a layer of Keras without weights sees tasks and examples merged to one long batch
  (`MergedLayer`);
- any other layer or operation is mapped over the tasks (`MappedLayer`, `MappedOperation`):
  slower, equal in result.
"""

from common.context import CONTEXTS
from common.task_convolution import share
from common.task_layers import LAYERS
from common.task_mapping import MappedLayer, MappedModel, MappedOperation, MergedLayer
from common.task_normalization import NORMALIZATIONS

import keras
import tensorflow as tf
from keras import tree

TWINS = {**LAYERS, **NORMALIZATIONS, **CONTEXTS}


def task_batched(network, n_tasks, *, batch_statistics=False):
    """The same network for many tasks at once, with weights for each.

    Args:
        network: A built Keras model: `Sequential`, functional or subclassed, with other models
            inside or not. It is read, not changed.
        n_tasks: Number of tasks, fixed.
        batch_statistics: Whether batch normalisation uses the statistics of the examples of the
            call even with `training=False`, as MAML does in support and query alike.

    Returns:
        A `keras.Model` from `(n_tasks, examples, ...)` to `(n_tasks, examples, ...)`. Its
        `trainable_variables` and `non_trainable_variables` stand in the order of the network's,
        each `(n_tasks, *shape)`, and start as the network's values, n_tasks times.

    Raises:
        ValueError: If the network has not been built, or n_tasks is less than 1.
    """
    if not network.built:
        raise ValueError(
            f"task_batched needs a built network, whose weights exist; {network.name!r} is not. "
            "Call it once on data, or give it a keras.Input."
        )
    if n_tasks < 1:
        raise ValueError(f"n_tasks must be at least 1, got {n_tasks}.")

    def twin_of(layer):
        if not isinstance(layer, keras.Layer):
            return MappedOperation(layer, n_tasks)
        if isinstance(layer, keras.Model) and _is_graph(layer):
            return task_batched(layer, n_tasks, batch_statistics=batch_statistics)
        twin = TWINS.get(type(layer))
        if twin is None or not twin.handles(layer):
            if not layer.weights and _treats_examples_alone(layer):
                return MergedLayer(layer, n_tasks)
            twin = MappedLayer
        return twin(layer, n_tasks, batch_statistics)

    if not _is_graph(network):
        return MappedModel(network, n_tasks, batch_statistics)
    graph = _graph_of(network)
    inputs = tree.map_structure(
        lambda tensor: keras.Input(
            batch_shape=(n_tasks, None, *tensor.shape[1:]), dtype=tensor.dtype
        ),
        graph.input,
    )
    twin = keras.models.clone_model(graph, input_tensors=inputs, clone_function=twin_of)
    _check_alignment(network, twin)
    return twin


def _is_graph(network):
    """Whether the model is a graph of layers that can be walked: functional or sequential."""
    return getattr(network, "inputs", None) is not None


def _graph_of(network):
    """The network by itself, even where it is part of another one."""
    if isinstance(network, keras.Sequential):  # its `input` is that of its last use
        return keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    return keras.Model(network.input, network.output, name=network.name)


def _treats_examples_alone(layer):
    """Whether no example influences another: true of Keras's own layers without weights."""
    own = type(layer).__module__.startswith("keras.")
    return own and not isinstance(layer, keras.layers.Lambda)


def _check_alignment(network, twin):
    """The inner loop pairs the variables of both by position; see that they are pairs."""
    ours = [tuple(v.shape[1:]) for v in twin.trainable_variables]
    theirs = [tuple(v.shape) for v in network.trainable_variables]
    if ours != theirs:
        raise ValueError(
            f"The layers of {network.name!r} changed their order on the way: expected weights "
            f"{theirs}, found {ours}. Give the layers in the order in which they are called."
        )


class TaskBatchedNetwork:
    """Runs a network with the weights of many tasks at once, whatever their number.

    Keeps one twin for every number of tasks, and every choice of frozen layers, that it met.

    Args:
        network: The built Keras model.
        adapted: The name of the only weights that tasks will change, for instance `"context"`; by
            default all. The others then cost what they do in an ordinary network.
    """

    batch_statistics = True  # see `task_batched`

    def __init__(self, network, adapted=None):
        self.network = network
        self.adapted = adapted
        self._twins = {}

    def repeated_weights(self, n_tasks):
        """The network's weights once for every task, tensors `(n_tasks, *shape)`."""
        return [
            share(tf.convert_to_tensor(v), n_tasks, self.adapted not in (None, v.name))
            for v in self.network.trainable_variables
        ]

    def __call__(self, weights, inputs, *, training=False, noise=0):
        """Outputs of the network with the given weights.

        Args:
            weights: List of `(tasks, *shape)`, aligned with `network.trainable_variables`.
            inputs: `(tasks, examples, ...)`; the number of tasks must be known to the graph.
            training: Whether layers such as dropout are active. Batch normalisation uses the
                statistics of these very examples either way.
            noise: Integer; where it differs, dropout draws another mask.

        Returns:
            `(tasks, examples, outputs)`.
        """
        n_tasks = weights[0].shape[0]
        twin = self._twin(n_tasks)
        state = [
            _noise_state(theirs, ours.shape, noise)
            if ours.name == "seed_generator_state"
            # Frozen weights may have changed since the twin was made: take today's.
            else tf.broadcast_to(theirs.value, ours.shape)
            for ours, theirs in zip(
                twin.non_trainable_variables, self.network.non_trainable_variables, strict=True
            )
        ]
        return twin.stateless_call(weights, state, inputs, training=training)[0]

    def _twin(self, n_tasks):
        trainable = tuple(v.trainable for v in self.network.variables)  # may be frozen later
        key = (n_tasks, trainable)

        # Only in the first trace of a function may variables be made, and what calls us may be
        # traced for the second time: hence a function of our own.
        @tf.function(autograph=False)
        def make_twin():
            with tf.init_scope():
                if key not in self._twins:
                    self._twins[key] = task_batched(
                        self.network, n_tasks, batch_statistics=self.batch_statistics
                    )

        if key not in self._twins:
            with tf.init_scope():
                make_twin.get_concrete_function()
        return self._twins[key]


def _noise_state(variable, shape, noise):
    """The state of a seed generator after `noise` blocks of numbers, or of one for each task."""
    state = variable.value + tf.cast(noise, variable.dtype) * tf.constant([0, 1], variable.dtype)
    if len(shape) == 2:
        state += tf.range(shape[0], dtype=variable.dtype)[:, None] * [1, 0]
    return state
