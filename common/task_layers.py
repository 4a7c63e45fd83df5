"""Twins of Keras layers: the same layer for many tasks at once, with weights for each.

A twin takes inputs `(tasks, examples, ...)` and holds every weight of its layer with a task axis
in front. `common.task_batching` puts twins together to a model.
"""

from common.task_convolution import (
    fold,
    folded_form,
    grouped_convolution_works,
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
    """`keras.layers.Dense`: one batched matrix product."""

    handles = staticmethod(_plain_weights)

    def __init__(self, layer, n_tasks, batch_statistics=False):
        super().__init__(layer, n_tasks, batch_statistics)
        self.activation = layer.activation

    def call(self, inputs):
        kernel, bias = self.weight("kernel"), self.weight("bias")
        rows = tf.reshape(inputs, [self.n_tasks, -1, inputs.shape[-1]])
        outputs = rows @ kernel  # (tasks, rows, units)
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
        return _elementwise(self.activation, outputs)


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
        return _elementwise(self.activation, outputs)


class TaskBatchNormalization(TaskLayer):
    """`keras.layers.BatchNormalization` over the last axis, each task by its own statistics."""

    @staticmethod
    def handles(layer):
        return layer.axis in (-1, layer.input_spec.ndim - 1) and not getattr(layer, "renorm", False)

    def call(self, inputs, training=None, mask=None):
        gamma, beta = self.weight("gamma"), self.weight("beta")
        fusible = self.compute_dtype != "float64" and folded_form(inputs) is not None
        if self.batch_statistics and fusible:
            # Every channel of every task is normalised by itself: one fused operation for all.
            folded = fold(inputs)
            ones = tf.ones(folded.shape[-1:])
            gamma = ones if gamma is None else tf.reshape(gamma, [-1])
            beta = 0.0 * ones if beta is None else tf.reshape(beta, [-1])
            fused = tf.compat.v1.nn.fused_batch_norm(
                folded, gamma, beta, epsilon=self.config["epsilon"]
            )
            return unfold(fused[0], self.n_tasks)

        inputs = _precise(inputs)
        learning = training and self.trainable and not self.batch_statistics
        if learning or self.batch_statistics:
            axes = list(range(1, len(inputs.shape) - 1))
            centred, variance = _centre_and_variance(inputs, axes, mask)
        else:
            centred = inputs - _per_channel(self.weight("moving_mean"), inputs)
            variance = _per_channel(self.weight("moving_variance"), inputs)
        if learning:
            mean = tf.reduce_mean(inputs - centred, axes)
            self._move("moving_mean", mean)
            self._move("moving_variance", variance)
        gamma, beta = _per_channel(gamma, inputs), _per_channel(beta, inputs)
        outputs = _scale_and_shift(centred, variance, self.config["epsilon"], gamma, beta)
        return tf.cast(outputs, self.compute_dtype)

    def _move(self, name, value):
        moving = next(v for v in self.variables if v.name == name)
        momentum = self.config["momentum"]
        value = tf.reshape(value, moving.shape)
        moving.assign(moving * momentum + value * (1.0 - momentum))

    def weight(self, name):
        """As in `TaskLayer`, but always float32: statistics need the precision."""
        weight = next((v for v in self.variables if v.name == name), None)
        return None if weight is None else tf.convert_to_tensor(weight)


class TaskLayerNormalization(TaskLayer):
    """`keras.layers.LayerNormalization`: each example by itself, with its task's parameters."""

    @staticmethod
    def handles(layer):
        return not getattr(layer, "rms_scaling", False)

    def call(self, inputs):
        rank = len(inputs.shape)
        axes = self.config["axis"]
        axes = [axes] if isinstance(axes, int) else list(axes)
        # The layer counts its axes from (examples, ...), the twin from (tasks, examples, ...).
        axes = [axis % rank if axis < 0 else axis + 1 for axis in axes]
        shape = [self.n_tasks] + [inputs.shape[a] if a in axes else 1 for a in range(1, rank)]
        gamma, beta = (
            None if weight is None else tf.reshape(_precise(weight), shape)
            for weight in (self.weight("gamma"), self.weight("beta"))
        )
        centred, variance = _centre_and_variance(_precise(inputs), axes)
        outputs = _scale_and_shift(centred, variance, self.config["epsilon"], gamma, beta)
        return tf.cast(outputs, self.compute_dtype)


class TaskEmbedding(TaskLayer):
    """`keras.layers.Embedding`: look up in the task's own table."""

    handles = staticmethod(_plain_weights)

    def call(self, inputs):
        return tf.gather(self.weight("embeddings"), tf.cast(inputs, tf.int32), batch_dims=1)

    def compute_mask(self, inputs, mask=None):
        return keras.ops.not_equal(inputs, 0) if self.config["mask_zero"] else None


def _elementwise(function, plain):
    """Apply an element-wise function in the layout that is there already."""
    folded = folded_form(plain)
    return function(plain) if folded is None else unfold(function(folded), plain.shape[0])


def _shift_channels(plain, bias):
    """Add `(tasks, channels)` to maps `(tasks, examples, height, width, channels)`."""
    folded = folded_form(plain)
    if folded is None:
        return plain + _per_channel(bias, plain)
    # Not `bias_add`: oneDNN merges its gradient with that of the filter, which in a second
    # derivative can depend on it; TensorFlow then refuses the graph ("nodes in a cycle").
    return unfold(folded + tf.reshape(bias, [-1]), plain.shape[0])


def _precise(tensor):
    """At least float32: statistics need the precision."""
    return tf.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))


