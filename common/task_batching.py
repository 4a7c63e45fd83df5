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

import inspect

from common.task_convolution import folded_form, share, unfold
from common.task_layers import TWINS, TaskLayer

import keras
import tensorflow as tf
from keras import tree

# Layers without weights that treat each channel, or each number, by itself: they may stay in the
# folded layout of `common.task_convolution`, where the tasks stand in the channel axis.
CHANNELWISE = (
    keras.layers.Activation,
    keras.layers.AveragePooling2D,
    keras.layers.Dropout,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling2D,
    keras.layers.ReLU,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
)


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
        if not layer.weights and _treats_examples_alone(layer):
            return MergedLayer(layer, n_tasks)
        twin = TWINS.get(type(layer))
        if twin is None or not twin.handles(layer):
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


class MappedLayer(TaskLayer):
    """A layer without a twin: its own `stateless_call`, vectorised over the tasks.

    Keras's normalisations stop the gradient of the mean inside the variance: the first derivative
    is right, the second is not. The twins of batch and layer normalisation are exact; a
    normalisation inside a mapped layer (`GroupNormalization`, or in a subclassed model) is not.
    """

    def __init__(self, layer, n_tasks, batch_statistics=False):
        super().__init__(layer, n_tasks, batch_statistics)
        self._original = lambda: layer  # in a closure, so that its weights are not ours as well
        self._takes = set(inspect.signature(layer.call).parameters)

    def call(self, *args, training=None, **options):
        layer = self._original()
        if self.batch_statistics and _normalizes_batches(layer):
            training = True
        if "training" in self._takes:
            options["training"] = training
        if "mask" in self._takes and options.get("mask") is None:
            options["mask"] = getattr(args[0], "_keras_mask", None)
        weights = [tf.convert_to_tensor(v) for v in self.trainable_variables]
        state = [tf.convert_to_tensor(v) for v in self.non_trainable_variables]

        def one_task(weights, state, args, options):
            return layer.stateless_call(weights, state, *args, **options)[0]

        has_task_axis = [True] * len(weights + state) + [
            _has_task_axis(value, self.n_tasks) for value in tree.flatten((args, options))
        ]
        return _map_over_tasks(one_task, (weights, state, args, options), has_task_axis)

    def compute_mask(self, args, masks=None):
        mask = masks[0] if isinstance(masks, tuple) and masks else masks
        return self._original().compute_mask(args[0], mask) if args else None


class MappedOperation(keras.Operation):
    """A function of `keras.ops`, such as `x + y`, vectorised over the tasks."""

    def __init__(self, operation, n_tasks):
        super().__init__(name=operation.name)
        self.operation, self.n_tasks = operation, n_tasks

    def symbolic_call(self, *args, **options):
        # Tensors of the graph have a task axis; numbers and arrays that stand in it have not.
        arguments = tree.flatten((args, options))
        self._has_task_axis = [isinstance(value, keras.KerasTensor) for value in arguments]
        return super().symbolic_call(*args, **options)

    def call(self, *args, **options):
        def one_task(args, options):
            return self.operation(*args, **options)

        return _map_over_tasks(one_task, (args, options), self._has_task_axis)


class MergedLayer(keras.layers.Layer):
    """A layer of Keras without weights: tasks and examples become one long batch."""

    def __init__(self, layer, n_tasks):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.n_tasks = n_tasks
        self.layer = type(layer).from_config(layer.get_config())
        self.supports_masking = True  # `self.layer` knows; see `_merge` and `_split`
        self._takes = set(inspect.signature(layer.call).parameters)
        self.built = True

    def build(self, *shapes):
        """Nothing is left to do: there are no weights."""

    def call(self, *args, training=None, **options):
        if "training" in self._takes:
            options["training"] = training
        if len(args) == 1 and isinstance(self.layer, CHANNELWISE):
            folded = folded_form(args[0])
            if folded is not None:
                return unfold(self.layer(folded, **options), self.n_tasks)
        args, options = tree.map_structure(self._merge, (args, options))
        return tree.map_structure(self._split, self.layer(*args, **options))

    def compute_mask(self, args, masks=None):
        """No other masks than those that come with the outputs."""

    def _merge(self, value):  # (tasks, examples, ...) -> (tasks * examples, ...)
        if not _has_task_axis(value, self.n_tasks):
            return value
        merged = tf.reshape(value, [-1, *_sizes(value)[2:]])
        return _with_mask(merged, value, self._merge)

    def _split(self, value):  # (tasks * examples, ...) -> (tasks, examples, ...)
        split = tf.reshape(value, [self.n_tasks, -1, *_sizes(value)[1:]])
        return _with_mask(split, value, self._split)


class MappedModel(keras.Model):
    """A subclassed model, whose layers cannot be seen from outside, as one mapped layer."""

    def __init__(self, network, n_tasks, batch_statistics=False):
        super().__init__(name=network.name)
        self.whole = MappedLayer(network, n_tasks, batch_statistics)
        self.built = True

    def call(self, *args, **options):
        return self.whole(*args, **options)


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


def _normalizes_batches(layer):
    layers = layer._flatten_layers() if hasattr(layer, "_flatten_layers") else [layer]
    return any(isinstance(part, keras.layers.BatchNormalization) for part in layers)


def _has_task_axis(value, n_tasks):
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) >= 2 and shape[0] == n_tasks


def _map_over_tasks(function, arguments, has_task_axis):
    """`function(*arguments)` for every task; arguments without a task axis are the same for all."""
    flat = tree.flatten(arguments)

    def one_task(tensors):
        tensors = iter(tensors)
        filled = [next(tensors) if has else value for has, value in zip(has_task_axis, flat)]
        return function(*tree.pack_sequence_as(arguments, filled))

    tensors = [value for value, has in zip(flat, has_task_axis) if has]
    if tensors[0].shape[0] == 1:  # `vectorized_map` would not vectorise, and make sparse gradients
        return tree.map_structure(lambda value: value[None], one_task([v[0] for v in tensors]))
    return tf.vectorized_map(one_task, tensors, warn=False)


def _with_mask(tensor, source, reshape):
    """The tensor, with the mask of its source."""
    mask = getattr(source, "_keras_mask", None)
    if mask is not None:
        tensor._keras_mask = reshape(mask)
    return tensor


def _sizes(tensor):
    """Sizes of the axes: integers where they are known, scalar tensors where not."""
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]


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
    """

    def __init__(self, network):
        self.network = network
        self._twins = {}

    def repeated_weights(self, n_tasks):
        """The network's weights once for every task, tensors `(n_tasks, *shape)`."""
        return [share(tf.convert_to_tensor(v), n_tasks) for v in self.network.trainable_variables]

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
                    self._twins[key] = task_batched(self.network, n_tasks, batch_statistics=True)

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
