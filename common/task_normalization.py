"""Twins of Keras's normalisations, with exact derivatives of any order.

Keras's own rest on `tf.nn.moments`, which stops the gradient of the mean inside the variance: the
first derivative is right, the second is not.
"""

from common.task_convolution import fold, folded_form, unfold
from common.task_layers import TaskLayer, per_channel

import keras
import tensorflow as tf


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
            centred = inputs - per_channel(self.weight("moving_mean"), inputs)
            variance = per_channel(self.weight("moving_variance"), inputs)
        if learning:
            mean = tf.reduce_mean(inputs - centred, axes)
            self._move("moving_mean", mean)
            self._move("moving_variance", variance)
        gamma, beta = per_channel(gamma, inputs), per_channel(beta, inputs)
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


class TaskGroupNormalization(TaskLayer):
    """`keras.layers.GroupNormalization` over the last axis, with its task's parameters."""

    @staticmethod
    def handles(layer):
        return layer.axis in (-1, layer.input_spec.ndim - 1)

    def call(self, inputs):
        channels, groups = inputs.shape[-1], self.config["groups"]
        parts = tf.concat([tf.shape(inputs)[:-1], [groups, channels // groups]], 0)
        grouped = tf.reshape(_precise(inputs), parts)  # (tasks, examples, ..., groups, channels)
        axes = [*range(2, len(inputs.shape) - 1), len(inputs.shape)]
        centred, variance = _centre_and_variance(grouped, axes)
        shape = [self.n_tasks] + [1] * (len(inputs.shape) - 2) + [groups, channels // groups]
        gamma, beta = (
            None if weight is None else tf.reshape(_precise(weight), shape)
            for weight in (self.weight("gamma"), self.weight("beta"))
        )
        outputs = _scale_and_shift(centred, variance, self.config["epsilon"], gamma, beta)
        return tf.cast(tf.reshape(outputs, tf.shape(inputs)), self.compute_dtype)


def _precise(tensor):
    """At least float32: statistics need the precision."""
    return tf.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))


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


NORMALIZATIONS = {
    keras.layers.BatchNormalization: TaskBatchNormalization,
    keras.layers.GroupNormalization: TaskGroupNormalization,
    keras.layers.LayerNormalization: TaskLayerNormalization,
}
