"""Algorithms to learn from examples: copying, repeated copying, associative recall.

The tasks of Graves et al. (2014), arXiv:1410.5401, section 4.
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
    uniform,
    whole_numbers,
)
from common.copy_tasks import CopyTask, RepeatCopyTask
from common.episodes import EpisodeSampler
from common.errors import UserError

import tensorflow as tf


@dataclass(frozen=True)
class AssociativeRecallTask:
    """See a list of items and one of them again: say the item that came after it.

    An item is `rows` rows of bits. Inputs are the bits, the flag before each item of the list, and
    the flag before and after the item that is asked for, which is never the last of the list.

    Args:
        fewest, most: Range of the number of items, both included.
        bits: Bits of one row.
        rows: Rows of an item.

    Raises:
        UserError: A number is below 1, there are fewer than two items, or the range is empty.
    """

    fewest: int = 2
    most: int = 6
    bits: int = 6
    rows: int = 3

    def __post_init__(self):
        check_range(self, "fewest", "most", minimum=2)
        check_range(self, "bits")
        check_range(self, "rows")

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits

    @property
    def steps(self) -> int:
        return (1 + self.rows) * self.most + 2 * self.rows + 2

    def sample(self, seed, n_tasks, k_shot=1, n_query=1) -> Sequences:
        """Draws `n_tasks` sequences; the same seed, an int32 tensor (2,), gives the same ones."""
        number_seed, query_seed, bits_seed = split_seed(seed, 3)
        numbers = whole_numbers(number_seed, (n_tasks, 1), self.fewest, self.most)
        queries = tf.cast(uniform(query_seed, (n_tasks, 1)) * tf.cast(numbers - 1, tf.float32),
                          tf.int32)  # fmt: skip
        bits = random_bits(bits_seed, (n_tasks, self.most * self.rows, self.bits))
        step, rows = tf.range(self.steps)[None], self.rows
        item, row = step // (1 + rows), step % (1 + rows) - 1  # row -1 is the flag before it
        listed = item < numbers
        since = step - numbers * (1 + rows)  # 0 and 1 + rows are the flags around the query
        queried = (since >= 1) & (since <= rows)
        asked = (since >= 2 + rows) & (since < 2 + 2 * rows)
        shown = bits_at(bits, item * rows + row, listed & (row >= 0))
        shown += bits_at(bits, queries * rows + since - 1, queried)
        targets = bits_at(bits, (queries + 1) * rows + since - 2 - rows, asked)
        flags = [flag(listed & (row < 0)), flag((since == 0) | (since == 1 + rows))]
        return Sequences(tf.concat([shown, *flags], -1), targets, tf.cast(asked, tf.float32))


TASKS = {"copy": 20, "repeat-copy": 10, "recall": 6}  # with the paper's longest


def new_task(
    name: str, longest: int | None = None
) -> CopyTask | RepeatCopyTask | AssociativeRecallTask:
    """The task as it is trained on.

    Args:
        name: copy, repeat-copy or recall.
        longest: The greatest length, or number of items to recall from; by default the paper's.

    Raises:
        UserError: There is no such task, or its longest is too short.
    """
    if name not in TASKS:
        raise UserError(f"--dataset must be {' or '.join(TASKS)}; got {name!r}")
    longest, least = TASKS[name] if longest is None else longest, 2 if name == "recall" else 1
    if longest < least:
        raise UserError(f"--longest must be at least {least} for {name}; got {longest}")
    if name == "copy":
        return CopyTask(longest=longest)
    if name == "repeat-copy":
        return RepeatCopyTask(longest=longest)
    return AssociativeRecallTask(most=longest)


def harder(
    name: str, longest: int | None = None
) -> dict[str, CopyTask | RepeatCopyTask | AssociativeRecallTask]:
    """Tests at the end of the training's range and beyond it, by what is greater than there."""
    n = TASKS[name] if longest is None else longest
    if name == "copy":
        return {f"length_{m}": CopyTask(m, m) for m in (n, 2 * n, 4 * n, 6 * n)}
    if name == "repeat-copy":
        sizes = {f"length_{n}": (n, 10), "repeats_20": (n, 20), f"length_{2 * n}": (2 * n, 10)}
        return {what: RepeatCopyTask(m, m, k, k) for what, (m, k) in sizes.items()}
    numbers = (n, 4 * n // 3, 2 * n, 5 * n // 2)  # 6, 8, 12 and 15 in the paper's range
    return {f"items_{m}": AssociativeRecallTask(m, m) for m in numbers}


def sampler(task, seed: int = 0) -> EpisodeSampler:
    """Batches of `Sequences` for training (`dataset`) and for evaluation (`fixed`)."""
    return EpisodeSampler(task, n_way=1, k_shot=1, n_query=1, seed=seed)
