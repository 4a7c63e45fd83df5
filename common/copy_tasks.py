"""To say what was shown: the copy and the repeat copy tasks of Graves et al. (2014), section 4.

All sequences of a task have the same number of steps, whatever their lengths: a sequence ends in
zeros that do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.bit_sequences import (
    Sequences,
    bits_at,
    check_range,
    flag,
    random_bits,
    split_seed,
    whole_numbers,
)

import tensorflow as tf


@dataclass(frozen=True)
class CopyTask:
    """Remember a sequence of random bits, and say it after the delimiter, with nothing to look at.

    Inputs are the bits and the delimiter's flag. Lengths are drawn uniformly.

    Args:
        shortest, longest: Range of the lengths, both included.
        bits: Bits of one element.

    Raises:
        UserError: A number is below 1, or the range is empty.
    """

    shortest: int = 1
    longest: int = 20
    bits: int = 8

    def __post_init__(self):
        check_range(self, "shortest", "longest")
        check_range(self, "bits")

    @property
    def inputs(self) -> int:
        return self.bits + 1

    @property
    def outputs(self) -> int:
        return self.bits

    @property
    def steps(self) -> int:
        return 2 * self.longest + 1

    def sample(self, seed, n_tasks, k_shot=1, n_query=1) -> Sequences:
        """Draws `n_tasks` sequences; the same seed, an int32 tensor (2,), gives the same ones."""
        length_seed, bits_seed = split_seed(seed, 2)
        lengths = whole_numbers(length_seed, (n_tasks, 1), self.shortest, self.longest)
        bits = random_bits(bits_seed, (n_tasks, self.longest, self.bits))
        step = tf.range(self.steps)[None]  # (1, steps)
        shown = bits_at(bits, step, step < lengths)
        asked = (step > lengths) & (step <= 2 * lengths)
        targets = bits_at(bits, step - lengths - 1, asked)
        inputs = tf.concat([shown, flag(step == lengths)], axis=-1)
        return Sequences(inputs, targets, tf.cast(asked, tf.float32))


@dataclass(frozen=True)
class RepeatCopyTask:
    """Say a sequence of random bits several times, and then that it is over.

    Inputs are the bits, the delimiter's flag, and at the same step the number of repeats, less its
    mean over its standard deviation in training. The last output is the end's flag.

    Args:
        shortest, longest: Range of the lengths, both included.
        fewest, most: Range of the number of repeats, both included.
        bits: Bits of one element.

    Raises:
        UserError: A number is below 1, or a range is empty.
    """

    shortest: int = 1
    longest: int = 10
    fewest: int = 1
    most: int = 10
    bits: int = 8

    def __post_init__(self):
        check_range(self, "shortest", "longest")
        check_range(self, "fewest", "most")
        check_range(self, "bits")

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits + 1

    @property
    def steps(self) -> int:
        return self.longest * (1 + self.most) + 2

    def sample(self, seed, n_tasks, k_shot=1, n_query=1) -> Sequences:
        """Draws `n_tasks` sequences; the same seed, an int32 tensor (2,), gives the same ones."""
        length_seed, repeat_seed, bits_seed = split_seed(seed, 3)
        lengths = whole_numbers(length_seed, (n_tasks, 1), self.shortest, self.longest)
        repeats = whole_numbers(repeat_seed, (n_tasks, 1), self.fewest, self.most)
        bits = random_bits(bits_seed, (n_tasks, self.longest, self.bits))
        step = tf.range(self.steps)[None]  # (1, steps)
        shown = bits_at(bits, step, step < lengths)
        delimiter = flag(step == lengths)
        inputs = [shown, delimiter, delimiter * _standardised(repeats)[..., None]]
        since = step - lengths - 1
        said = (since >= 0) & (since < lengths * repeats)
        end = since == lengths * repeats
        targets = tf.concat([bits_at(bits, since % lengths, said), flag(end)], axis=-1)
        return Sequences(tf.concat(inputs, -1), targets, tf.cast(said | end, tf.float32))


def _standardised(repeats):
    """1..10 repeats with mean 0 and variance 1, also where there are more of them."""
    return (tf.cast(repeats, tf.float32) - 5.5) / 8.25**0.5
