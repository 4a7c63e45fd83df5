"""Pairs: balanced, of the right kinds, the same for the same seed and step."""

from common import pair_lists
from common.datasets import FewShotData
from common.errors import UserError
from common.pair_lists import fixed_pairs, merged, split_pairs
from common.pairs import ClassSampler, PairSampler

import numpy as np
import pytest
import tensorflow as tf


def numbered(n_classes=6, n_items=4, n_least=None, first=0):
    """Classes whose items are pictures of one pixel that is the item's number."""
    counts = [n_items] * n_classes
    counts[-1] = n_least or n_items
    labels = np.repeat(np.arange(n_classes, dtype=np.int32), counts)
    names = tuple(f"c{first + label}" for label in range(n_classes))
    items = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    return FewShotData(items, labels, names, names, "numbers", "train")


def drawn(sampler, size, steps=1, start=0):
    """Item numbers of the pairs in some batches, and which are genuine."""
    for (first, second), same in sampler.dataset(size, start).take(steps):
        yield first.numpy().reshape(-1).astype(int), second.numpy().reshape(-1).astype(int), same


def test_half_of_a_batch_is_genuine():
    data = numbered()
    for first, second, same in drawn(PairSampler(data), 10, steps=20):
        np.testing.assert_array_equal(same, [1] * 5 + [0] * 5)
        np.testing.assert_array_equal(data.labels[first] == data.labels[second], same == 1)
        assert not np.any(first == second)


def test_all_pairs_are_drawn_equally_often():
    data = numbered(3, 3)
    counts = np.zeros((2, 9, 9))
    for first, second, same in drawn(PairSampler(data), 200, steps=40):
        for i, j, kind in zip(first, second, same.numpy().astype(int)):
            counts[kind, i, j] += 1
    alike = data.labels[:, None] == data.labels
    for kind, possible in ((1, alike & ~np.eye(9, dtype=bool)), (0, ~alike)):
        assert np.all(counts[kind][~possible] == 0)
        share = counts[kind][possible] / counts[kind].sum() * possible.sum()
        assert share.min() > 0.7  # 1 but for chance
        assert share.max() < 1.3


def test_a_batch_depends_on_seed_and_step_only():
    data = numbered()

    def batches(seed, steps, start=0):
        found = list(drawn(PairSampler(data, seed=seed), 8, steps, start))
        return np.array([np.stack(batch) for batch in found])

    unbroken = batches(0, 6)
    np.testing.assert_array_equal(batches(0, 6), unbroken)
    np.testing.assert_array_equal(batches(0, 3, start=3), unbroken[3:])
    assert np.any(batches(1, 6) != unbroken)
    assert np.any(unbroken[0] != unbroken[1])


def test_items_are_changed_with_a_seed_of_their_own():
    def augment(items, seed):
        return items + tf.random.stateless_uniform(tf.shape(items), seed)

    data = numbered()
    plain = list(drawn(PairSampler(data), 8, 2))
    changed = list(PairSampler(data, augment=augment).dataset(8).take(2))
    for (first, second, _), ((x1, x2), _) in zip(plain, changed):
        differences = np.r_[np.ravel(x1) - first, np.ravel(x2) - second]
        assert np.all((differences >= 0) & (differences < 1))
        assert len(set(differences)) == 16
    again = list(PairSampler(data, augment=augment).dataset(8, start_step=1).take(1))
    np.testing.assert_array_equal(again[0][0][0], changed[1][0][0])


def test_bytes_come_as_numbers_from_0_to_1():
    data = numbered()
    items = np.full(data.items.shape, 255, np.uint8)
    data = FewShotData(items, data.labels, data.class_names, data.class_groups, "white", "train")
    (first, _), _ = next(iter(PairSampler(data).dataset(4)))
    assert first.dtype == tf.float32
    np.testing.assert_array_equal(first, np.ones((4, 1, 1, 1)))
    x, labels = next(iter(ClassSampler(data, 2).dataset(3)))
    np.testing.assert_array_equal(x, np.ones((6, 1, 1, 1)))
    assert labels.dtype == tf.int32


