"""Layers through which a few numbers, the context, tell a network which task it is facing.

Each layer owns a weight called `context`, which is 0 at first, and ordinary weights which say what
the context does. A learner that adapts nothing but the context (Zintgraf et al. 2019,
arXiv:1810.03642) thus works with a plain Keras model. With the context at 0 the network is as if
it had none.
"""

from common.errors import UserError
from common.task_layers import TaskLayer, per_channel

import keras


class _Context(keras.layers.Layer):
    """A layer with a context of `size` numbers."""

    def __init__(self, size, **options):
        super().__init__(**options)
        if not isinstance(size, int) or size < 1:
            raise UserError(f"A context must have at least 1 number; got {size!r}.")
        self.size = size

    def build(self, input_shape):
        self.context = self.add_weight(name="context", shape=(self.size,), initializer="zeros")

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("meta_learning")
class AppendContext(_Context):
    """Appends the context to the features of every example.

    `(examples, features)` becomes `(examples, features + size)`: the weights of the next layer say
    what the context does.

    Args:
        size: Numbers in the context.

    Raises:
        UserError: If the size is less than 1.
    """

    def call(self, inputs):
        return _append(self.context, inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + self.size)


@keras.saving.register_keras_serializable("meta_learning")
class FiLM(_Context):
    """Scales and shifts each channel by a linear function of the context.

    h -> gamma * h + beta with (gamma, beta) = context @ kernel + bias, where the bias starts at
    gamma = 1, beta = 0, and the kernel not at 0: the context would have no gradient then, and the
    kernel, as the context is 0, none either.

    Args:
        size: Numbers in the context.
        kernel_initializer: Of the kernel, `(size, 2 * channels)`.

    Raises:
        UserError: If the size is less than 1.
    """

    def __init__(self, size, kernel_initializer="glorot_uniform", **options):
        super().__init__(size, **options)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        super().build(input_shape)
        channels = input_shape[-1]
        shape = (self.size, 2 * channels)
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer
        )
        self.scale = self.add_weight(name="scale", shape=(channels,), initializer="ones")
        self.shift = self.add_weight(name="shift", shape=(channels,), initializer="zeros")

    def call(self, inputs):
        scale, shift = keras.ops.split(self.context @ self.kernel, 2)
        return (scale + self.scale) * inputs + (shift + self.shift)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "kernel_initializer": initializer}


def _append(context, inputs):
    """Context `(..., size)`, and inputs `(..., examples, features)` to have it appended."""
    shape = (*keras.ops.shape(inputs)[:-1], context.shape[-1])
    context = keras.ops.expand_dims(context, -2)
    return keras.ops.concatenate([inputs, keras.ops.broadcast_to(context, shape)], axis=-1)


class TaskAppendContext(TaskLayer):
    """`AppendContext`, each task its own."""

    def call(self, inputs):
        return _append(self.weight("context"), inputs)


class TaskFiLM(TaskLayer):
    """`FiLM`, each task by its own context."""

    def call(self, inputs):
        film = (self.weight("context")[:, None] @ self.weight("kernel"))[:, 0]
        scale, shift = keras.ops.split(film, 2, axis=-1)  # (tasks, channels) each
        scale, shift = scale + self.weight("scale"), shift + self.weight("shift")
        return per_channel(scale, inputs) * inputs + per_channel(shift, inputs)


CONTEXTS = {AppendContext: TaskAppendContext, FiLM: TaskFiLM}
