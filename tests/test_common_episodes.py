"""Episodes hold what they promise, are drawn uniformly, and are the same everywhere."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import common
from common.datasets import FewShotData
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.sine import SineTasks

import numpy as np
import pytest
import tensorflow as tf

COUNTS = (9, 12, 7, 30, 8, 10, 9, 11)  # items of each class
GROUPS = ("Greek", "Greek", "Greek", "Latin", "Latin", "Latin", "Latin", "Runic")


def numbered_data(counts=COUNTS, groups=GROUPS) -> FewShotData:
    """Items that are their own number, in no particular order: episodes show what was drawn."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return FewShotData(
        items=np.arange(len(labels), dtype=np.float32)[:, np.newaxis],
        labels=labels.astype(np.int32),
        class_names=tuple(f"character{c:02}" for c in range(len(counts))),
        class_groups=tuple(groups),
        name="numbered",
        split="train",
    )


def image_data(n_classes=6, n_items=4, size=5) -> FewShotData:
    shape = (n_classes * n_items, size, size, 1)
    return FewShotData(
        items=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        labels=np.repeat(np.arange(n_classes), n_items).astype(np.int32),
        class_names=tuple(f"image{c}" for c in range(n_classes)),
        class_groups=("all",) * n_classes,
        name="images",
        split="train",
    )


def tasks_of(episodes):
    """Every task of every batch, as NumPy."""
    for batch in episodes.as_numpy_iterator():
        for task in range(len(batch.support_x)):
            yield type(batch)(*(part[task] for part in batch))


def classes_of(data, task):
    """The class behind each label, and a check that the labels say so consistently."""
    numbers = np.concatenate([task.support_x, task.query_x])[:, 0].astype(int)
    pairs = set(zip(np.concatenate([task.support_y, task.query_y]), data.labels[numbers]))
    assert len(pairs) == len({label for label, _ in pairs}) == len({c for _, c in pairs})
    return [int(c) for _, c in sorted(pairs)]


def assert_uniform(counts):
    """Chi-squared within five standard deviations of what equal probabilities give."""
    counts = np.asarray(counts, float)
    freedom = counts.size - 1
    chi_squared = np.sum((counts - counts.mean()) ** 2) / counts.mean()
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom), counts


def digest() -> str:
    """All that fixed and training episodes of images and of waves contain, as one hash."""
    images = EpisodeSampler(image_data(), 5, 1, 2, rotations=True, seed=3)
    waves = EpisodeSampler(SineTasks(), 1, 5, 5, seed=3)
    result = hashlib.sha256()
    for sampler in (images, waves):
        for episodes in (sampler.fixed(10, 4), sampler.dataset(4).take(3)):
            for batch in episodes.as_numpy_iterator():
                for part in batch:
                    result.update(part.tobytes())
    return result.hexdigest()


@pytest.mark.parametrize("within_group", [False, True])
@pytest.mark.parametrize(("n_way", "k_shot", "n_query"), [(2, 1, 1), (3, 2, 5), (4, 6, 1)])
def test_episode_is_complete_and_disjoint(n_way, k_shot, n_query, within_group):
    data = numbered_data()
    sampler = EpisodeSampler(data, n_way, k_shot, n_query, within_group=within_group)
    for episodes in (sampler.fixed(60, 8), sampler.dataset(8).take(8)):
        for task in tasks_of(episodes):
            numbers = np.concatenate([task.support_x, task.query_x])[:, 0]
            assert len(set(numbers)) == n_way * (k_shot + n_query)
            assert Counter(task.support_y) == dict.fromkeys(range(n_way), k_shot)
            assert Counter(task.query_y) == dict.fromkeys(range(n_way), n_query)
            assert len(classes_of(data, task)) == n_way


def test_every_item_of_a_class_may_be_needed():
    data = numbered_data(counts=(3, 3, 9), groups=("all",) * 3)
    for task in tasks_of(EpisodeSampler(data, 3, 2, 1).fixed(50, 10)):
        assert len({*task.support_x[:, 0], *task.query_x[:, 0]}) == 9
        classes_of(data, task)


def test_shapes_and_types_are_known_to_the_graph():
    sampler = EpisodeSampler(image_data(), 5, 1, 3)
    for episodes in (sampler.dataset(8), sampler.fixed(16, 8)):
        spec = episodes.element_spec
        assert spec.support_x == tf.TensorSpec((8, 5, 5, 5, 1), tf.float32)
        assert spec.query_x == tf.TensorSpec((8, 15, 5, 5, 1), tf.float32)
        assert spec.support_y == tf.TensorSpec((8, 5), tf.int32)
        assert spec.query_y == tf.TensorSpec((8, 15), tf.int32)
    assert sampler.dataset(8).cardinality() == tf.data.INFINITE_CARDINALITY
    assert [len(batch.query_y) for batch in sampler.fixed(17, 8)] == [8, 8, 1]
    assert sampler.fixed(17, 8).cardinality() == 3


