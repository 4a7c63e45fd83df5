"""Adam as a function, for inner loops: its state belongs to a task, not to a model."""

import tensorflow as tf


def adam_updates(gradients, squares, count, rate, decay=0.999, epsilon=1e-7):
    """Adam without momentum, beta1 = 0, of Kingma and Ba (2015): what to subtract.

    Args:
        gradients: List of tensors.
        squares: The running means of their squares, aligned; zeros at first.
        count: Number of this step, from 1.
        rate: alpha.
        decay: beta2.
        epsilon: Added to the root.

    Returns:
        `(updates, squares)`, both aligned with the gradients.
    """
    squares = [decay * v + (1 - decay) * g**2 for v, g in zip(squares, gradients, strict=True)]
    rate *= tf.sqrt(1 - decay ** tf.cast(count, tf.float32))  # the squares start from zero
    return [rate * g / (tf.sqrt(v) + epsilon) for g, v in zip(gradients, squares)], squares
