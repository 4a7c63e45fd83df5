"""Where the heads of a machine look in its memory, and what they do there: equations 2 to 9.

Graves et al. (2014), arXiv:1410.5401, section 3. `memory` is `(batch, N, M)`: N rows of width M;
weightings are `(batch, heads, N)`, and each sums to 1.
"""

import common  # noqa: F401 - before TensorFlow, which it readies

import tensorflow as tf


def address(memory, previous, keys, strengths, gates, shifts, gammas):
    """Where the heads look: equations 5 to 9 one after the other.

    Args:
        memory: `(batch, N, M)`.
        previous: w_{t-1}, `(batch, heads, N)`.
        keys: k, `(batch, heads, M)`.
        strengths, gates, gammas: beta, g and gamma, `(batch, heads)`.
        shifts: s, `(batch, heads, 2 r + 1)`.

    Returns:
        w_t, `(batch, heads, N)`; rows sum to 1.
    """
    content = content_weightings(memory, keys, strengths)  # (5), (6)
    return sharpen(shift(interpolate(content, previous, gates), shifts), gammas)  # (7) to (9)


def cosine_similarity(memory, keys):
    """K[k, M(i)], equation 6: the cosine of the angle between key and row.

    A row or key shorter than 0.001 counts as shorter still: its cosine goes to 0 with its length,
    where the equation has 0 / 0, and the gradient stays finite.

    Args:
        memory: `(batch, N, M)`.
        keys: `(batch, heads, M)`.

    Returns:
        `(batch, heads, N)`, from -1 to 1.
    """
    rows, keys = (tf.math.l2_normalize(part, -1, epsilon=1e-6) for part in (memory, keys))
    return tf.matmul(keys, rows, transpose_b=True)


def content_weightings(memory, keys, strengths):
    """w_c, equation 5: a softmax of the similarities, sharper the greater the strength beta.

    Args:
        memory: `(batch, N, M)`.
        keys: k, `(batch, heads, M)`.
        strengths: beta, `(batch, heads)`, not negative.

    Returns:
        `(batch, heads, N)`; rows sum to 1.
    """
    return tf.nn.softmax(strengths[..., None] * cosine_similarity(memory, keys))


def interpolate(content, previous, gates):
    """w_g = g w_c + (1 - g) w_{t-1}, equation 7; `gates` g are `(batch, heads)` in 0..1."""
    return gates[..., None] * content + (1 - gates[..., None]) * previous


def shift(weightings, shifts):
    """w~(i) = sum_j w_g(j) s(i - j), equation 8, around the end: a circular convolution.

    Args:
        weightings: `(batch, heads, N)`.
        shifts: s, `(batch, heads, 2 r + 1)`: the shares of the shifts -r, ..., 0, ..., r.

    Returns:
        `(batch, heads, N)`.
    """
    reach = shifts.shape[-1] // 2
    moved = [tf.roll(weightings, offset, axis=-1) for offset in range(-reach, reach + 1)]
    return sum(shifts[..., k, None] * one for k, one in enumerate(moved))


def sharpen(weightings, gammas):
    """w(i) = w~(i)^gamma / sum_j w~(j)^gamma, equation 9.

    Computed as a softmax of gamma ln w~: neither a sum of powers that are all 0 in float32 nor
    the gradient of 0^gamma can then give NaN.

    Args:
        weightings: `(batch, heads, N)`, not negative.
        gammas: gamma, `(batch, heads)`, at least 1.

    Returns:
        `(batch, heads, N)`; rows sum to 1.
    """
    return tf.nn.softmax(gammas[..., None] * tf.math.log(tf.maximum(weightings, 1e-30)))


def write(memory, weightings, erase, add):
    """M(i) = M~(i) + w(i) a, equation 4, after M~(i) = M(i) [1 - w(i) e], equation 3.

    Args:
        memory: `(batch, N, M)`.
        weightings: Of the write heads, `(batch, heads, N)`.
        erase: e, `(batch, heads, M)` in 0..1.
        add: a, `(batch, heads, M)`.

    Returns:
        The memory after all heads have erased, and then all have added; `(batch, N, M)`.
    """
    for head in range(weightings.shape[1]):
        memory *= 1 - weightings[:, head, :, None] * erase[:, head, None, :]
    return memory + tf.matmul(weightings, add, transpose_a=True)


def read(memory, weightings):
    """r = sum_i w(i) M(i), equation 2: `(batch, heads, M)`."""
    return tf.matmul(weightings, memory)
