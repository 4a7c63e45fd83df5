"""Attacks on images: small changes, made with the model's own gradient, that raise its loss.

To learn, a model goes down the gradient of its loss with respect to the *weights*, the data fixed.
An attacker goes up the gradient with respect to the *data*, the weights fixed. No pixel may move
by more than epsilon, so that a person sees the same image.

    x' = clip(x + epsilon sign(dL/dx))                          FGSM, Goodfellow et al. (2015)
    x <- clip(P(x + a sign(dL/dx))), again and again            PGD, Madry et al. (2018)

P moves each pixel back to within epsilon of where it was, `clip` to the range of the data. The
sign is what the bound asks for: among all changes of at most epsilon in each pixel, epsilon times
the sign raises a *linear* loss the most. FGSM trusts this line all the way; PGD looks at the
gradient again after each of several smaller steps, and so follows a loss that bends.

Goodfellow, Shlens, Szegedy (2015), arXiv:1412.6572; Madry, Makelov, Schmidt, Tsipras, Vladu
(2018), arXiv:1706.06083.

A pixel that the loss does not depend on has gradient 0, and sign(0) = 0: it stays. So does the
whole image if the gradient vanishes; such a model is not robust, its gradient is only of no use
to this attacker. Whoever reports robustness should therefore attack more than one way.
"""

from common.errors import UserError

import tensorflow as tf

PIXELS = (0.0, 1.0)


def fgsm(loss, x, epsilon, bounds=PIXELS):
    """The fast gradient sign method: one step of length epsilon in every pixel.

    Args:
        loss: Function from data like `x` to the loss, a tensor of any shape; it is summed. It
            may be that of adapted weights: `lambda x: losses(y, predict_with(fast_weights, x))`.
        x: Float tensor of any shape, within `bounds`.
        epsilon: The most that a pixel may change: a number, or a scalar tensor.
        bounds: The range of the data, `(low, high)`; None if it has none.

    Returns:
        x', a tensor like `x`. It counts as a constant: no gradient goes through the attack.
    """
    return tf.stop_gradient(_ascend(loss, x, x, epsilon, epsilon, bounds))


def pgd(loss, x, epsilon, steps=10, step_size=None, seed=None, bounds=PIXELS):
    """Projected gradient descent (ascent, here): FGSM in several steps, from a random start.

    Args:
        loss, x, epsilon, bounds: As for `fgsm`.
        steps: Number of steps.
        step_size: a, the length of a step; 2.5 epsilon / `steps` unless given. With
            `steps * step_size` of 2 epsilon or more, every point within epsilon is in reach.
        seed: Two integers that decide where within epsilon of x the attack starts; None starts
            at x itself.

    Returns:
        x', a tensor like `x`. It counts as a constant: no gradient goes through the attack.
    """
    size = 2.5 * epsilon / steps if step_size is None else step_size
    attacked = x
    if seed is not None:
        unit = tf.random.stateless_uniform(tf.shape(x), seed, -1.0, 1.0, tf.float32, alg="philox")
        attacked = _into(bounds, x + tf.cast(epsilon * unit, x.dtype))
    for _ in range(steps):
        attacked = _ascend(loss, attacked, x, size, epsilon, bounds)
    return tf.stop_gradient(attacked)


def check_epsilon(epsilon, name="epsilon"):
    """Refuses an epsilon that no image with pixels in 0..1 has a use for.

    Raises:
        UserError: If it is negative, above 1 or no number.
    """
    if not 0 <= epsilon <= 1:
        raise UserError(
            f"{name} must be between 0 and 1, the range of a pixel, got {epsilon}; "
            "0.1 is about what a person overlooks in images of ink on paper"
        )


def _ascend(loss, x, centre, size, epsilon, bounds):
    """A step of length `size` up the loss, then back to within epsilon of `centre`."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x)
    gradient = tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    x = x + tf.cast(size, x.dtype) * tf.sign(gradient)
    epsilon = tf.cast(epsilon, x.dtype)
    return _into(bounds, tf.clip_by_value(x, centre - epsilon, centre + epsilon))


def _into(bounds, x):
    return x if bounds is None else tf.clip_by_value(x, *bounds)