def test_bytes_become_fractions_and_floats_stay():
    data = image_data()
    sources = {image.astype(np.float32).tobytes() for image in data.items}
    for task in tasks_of(EpisodeSampler(data, 2, 1, 1).fixed(5, 5)):
        assert all(np.rint(255 * image).tobytes() in sources for image in task.support_x)
        assert task.support_x.max() <= 1
    task = EpisodeSampler(numbered_data(), 2, 1, 1).episode(0)
    assert task.support_x.dtype == np.float32
    assert task.support_x.max() > 1


def test_classes_items_labels_and_rows_are_drawn_uniformly():
    data = numbered_data(counts=(6,) * 8)
    of_class, of_item, label_of_class = np.zeros(8), np.zeros(48), np.zeros((8, 3))
    row_of_label, orders = np.zeros((6, 3)), Counter()
    for task in tasks_of(EpisodeSampler(data, 3, 1, 2).dataset(100).take(30)):
        classes = classes_of(data, task)
        of_class[classes] += 1
        label_of_class[classes, range(3)] += 1
        of_item[task.support_x[:, 0].astype(int)] += 1
        row_of_label[range(6), task.query_y] += 1
        orders[tuple(task.support_y)] += 1
    for counts in (of_class, of_item, label_of_class, row_of_label, list(orders.values())):
        assert_uniform(counts)
    assert len(orders) == 6  # all permutations of three rows


def test_support_and_query_rows_are_shuffled_independently():
    sampler = EpisodeSampler(numbered_data(), 3, 1, 1)
    same = [np.array_equal(t.support_y, t.query_y) for t in tasks_of(sampler.fixed(600, 100))]
    assert 50 < sum(same) < 150  # a sixth


def test_classes_of_one_group():
    data = numbered_data()
    groups, classes = Counter(), np.zeros(len(COUNTS))
    sampler = EpisodeSampler(data, 3, 1, 1, within_group=True)
    for task in tasks_of(sampler.dataset(100).take(20)):
        drawn = classes_of(data, task)
        (group,) = {GROUPS[c] for c in drawn}
        groups[group] += 1
        classes[drawn] += 1
    assert set(groups) == {"Greek", "Latin"}  # Runic has one class only
    assert_uniform(classes[:7])  # so a group is drawn in proportion to its classes


def test_rotations_are_turned_images_and_classes_of_their_own():
    data = image_data(n_classes=3)
    source = {
        np.rot90(image, turns).astype(np.float32).tobytes(): (number, turns)
        for number, image in enumerate(data.items)
        for turns in range(4)
    }
    seen, met_itself = Counter(), 0
    sampler = EpisodeSampler(data, 7, 1, 2, rotations=True)  # 7 of 3 * 4 classes
    for task in tasks_of(sampler.dataset(20).take(10)):
        turned_class = {}
        drawn = set()
        for images, labels in [task[:2], task[2:]]:
            for image, label in zip(images, labels):
                number, turns = source[np.rint(255 * image).tobytes()]
                one = (int(data.labels[number]), turns)
                assert turned_class.setdefault(int(label), one) == one
                drawn.add((number, turns))
        assert len(set(turned_class.values())) == 7
        assert len(drawn) == 21
        met_itself += len({c for c, _ in turned_class.values()}) < 7
        seen.update(turned_class.values())
    assert len(seen) == 12
    assert met_itself
    assert_uniform(list(seen.values()))


def test_indices_tell_what_sample_shows():
    data = image_data()
    sampler = EpisodeSampler(data, 5, 1, 3, rotations=True)
    seed = sampler.seed_of(4)
    classes, drawn = sampler.tasks.indices(seed, 1, 1, 3)
    shown = sampler.episode(4)
    for item, label, image in zip(drawn.query_x[0], drawn.query_y[0], shown.query_x):
        turns, number = divmod(int(item), len(data.items))
        np.testing.assert_allclose(image, np.rot90(data.items[number], turns) / 255.0, rtol=1e-6)
        assert int(classes[0, int(label)]) == 4 * data.labels[number] + turns


@pytest.mark.parametrize(
    "sampler",
    [
        EpisodeSampler(numbered_data(), 3, 1, 2, seed=5),
        EpisodeSampler(numbered_data(), 3, 1, 2, within_group=True),
        EpisodeSampler(image_data(), 5, 1, 2, rotations=True),
        EpisodeSampler(SineTasks(), 1, 5, 3),
    ],
    ids=["classes", "groups", "rotations", "sine"],
)
def test_fixed_episodes_do_not_depend_on_the_batch(sampler):
    one_by_one = list(tasks_of(sampler.fixed(7, 1)))
    for meta_batch_size in (2, 3, 7, 10):
        tasks = list(tasks_of(sampler.fixed(7, meta_batch_size)))
        assert len(tasks) == 7
        for task, expected in zip(tasks, one_by_one):
            assert all(map(np.array_equal, task, expected))
    for index in (0, 6):
        assert all(map(np.array_equal, sampler.episode(index), one_by_one[index]))
    longer = list(tasks_of(sampler.fixed(9, 4)))  # more episodes begin with the same ones
    assert all(map(np.array_equal, longer[3], one_by_one[3]))