def test_pairs_from_a_list():
    data = numbered()
    listed, *_ = split_pairs(fixed_pairs(data.labels, 40))
    allowed = {kind: set() for kind in (0, 1)}
    for i, j, kind in zip(*listed):
        allowed[kind].add((i, j))
    met = {kind: set() for kind in (0, 1)}
    for first, second, same in drawn(PairSampler(data, pairs=listed), 20, steps=30):
        for i, j, kind in zip(first, second, same.numpy().astype(int)):
            met[kind].add((i, j))
    assert met == allowed


def test_batches_of_whole_classes():
    data = numbered(6, 4)
    seen = set()
    for x, labels in ClassSampler(data, 3).dataset(4).take(10):
        items = x.numpy().reshape(-1).astype(int)
        assert len(set(items)) == len(items) == 12
        classes = data.labels[items]
        assert np.bincount(labels).tolist() == [3] * 4
        for label in range(4):
            assert len(set(classes[labels.numpy() == label])) == 1
        assert len(set(classes)) == 4
        seen |= set(classes)
    assert seen == set(range(6))
    x, _ = next(iter(ClassSampler(data, 2).dataset(99)))
    assert len(x) == 12  # all six classes

    one, other = (list(ClassSampler(data, 3, seed=5).dataset(4, start).take(1)) for start in (2, 2))
    np.testing.assert_array_equal(one[0][0], other[0][0])


# Fixed pairs


def test_fixed_pairs_are_distinct_balanced_and_the_same():
    labels = numbered(8, 5).labels
    drawn = fixed_pairs(labels, 100, seed=1)
    assert drawn.same.sum() == 50
    assert np.array_equal(labels[drawn.first] == labels[drawn.second], drawn.same == 1)
    both = {frozenset(pair) for pair in zip(drawn.first.tolist(), drawn.second.tolist())}
    assert len(both) == 100
    assert all(len(pair) == 2 for pair in both)
    for ours, again in zip(drawn, fixed_pairs(labels, 100, seed=1)):
        np.testing.assert_array_equal(ours, again)
    assert np.any(fixed_pairs(labels, 100, seed=2).first != drawn.first)


def test_fewer_pairs_if_there_are_no_more():
    drawn = fixed_pairs(numbered(4, 3).labels, 1000)  # 4 x 3 genuine ones
    assert (len(drawn.same), drawn.same.sum()) == (24, 12)


def test_pairs_of_many_items(monkeypatch):
    monkeypatch.setattr(pair_lists, "MOST_PAIRED", 50)
    labels = np.random.default_rng(0).integers(5, size=1000)
    drawn = fixed_pairs(labels, 200)
    assert drawn.same.mean() == 0.5
    assert len(np.union1d(drawn.first, drawn.second)) <= 50


def test_splitting_pairs_lets_people_leak():
    data = numbered(10, 6)
    parts = split_pairs(fixed_pairs(data.labels, 300))
    assert [len(part.same) for part in parts] == [180, 45, 75]
    both = [set(zip(part.first.tolist(), part.second.tolist())) for part in parts]
    assert not both[0] & both[2]
    people = [set(data.labels[np.r_[part.first, part.second]]) for part in parts]
    assert people[2] <= people[0]  # which is what is wrong with it


def test_merging_splits():
    all_classes = merged([numbered(3, 2), numbered(2, 2, first=3)])
    assert all_classes.class_names == ("c0", "c1", "c2", "c3", "c4")
    assert all_classes.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all_classes.items.ravel().tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    shared = merged([numbered(3, 2), numbered(2, 2, first=2)])
    assert shared.class_names == ("c0", "c1", "c2", "c3")
    assert shared.labels.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 3, 3]


# What cannot be


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PairSampler(numbered(1, 4)), "at least n_way=2 classes, found 1"),
        (lambda: PairSampler(numbered(3, 4, n_least=1)), "at least 2 items.*found 1.*'c2'"),
        (lambda: ClassSampler(numbered(1, 4)), "at least n_way=2 classes, found 1"),
        (lambda: ClassSampler(numbered(3, 3), 4), "at least 4 items.*as --items, found 3 in 'c0'"),
        (lambda: ClassSampler(numbered(), 1), "items to be an integer from 2"),
        (lambda: PairSampler(numbered()).dataset(7), "even number of pairs.*found 7"),
        (lambda: fixed_pairs(np.zeros(5, int), 4), "items of two classes"),
        (lambda: fixed_pairs(np.arange(5), 4), "two items of one class"),
    ],
)
def test_data_without_pairs_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
