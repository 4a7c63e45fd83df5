"""Sequences of bits to answer with sequences of bits: `Sequences`, and what draws their parts."""

from __future__ import annotations

from typing import Any, NamedTuple

from common.errors import UserError

import tensorflow as tf


class Sequences(NamedTuple):
    """What a machine sees and what it should say, float32; the first axis is the sequence.

    Attributes:
        inputs: `(sequences, steps, task.inputs)`.
        targets: Bits `(sequences, steps, task.outputs)`, 0 where nothing counts.
        mask: `(sequences, steps)`, 1 at the steps at which the outputs count.
    """

    inputs: Any
    targets: Any
    mask: Any


def split_seed(seed, n):
    """`n` independent seeds, each an int32 tensor (2,)."""
    return tf.unstack(tf.random.split(seed, n, alg="philox"))


def uniform(seed, shape):
    """Random numbers in [0, 1)."""
    return tf.random.stateless_uniform(shape, seed, alg="philox")


def whole_numbers(seed, shape, low, high):
    """Random int32 numbers from `low` to `high`, both included."""
    return tf.random.stateless_uniform(shape, seed, low, high + 1, tf.int32, alg="philox")


def random_bits(seed, shape):
    """Random zeros and ones, float32."""
    return tf.cast(whole_numbers(seed, shape, 0, 1), tf.float32)


def bits_at(bits, positions, present):
    """Of each sequence the bits at `positions` (sequences, steps), and 0 where not `present`."""
    positions = tf.broadcast_to(positions, tf.shape(present))
    positions = tf.clip_by_value(positions, 0, bits.shape[1] - 1)
    return tf.gather(bits, positions, batch_dims=1) * flag(present)


def flag(where):
    """1 where it is so and 0 elsewhere, float32 with an axis of one channel behind."""
    return tf.cast(where, tf.float32)[..., None]


def check_range(task, *names, minimum=1):
    """Raises `UserError` unless the fields called `names` are ordered and at least `minimum`."""
    values = [getattr(task, name) for name in names]
    if values != sorted(values) or values[0] < minimum:
        words = " and ".join(f"{name}={value}" for name, value in zip(names, values))
        order = f" and {names[0]} <= {names[1]}" if len(names) > 1 else ""
        raise UserError(f"expected whole numbers of at least {minimum}{order}, got {words}")
