"""Twins of Keras layers: the same layer for many tasks at once, with weights for each.

A twin takes inputs `(tasks, examples, ...)` and holds every weight of its layer with a task axis
in front. `common.task_batching` puts twins together to a model; those of the normalisations are in
`common.task_normalization`.
"""

from common.task_convolution import (
    fold,
    folded_form,
    grouped_convolution_works,
    shared_for_good,
    task_convolution,
    unfold,
)

import keras
import tensorflow as tf


class TaskLayer(keras.layers.Layer):
    """A layer with one set of weights a task.

    Its weights are those of `layer`, in the same order and with the same names, each
    `(n_tasks, *shape)` and at first equal to the layer's. Subclasses say what it computes.

    Args:
        layer: The built Keras layer to make a twin of; it is read, not kept.
        n_tasks: Number of tasks.
        batch_statistics: Whether batch normalisation uses the statistics of its own batch even
            when not training, as MAML does.
    """

    def __init__(self, layer, n_tasks, batch_statistics=False):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.n_tasks = n_tasks
        self.batch_statistics = batch_statistics
        self.config = layer.get_config()
        self.supports_masking = layer.supports_masking
        for variable in layer.variables:
            weight = self.add_weight(
                shape=(n_tasks, *variable.shape),
                initializer="zeros",
                dtype=variable.dtype,
                trainable=variable.trainable,
                autocast=False,  # `weight` casts
                name=variable.name,
            )
            weight.assign(tf.broadcast_to(variable.value, weight.shape))
        self.trainable = layer.trainable
        self.built = True

    @staticmethod
    def handles(layer) -> bool:
        """Whether the twin computes what `layer` does, with the options that `layer` has."""
        return True

    def build(self, *shapes):
        """Nothing is left to do: the weights came with the layer."""

    def weight(self, name):
        """The weight of that name, `(n_tasks, ...)`, in the compute dtype, or None."""
        for variable in self.variables:
            if variable.name == name:
                return tf.cast(variable, self.compute_dtype)
        return None


def _plain_weights(layer):
    """Whether the kernel is just the kernel: neither quantised nor with a low-rank addition."""
    return layer.quantization_mode is None and not getattr(layer, "lora_enabled", False)


class TaskDense(TaskLayer):
    """`keras.layers.Dense`: one batched matrix product, or a plain one if tasks share a kernel."""

    handles = staticmethod(_plain_weights)

    def __init__(self, layer, n_tasks, batch_statistics=False):
        super().__init__(layer, n_tasks, batch_statistics)
        self.activation = layer.activation

    def call(self, inputs):
        kernel, bias = self.weight("kernel"), self.weight("bias")
        rows = tf.reshape(inputs, [self.n_tasks, -1, inputs.shape[-1]])
        shared = shared_for_good(kernel)
        if shared is None:
            outputs = rows @ kernel  # (tasks, rows, units)
        else:  # one product for the rows of all tasks
            outputs = tf.reshape(rows, [-1, rows.shape[-1]]) @ shared
            outputs = tf.reshape(outputs, [self.n_tasks, -1, shared.shape[-1]])
        if bias is not None:
            outputs += bias[:, None, :]
        outputs = tf.reshape(outputs, [self.n_tasks, -1, *inputs.shape[2:-1], kernel.shape[-1]])
        return self.activation(outputs)


class TaskConv2D(TaskLayer):
    """`keras.layers.Conv2D`: see `common.task_convolution`."""

    def __init__(self, layer, n_tasks, batch_statistics=False):
        super().__init__(layer, n_tasks, batch_statistics)
        self.activation = layer.activation

    @staticmethod
    def handles(layer):
        undilated = max(layer.dilation_rate) == 1 and grouped_convolution_works(
            tf.as_dtype(layer.compute_dtype)
        )
        groups = layer.groups == 1 or undilated
        return layer.data_format == "channels_last" and groups and _plain_weights(layer)

    def call(self, inputs):
        options = [self.config[key] for key in ("strides", "padding", "dilation_rate", "groups")]
        outputs = task_convolution(inputs, self.weight("kernel"), *options)
        bias = self.weight("bias")
        if bias is not None:
            outputs = _shift_channels(outputs, bias)
        return _activate(self.activation, outputs)


class TaskDepthwiseConv2D(TaskLayer):
    """`keras.layers.DepthwiseConv2D`: in the folded layout it is one over all tasks' channels."""

    def __init__(self, layer, n_tasks, batch_statistics=False):
        super().__init__(layer, n_tasks, batch_statistics)
        self.activation = layer.activation

    @staticmethod
    def handles(layer):
        return layer.data_format == "channels_last"

    def call(self, inputs):
        kernel, bias = self.weight("kernel"), self.weight("bias")
        _, height, width, channels, multiplier = kernel.shape
        kernel = tf.reshape(
            tf.transpose(kernel, [1, 2, 0, 3, 4]),
            [height, width, self.n_tasks * channels, multiplier],
        )
        outputs = tf.nn.depthwise_conv2d(
            fold(inputs),
            kernel,
            [1, *self.config["strides"], 1],
            self.config["padding"].upper(),
            dilations=self.config["dilation_rate"],
        )
        outputs = unfold(outputs, self.n_tasks)
        if bias is not None:
            outputs = _shift_channels(outputs, bias)
        return _activate(self.activation, outputs)


class TaskEmbedding(TaskLayer):
    """`keras.layers.Embedding`: look up in the task's own table."""

    handles = staticmethod(_plain_weights)

    def call(self, inputs):
        return tf.gather(self.weight("embeddings"), tf.cast(inputs, tf.int32), batch_dims=1)

    def compute_mask(self, inputs, mask=None):
        return keras.ops.not_equal(inputs, 0) if self.config["mask_zero"] else None


def is_elementwise(function):
    """Whether an activation treats each number by itself: `softmax`, for one, does not."""
    return function in ELEMENTWISE


def _activate(function, plain):
    """Apply an activation, an element-wise one in the layout that is there already."""
    folded = folded_form(plain) if is_elementwise(function) else None
    return function(plain) if folded is None else unfold(function(folded), plain.shape[0])


def _shift_channels(plain, bias):
    """Add `(tasks, channels)` to maps `(tasks, examples, height, width, channels)`."""
    folded = folded_form(plain)
    if folded is None:
        return plain + per_channel(bias, plain)
    # Not `bias_add`: oneDNN merges its gradient with that of the filter, which in a second
    # derivative can depend on it; TensorFlow then refuses the graph ("nodes in a cycle").
    return unfold(folded + tf.reshape(bias, [-1]), plain.shape[0])


def per_channel(weight, inputs):
    """Shape `(tasks, channels)` so that it broadcasts over `(tasks, examples, ..., channels)`."""
    if weight is None:
        return None
    ones = [1] * (len(inputs.shape) - 2)
    return tf.reshape(weight, [weight.shape[0], *ones, weight.shape[1]])


ELEMENTWISE = {
    keras.activations.get(name)
    for name in (
        "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh",
        "leaky_relu", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus",
        "softsign", "tanh",
    )
}  # fmt: skip

LAYERS = {
    keras.layers.Dense: TaskDense,
    keras.layers.Conv2D: TaskConv2D,
    keras.layers.DepthwiseConv2D: TaskDepthwiseConv2D,
    keras.layers.Embedding: TaskEmbedding,
}
