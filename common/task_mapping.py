"""Layers and operations that need no twin of their own, with a task axis.

What has weights, or may look at several examples at once, is mapped over the tasks; a layer of
Keras without weights sees tasks and examples merged to one long batch. `common.task_batching`
puts them together to a model.
"""

import inspect

from common.task_convolution import folded_form, unfold
from common.task_layers import TaskLayer, is_elementwise

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


class MappedLayer(TaskLayer):
    """A layer without a twin: its own `stateless_call`, vectorised over the tasks.

    Keras's normalisations stop the gradient of the mean inside the variance: the first derivative
    is right, the second is not. Their twins (`common.task_normalization`) are exact; one inside a
    mapped layer, such as a subclassed model, is not.
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
        activation = getattr(layer, "activation", None)
        self._channelwise = isinstance(layer, CHANNELWISE) and (
            activation is None or is_elementwise(activation)
        )
        self.built = True

    def build(self, *shapes):
        """Nothing is left to do: there are no weights."""

    def call(self, *args, training=None, **options):
        if "training" in self._takes:
            options["training"] = training
        if len(args) == 1 and self._channelwise:
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