def _per_channel(weight, inputs):
    """Shape `(tasks, channels)` so that it broadcasts over `(tasks, examples, ..., channels)`."""
    if weight is None:
        return None
    ones = [1] * (len(inputs.shape) - 2)
    return tf.reshape(weight, [weight.shape[0], *ones, weight.shape[1]])


def _centre_and_variance(inputs, axes, mask=None):
    """`inputs - mean` and the biased variance over the axes, which stay with size 1."""
    if mask is not None:
        weights = tf.cast(mask, inputs.dtype)[..., None]
        mean, variance = tf.nn.weighted_moments(inputs, axes, weights, keepdims=True)
        return inputs - mean, variance
    centred = _centre(inputs, axes)
    return centred, _mean_square(centred, axes)


def _scale_and_shift(centred, variance, epsilon, gamma, beta):
    scale = tf.math.rsqrt(variance + epsilon)
    outputs = centred * (scale if gamma is None else scale * gamma)
    return outputs if beta is None else outputs + beta


# The two functions below are written out because TensorFlow's derivative of a mean makes, and
# then adds, a tensor as large as the input for every use; and the inner loop of meta-learning
# differentiates derivatives.


def _centre(inputs, axes):
    """`inputs - mean(inputs)`. It is a symmetric projection, so it is its own derivative."""

    @tf.custom_gradient
    def centre(inputs):
        return inputs - tf.reduce_mean(inputs, axes, keepdims=True), centre

    return centre(inputs)


def _mean_square(inputs, axes):
    """`mean(inputs ** 2)` over the axes, which stay with size 1."""

    @tf.custom_gradient
    def mean_square(inputs):
        result = tf.reduce_mean(tf.square(inputs), axes, keepdims=True)
        share = (
            2.0 * tf.cast(tf.size(result), result.dtype) / tf.cast(tf.size(inputs), result.dtype)
        )
        return result, lambda gradient: (gradient * share) * inputs

    return mean_square(inputs)


TWINS = {
    keras.layers.Dense: TaskDense,
    keras.layers.Conv2D: TaskConv2D,
    keras.layers.DepthwiseConv2D: TaskDepthwiseConv2D,
    keras.layers.BatchNormalization: TaskBatchNormalization,
    keras.layers.LayerNormalization: TaskLayerNormalization,
    keras.layers.Embedding: TaskEmbedding,
}
