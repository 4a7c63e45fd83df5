"""Trust-region steps: as far down the loss as the policy may change (Schulman et al. 2015).

arXiv:1502.05477, appendix C: the direction s solves F s = g, with g the gradient of the loss and F
the Hessian of the mean KL divergence from the old policy; the step is scaled so that the quadratic
model of the divergence is `max_kl`, and shortened until loss and divergence are right.
"""

import keras
import tensorflow as tf


class TrustRegion(keras.optimizers.Optimizer):
    """An optimizer that is asked for `step`, because a gradient alone is not enough for it.

    It counts its steps in `iterations` and is saved with its model like any Keras optimizer.

    Args:
        max_kl: delta, the largest mean divergence of a step.
        cg_steps: Steps of conjugate gradients.
        damping: Added to the diagonal of F.
        backtracks: Number of step lengths tried.
        shrink: Ratio of each length to the one before.
    """

    def __init__(self, max_kl=0.01, cg_steps=10, damping=1e-5, backtracks=15, shrink=0.8):
        super().__init__(learning_rate=1.0, name="trust_region")
        self.max_kl, self.cg_steps, self.damping = max_kl, cg_steps, damping
        self.backtracks, self.shrink = backtracks, shrink

    def step(self, objective, variables):
        """Moves the variables, or leaves them where they are if no step length would do.

        Args:
            objective: A function without arguments that reads the variables and returns the loss
                and the mean KL divergence from the old policy, two scalars.
            variables: A list of Keras variables.

        Returns:
            A dictionary of scalars: `loss` and `kl` after the step, the `improvement` of the loss,
            and `accepted`, 1 or 0.
        """
        values = [variable.value for variable in variables]
        with tf.GradientTape(persistent=True) as second:
            with tf.GradientTape(persistent=True) as first:
                loss, divergence = objective()
            slopes = _gradient(first, divergence, values)
        gradient = flat(_gradient(first, loss, values))

        def hessian_product(vector):
            products = second.gradient(
                slopes, values, unflat(vector, values), unconnected_gradients="zero"
            )
            return flat(products) + self.damping * vector

        direction = conjugate_gradients(hessian_product, gradient, self.cg_steps)
        full = step_scale(direction, hessian_product(direction), self.max_kl) * direction
        report = self._search(objective, variables, loss, full)
        self.iterations.assign_add(1)
        return report

    def _search(self, objective, variables, old_loss, full):
        """The longest of the steps that lowers the loss and keeps within `max_kl`."""
        old = [tf.identity(variable.value) for variable in variables]

        def try_length(attempt, *_):
            length = tf.cast(self.shrink, full.dtype) ** tf.cast(attempt, full.dtype)
            for variable, before, change in zip(variables, old, unflat(length * full, old)):
                variable.assign(before - change)
            loss, divergence = objective()
            fine = (loss < old_loss) & (divergence <= self.max_kl)  # NaN is not
            return attempt + 1, fine, loss, divergence

        _, fine, loss, divergence = tf.while_loop(
            lambda attempt, fine, *_: ~fine & (attempt < self.backtracks),
            try_length,
            (0, tf.constant(False), old_loss, tf.zeros_like(old_loss)),
        )
        for variable, before in zip(variables, old):
            variable.assign(tf.where(fine, variable.value, before))
        loss = tf.where(fine, loss, old_loss)
        divergence = tf.where(fine, divergence, 0.0)
        accepted = tf.cast(fine, loss.dtype)
        return {
            "loss": loss, "kl": divergence, "improvement": old_loss - loss, "accepted": accepted
        }  # fmt: skip


def step_scale(direction, product, max_kl):
    """sqrt(2 delta / s F s): the length of s at which the quadratic model is delta."""
    curvature = tf.reduce_sum(direction * product)
    return tf.where(curvature > 0, tf.sqrt(2 * max_kl / tf.maximum(curvature, 1e-30)), 0.0)


def conjugate_gradients(product, target, steps=10, tolerance=1e-10):
    """Solves F s = target for a symmetric, positive definite F known by its products.

    Args:
        product: A function from a vector to F times it.
        target: `(n,)`.
        steps: Largest number of products.
        tolerance: It rests where the squared residual is less than this.

    Returns:
        s, `(n,)`.
    """
    solution, residual, direction = tf.zeros_like(target), target, target
    square = tf.reduce_sum(residual**2)
    for _ in range(steps):
        image = product(direction)
        going = square >= tolerance
        rate = tf.where(going, square / tf.reduce_sum(direction * image), 0.0)
        solution += rate * direction
        residual -= rate * image
        new_square = tf.reduce_sum(residual**2)
        direction = tf.where(going, residual + new_square / square * direction, direction)
        square = tf.where(going, new_square, square)
    return solution


def flat(tensors):
    """The numbers of all tensors in one vector."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def unflat(vector, like):
    """The inverse of `flat`: tensors of the shapes of those in `like`."""
    sizes = [tensor.shape.num_elements() for tensor in like]
    parts = tf.split(vector, sizes)
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def _gradient(tape, target, sources):
    return tape.gradient(target, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
