"""Pairs that stay the same: for evaluation, and for the book's split of pairs, not of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from common.datasets import FewShotData
from common.errors import UserError

import numpy as np

MOST_PAIRED = 1500  # items among which all pairs are listed; of more, as many are drawn


class Pairs(NamedTuple):
    """Pairs by the numbers of their items: int `(pairs,)`, `(pairs,)`, and 1 or 0 `(pairs,)`."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray

    def part(self, chosen: np.ndarray) -> Pairs:
        """The pairs at the positions `chosen`."""
        return Pairs(*(values[chosen] for values in self))


def fixed_pairs(labels: np.ndarray, n_pairs: int, seed: int = 0) -> Pairs:
    """Distinct pairs for evaluation, the same every time: half genuine, half imposite.

    Args:
        labels: Class of each item, `(n,)`.
        n_pairs: Number of pairs; if there are not so many of one kind, fewer of both.
        seed: Chooses the pairs.

    Returns:
        `Pairs`, in random order.

    Raises:
        UserError: If no two items are of one class, or all are.
    """
    labels, generator = np.asarray(labels), np.random.default_rng([seed, 1])
    kept = np.arange(len(labels))
    if len(kept) > MOST_PAIRED:
        kept = np.sort(generator.choice(kept, MOST_PAIRED, replace=False))
    rows, columns = np.triu_indices(len(kept), 1)
    first, second = kept[rows], kept[columns]
    same = labels[first] == labels[second]
    kinds = [np.flatnonzero(same), np.flatnonzero(~same)]
    half = min(n_pairs // 2, *map(len, kinds))
    if not half:
        missing = "two items of one class" if not len(kinds[0]) else "items of two classes"
        raise UserError(f"expected {missing} to make pairs of, found none among {len(labels)}")
    chosen = np.concatenate([generator.choice(kind, half, replace=False) for kind in kinds])
    chosen = generator.permutation(chosen)
    return Pairs(first[chosen], second[chosen], same[chosen].astype(np.int32))


def split_pairs(pairs: Pairs, shares: Sequence[float] = (0.6, 0.15, 0.25)) -> list[Pairs]:
    """Splits pairs, not classes: what the book does.

    All parts hold pairs of the same people, even of the same pictures, so that a score on the
    last of them does not tell how the network does with people it has not seen.

    Args:
        pairs: Pairs in random order.
        shares: The share of each part: training, validation, test.
    """
    ends = np.cumsum(np.round(np.array(shares[:-1]) * len(pairs.same))).astype(int)
    return [pairs.part(chosen) for chosen in np.split(np.arange(len(pairs.same)), ends)]


def merged(parts: Sequence[FewShotData]) -> FewShotData:
    """All classes of the splits of a data set in one; a class that several have becomes one."""
    names = sorted({name for part in parts for name in part.class_names})
    number = {name: index for index, name in enumerate(names)}
    groups = {n: g for part in parts for n, g in zip(part.class_names, part.class_groups)}
    labels = [np.array([number[n] for n in part.class_names])[part.labels] for part in parts]
    return FewShotData(
        items=np.concatenate([part.items for part in parts]),
        labels=np.concatenate(labels).astype(np.int32),
        class_names=tuple(names),
        class_groups=tuple(groups[name] for name in names),
        name=parts[0].name,
        split="all",
    )