def test_training_goes_on_with_the_same_episodes():
    for sampler in (
        EpisodeSampler(numbered_data(), 3, 1, 2),
        EpisodeSampler(SineTasks(), 1, 5, 3),
    ):
        unbroken = list(sampler.dataset(4).take(6).as_numpy_iterator())
        resumed = list(sampler.dataset(4, start_step=3).take(3).as_numpy_iterator())
        for batch, expected in zip(resumed, unbroken[3:]):
            assert all(map(np.array_equal, batch, expected))


def test_seeds_and_streams_differ():
    data = numbered_data(counts=(50,) * 50, groups=("all",) * 50)
    episodes = []
    for seed in (0, 1, 2, 2**30 - 1):
        sampler = EpisodeSampler(data, 5, 1, 5, seed=seed)
        episodes += [*tasks_of(sampler.fixed(50, 10)), *tasks_of(sampler.dataset(1).take(50))]
    assert len({task.query_x.tobytes() for task in episodes}) == 400


def test_same_episodes_in_another_process():
    environment = {**os.environ, "PYTHONPATH": str(Path(common.__file__).parents[1])}
    other = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == digest()


def test_same_episodes_in_every_version():
    sampler = EpisodeSampler(numbered_data(), 3, 1, 1)
    fixed, training = sampler.fixed(2, 2), sampler.dataset(2).take(1)
    drawn = [[task.support_x[:, 0].tolist() for task in tasks_of(e)] for e in (fixed, training)]
    assert drawn == [[[41, 26, 45], [23, 95, 45]], [[51, 15, 28], [30, 66, 69]]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_way": 1}, "n_way .*from 2 .*found 1"),
        ({"n_way": 0}, "n_way .*found 0"),
        ({"n_way": 2.5}, "n_way .*integer.*found 2.5"),
        ({"k_shot": 0}, "k_shot .*from 1 .*found 0"),
        ({"n_query": 0}, "n_query .*from 1 .*found 0"),
        ({"k_shot": -1}, "k_shot .*found -1"),
        ({"seed": -1}, "seed .*found -1"),
        ({"seed": 2**30}, "seed .*found 1073741824"),
        ({"n_way": 9}, "n_way=9 classes, found 8 in .* .train.;"),
        ({"n_way": 5, "within_group": True}, "n_way=5 classes, found 4 in .* 3 groups"),
        ({"k_shot": 5}, "at least 8 items .*k_shot=5.*found 7 in class 'character02'.*1 of 8 "),
        ({"rotations": True}, "square images.*found items of shape"),
    ],
)
def test_impossible_episodes_are_refused(wrong, message):
    settings = {"n_way": 3, "k_shot": 1, "n_query": 3, **wrong}
    with pytest.raises(UserError, match=message) as refusal:
        EpisodeSampler(numbered_data(), **settings)
    assert "\n" not in str(refusal.value)


def test_rotations_make_four_times_as_many_classes():
    data = image_data(n_classes=3)
    EpisodeSampler(data, 12, 1, 1, rotations=True)
    with pytest.raises(UserError, match="n_way=13 classes, found 12"):
        EpisodeSampler(data, 13, 1, 1, rotations=True)


def test_no_classes_are_refused():
    with pytest.raises(UserError, match="n_way=2 classes, found 0"):
        EpisodeSampler(numbered_data(counts=(), groups=()), 2, 1, 1)


@pytest.mark.parametrize("wrong", [{"n_way": 5}, {"rotations": True}, {"within_group": True}])
def test_task_distributions_have_no_classes(wrong):
    with pytest.raises(UserError, match="n_way=1, no rotations and no groups"):
        EpisodeSampler(SineTasks(), **{"n_way": 1, "k_shot": 1, "n_query": 1, **wrong})


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda sampler: sampler.dataset(0), "meta_batch_size"),
        (lambda sampler: sampler.dataset(1, start_step=-1), "start_step"),
        (lambda sampler: sampler.fixed(0, 1), "n_episodes"),
        (lambda sampler: sampler.fixed(1, 0), "meta_batch_size"),
    ],
)
def test_impossible_batches_are_refused(ask, name):
    with pytest.raises(UserError, match=f"expected {name} "):
        ask(EpisodeSampler(numbered_data(), 2, 1, 1))


if __name__ == "__main__":  # the other process of test_same_episodes_in_another_process
    print(digest())
