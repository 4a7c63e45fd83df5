"""How unevenly something is spread: over tasks (inequality measures), over classes (entropy).

The measures are those of incomes in economics. All of them are 0 where all values are equal, and
stay the same when all values are multiplied by one number. With r_i = l_i / mean(l) over M values:

    Theil                  mean(r ln r)
    generalised entropy    (mean(r^a) - 1) / (a (a - 1))     a = 1: Theil; a = 0: -mean(ln r)
    Atkinson               1 - mean(r^(1 - e))^(1 / (1 - e))     e = 1: 1 - geometric mean of r
    Gini                   sum_ij |r_i - r_j| / (2 M^2)
    variance of logarithms mean((ln r - mean(ln r))^2)

Values must not be negative; zeros are raised to a tiny positive number where a logarithm needs it.
"""

from common.errors import UserError

import tensorflow as tf


def theil(values):
    """The Theil index of `values`, from 0 to ln M; differentiable, as all of these.

    Args:
        values: Tensor or array `(M,)` of losses or other numbers that are not negative.

    Returns:
        A scalar tensor.

    Raises:
        UserError: Outside a graph, if `values` has another shape or holds a negative number.
    """
    r = _relative(values)
    return tf.reduce_mean(r * tf.math.log(r))


def generalised_entropy(values, a=2.0):
    """The generalised entropy GE(a); the larger a is, the more the largest values count.

    Args:
        values: As in `theil`.
        a: Any number; 1 gives the Theil index, 2 half the squared coefficient of variation.
    """
    if a == 1:
        return theil(values)
    r = _relative(values)
    if a == 0:
        return -tf.reduce_mean(tf.math.log(r))
    return (tf.reduce_mean(r**a) - 1) / (a * (a - 1))


def atkinson(values, e=0.5):
    """Atkinson's index, from 0 to 1; the larger the aversion e, the more the smallest values count.

    Args:
        values: As in `theil`.
        e: A number of at least 0. With 1 the index is 1 - exp(-GE(0)).
    """
    if e < 0:
        raise UserError(f"the aversion e of Atkinson's index must be at least 0, got {e}")
    r = _relative(values)
    if e == 1:
        return 1 - tf.exp(tf.reduce_mean(tf.math.log(r)))
    return 1 - tf.reduce_mean(r ** (1 - e)) ** (1 / (1 - e))


def gini(values):
    """The Gini coefficient, from 0 to 1; ties add nothing to its gradient."""
    r = _relative(values)
    return tf.reduce_mean(tf.abs(r[:, None] - r)) / 2


def variance_of_logs(values):
    """The variance of the logarithms; it weighs a factor alike whether it is above or below."""
    return tf.math.reduce_variance(tf.math.log(_relative(values)))


MEASURES = {
    "theil": theil,
    "generalised-entropy": generalised_entropy,
    "atkinson": atkinson,
    "gini": gini,
    "variance-of-logs": variance_of_logs,
}


def entropy(logits):
    """The entropy of predicted classes in nats, from 0 (sure) to ln n_way (all alike).

    Args:
        logits: `(..., n_way)`.

    Returns:
        `(...)`, float32 or float64.
    """
    if logits.dtype != tf.float64:
        logits = tf.cast(logits, tf.float32)
    log_p = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(log_p) * log_p, axis=-1)


def lorenz_curve(values, points=21):
    """Which share of the sum the smallest values have; the diagonal if all are equal.

    Args:
        values: As in `theil`.
        points: Number of points of the curve.

    Returns:
        A tensor `(points,)` from 0 to 1: the share of the smallest 0, 1 / (points - 1), ..., 1 of
        the values, those between two values by a straight line.
    """
    r = tf.sort(_relative(values))
    shares = tf.concat([[0.0], tf.cumsum(tf.cast(r, tf.float32))], axis=0)
    at = tf.linspace(0.0, 1.0, points) * float(len(r))
    below = tf.cast(tf.minimum(tf.floor(at), float(len(r) - 1)), tf.int32)
    low, high = tf.gather(shares, below), tf.gather(shares, below + 1)
    return (low + (high - low) * (at - tf.cast(below, tf.float32))) / shares[-1]


def _relative(values):
    """`values` divided by their mean, each at least tiny: r."""
    values = tf.convert_to_tensor(values)
    if not values.dtype.is_floating:
        values = tf.cast(values, tf.float32)
    if values.shape.rank != 1 or values.shape[0] == 0:
        raise UserError(f"expected values of shape (M,), found {tuple(values.shape)}")
    if tf.executing_eagerly() and tf.reduce_any(values < 0):
        raise UserError(
            "an inequality measure needs values of at least 0, found "
            f"{float(tf.reduce_min(values))}; give it losses, not returns"
        )
    values = tf.maximum(values, tf.constant(1e-30, values.dtype))
    return values / tf.reduce_mean(values)
