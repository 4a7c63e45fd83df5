"""Copying, repeated copying and associative recall: every sequence read back step by step."""

from common.algorithmic_tasks import AssociativeRecallTask, harder, new_task, sampler
from common.copy_tasks import CopyTask, RepeatCopyTask
from common.errors import UserError

import numpy as np
import pytest

NAMES = ("copy", "repeat-copy", "recall")


def drawn(task, n=200, seed=(0, 0)):
    return [part.numpy() for part in task.sample(seed, n)]


def test_copy_asks_for_what_it_showed():
    lengths = []
    for inputs, targets, mask in zip(*drawn(CopyTask())):
        (length,) = np.flatnonzero(inputs[:, 8])
        asked = np.flatnonzero(mask)
        assert asked.tolist() == list(range(length + 1, 2 * length + 1))
        np.testing.assert_array_equal(targets[asked], inputs[:length, :8])
        assert not inputs[length + 1 :].any()
        assert not targets[mask == 0].any()
        lengths.append(length)
    assert set(lengths) == set(range(1, 21))
    assert np.mean(lengths) == pytest.approx(10.5, abs=1.3)


def test_repeat_copy_asks_as_often_as_told_and_for_the_end():
    seen = set()
    for inputs, targets, mask in zip(*drawn(RepeatCopyTask())):
        (length,) = np.flatnonzero(inputs[:, 8])
        repeats = round(inputs[length, 9] * 8.25**0.5 + 5.5)
        assert np.flatnonzero(inputs[:, 9]).tolist() == [length]
        end = length + 1 + repeats * length
        assert np.flatnonzero(mask).tolist() == list(range(length + 1, end + 1))
        expected = np.tile(inputs[:length, :8], (repeats, 1))
        np.testing.assert_array_equal(targets[length + 1 : end, :8], expected)
        assert np.flatnonzero(targets[:, 8]).tolist() == [end]
        assert not inputs[length + 1 :].any()
        assert not targets[mask == 0].any()
        seen.add(repeats)
    assert seen == set(range(1, 11))


@pytest.mark.parametrize(("repeats", "channel"), [(1, -1.566699), (10, 1.566699)])
def test_number_of_repeats_is_standardised(repeats, channel):
    inputs, _, _ = drawn(RepeatCopyTask(2, 2, repeats, repeats), 1)
    assert inputs[0, 2, 9] == pytest.approx(channel, abs=1e-5)


def test_recall_asks_for_the_item_after_the_one_that_it_shows_again():
    numbers, places = set(), set()
    for inputs, targets, mask in zip(*drawn(AssociativeRecallTask())):
        starts = np.flatnonzero(inputs[:, 6])
        before, after = np.flatnonzero(inputs[:, 7])
        assert np.diff([*starts, before]).tolist() == [4] * len(starts)
        items = [inputs[start + 1 : start + 4, :6].tolist() for start in starts]
        assert after == before + 4
        query = inputs[before + 1 : after, :6].tolist()
        place = items.index(query)
        assert np.flatnonzero(mask).tolist() == [after + 1, after + 2, after + 3]
        assert targets[after + 1 : after + 4].tolist() == items[place + 1]
        assert not inputs[after + 1 :].any()
        assert not targets[mask == 0].any()
        numbers.add(len(items))
        places.add(place)
    assert numbers == {2, 3, 4, 5, 6}
    assert places == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_as_the_task_says(name):
    for task in (new_task(name), *harder(name).values()):
        inputs, targets, mask = drawn(task, 3)
        assert inputs.shape == (3, task.steps, task.inputs)
        assert targets.shape == (3, task.steps, task.outputs)
        assert mask.shape == (3, task.steps)
        assert (task.inputs, task.outputs) == (new_task(name).inputs, new_task(name).outputs)
        assert mask.sum(axis=1).min() > 0


def test_harder_tests_are_the_papers():
    assert list(harder("copy")) == ["length_20", "length_40", "length_80", "length_120"]
    assert list(harder("repeat-copy")) == ["length_10", "repeats_20", "length_20"]
    assert list(harder("recall")) == ["items_6", "items_8", "items_12", "items_15"]
    assert harder("copy", 5)["length_30"] == CopyTask(30, 30)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_the_sequences(name):
    task = new_task(name)
    first, again, other = (drawn(task, 5, seed) for seed in ((0, 1), (0, 1), (0, 2)))
    for a, b, c in zip(first, again, other):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_batches_are_the_same_after_a_resume():
    task = CopyTask(1, 4)
    batches = [part for _, part in zip(range(3), sampler(task, 7).dataset(2))]
    resumed = next(iter(sampler(task, 7).dataset(2, start_step=2)))
    for a, b in zip(batches[2], resumed):
        np.testing.assert_array_equal(a, b)
    fixed = next(iter(sampler(task, 7).fixed(2, 2)))
    assert fixed.inputs.shape == (2, 9, 9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CopyTask(0, 5), "shortest=0"),
        (lambda: CopyTask(6, 5), "shortest=6 and longest=5"),
        (lambda: CopyTask(bits=0), "bits=0"),
        (lambda: RepeatCopyTask(fewest=3, most=2), "fewest=3 and most=2"),
        (lambda: AssociativeRecallTask(fewest=1), "at least 2"),
        (lambda: new_task("sort"), "--dataset must be copy or repeat-copy or recall; got 'sort'"),
    ],
)
def test_impossible_tasks_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
