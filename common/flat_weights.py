"""The weights of many tasks as one long vector for each task, and back."""

import math

import tensorflow as tf


def flatten(tensors):
    """One row a task: `(tasks, coordinates)` from a list of `(tasks, *shape)`."""
    return tf.concat([tf.reshape(t, [t.shape[0], math.prod(t.shape[1:])]) for t in tensors], 1)


def unflatten(rows, variables):
    """The inverse: a list of `(tasks, *shape)`, with the shapes that the variables have."""
    sizes = [math.prod(v.shape) for v in variables]
    parts = tf.split(rows, sizes, axis=1)
    return [
        tf.reshape(part, [rows.shape[0], *v.shape])
        for part, v in zip(parts, variables, strict=True)
    ]
