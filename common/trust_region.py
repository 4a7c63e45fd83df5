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

    def step(self, outputs, loss, divergence, variables):
        """Moves the variables, or leaves them where they are if no step length would do.

        Args:
            outputs: A function without arguments that reads the variables and returns all that
                loss and divergence depend on, a tensor: a policy's outputs.
            loss: A function from the outputs to a scalar.
            divergence: A function from the outputs to the mean divergence from the outputs as
                they are now, a scalar; 0 now, and never less.
            variables: A list of Keras variables.

        Returns:
            A dictionary of scalars: `loss` and `kl` after the step, the `improvement` of the loss,
            and `accepted`, 1 or 0.
        """
        values = [variable.value for variable in variables]
        old_loss, gradient, product = local_model(outputs, loss, divergence, values, self.damping)
        direction = conjugate_gradients(product, gradient, self.cg_steps)
        full = step_scale(direction, product(direction), self.max_kl) * direction

        def evaluate():
            then = outputs()
            return loss(then), divergence(then)

        report = self._search(evaluate, variables, old_loss, full)
        self.iterations.assign_add(1)
        return report

    def _search(self, evaluate, variables, old_loss, full):
        """The longest of the steps that lowers the loss and keeps within `max_kl`."""
        old = [tf.identity(variable.value) for variable in variables]

        def try_length(attempt, *_):
            length = tf.cast(self.shrink, full.dtype) ** tf.cast(attempt, full.dtype)
            for variable, before, change in zip(variables, old, unflat(length * full, old)):
                variable.assign(before - change)
            loss, divergence = evaluate()
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


def local_model(outputs, loss, divergence, values, damping=0.0):
    """What a step looks at: the loss, its gradient, and the curvature of the divergence.

    Args:
        outputs, loss, divergence: As for `TrustRegion.step`.
        values: The tensors that `outputs` depends on: the values of the variables.
        damping: Added to the diagonal of the Hessian.

    Returns:
        The loss; its gradient, one vector `(n,)`; and a function from a vector to the product of
        the divergence's Hessian and it, exact, to be called as often as wanted.
    """
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(values)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(values)
            now = outputs()
        any_gradient = tf.zeros_like(now)
        outer.watch(any_gradient)
        pulled_back = _gradient(inner, now, values, any_gradient)
    old_loss, slope = _value_and_gradient(loss, now)
    gradient = flat(_gradient(inner, now, values, slope))

    def product(vector):
        # The slope of the divergence is 0 now. So with J the derivative of the outputs by the
        # values, and M the divergence's second derivative by the outputs, the Hessian is J' M J.
        # J v is had from J' u, which is linear in u: it is the derivative of that by u, along v.
        along = _gradient(outer, pulled_back, any_gradient, unflat(vector, values))
        with tf.GradientTape() as tape:
            tape.watch(now)
            _, slope = _value_and_gradient(divergence, now)
        curved = _gradient(tape, slope, now, along)
        return flat(_gradient(inner, now, values, curved)) + damping * vector

    return old_loss, gradient, product


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

    def improve(step, solution, residual, direction, square):
        image = product(direction)
        rate = square / tf.reduce_sum(direction * image)
        residual -= rate * image
        new_square = tf.reduce_sum(residual**2)
        new_direction = residual + new_square / square * direction
        return step + 1, solution + rate * direction, residual, new_direction, new_square

    _, solution, *_ = tf.while_loop(
        lambda step, *found: (step < steps) & (found[-1] >= tolerance),
        improve,
        (0, tf.zeros_like(target), target, target, tf.reduce_sum(target**2)),
    )
    return solution


def flat(tensors):
    """The numbers of all tensors in one vector."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def unflat(vector, like):
    """The inverse of `flat`: tensors of the shapes of those in `like`."""
    sizes = [tensor.shape.num_elements() for tensor in like]
    parts = tf.split(vector, sizes)
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def _value_and_gradient(function, at):
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = function(at)
    return value, _gradient(tape, value, at)


def _gradient(tape, target, sources, output_gradients=None):
    return tape.gradient(
        target, sources, output_gradients, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
