"""Tasks whose classes are described: what is held out, what an episode is, the baseline."""

from common.datasets import SPLITS, FewShotData, load
from common.described_tasks import DescribedTasks, NearestDescription, described_splits
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.sine import SineTasks

import numpy as np
import pytest


@pytest.fixture(scope="module")
def splits():
    return described_splits("glyphs")


def test_every_class_is_in_one_split(splits):
    names = [name for data in splits.values() for name in data.class_names]
    everything = [name for split in SPLITS for name in load("glyphs", split).class_names]
    assert sorted(names) == sorted(everything)
    sizes = {split: len(data.class_names) for split, data in splits.items()}
    assert sizes == {"train": 868, "validation": 186, "test": 186}
    assert [data.split for data in splits.values()] == list(SPLITS)


def test_every_word_of_a_letter_held_out_occurs_in_training(splits):
    known = {word for name in splits["train"].class_names for word in name.split()}
    for split in ("validation", "test"):
        for name in splits[split].class_names:
            assert set(name.split()) <= known, name
    described = np.concatenate([data.attributes for data in splits.values()])
    for split in ("validation", "test"):
        for row in splits[split].attributes:
            assert np.sum((described == row).all(axis=1)) == 1


def test_items_labels_and_descriptions_stay_together(splits):
    train = load("glyphs", "train")
    for data in splits.values():
        for label, name in enumerate(data.class_names):
            words = [data.attribute_names[i] for i in np.flatnonzero(data.attributes[label])]
            assert set(words) == set(name.split())
            assert data.class_groups[label] == name.split()[0]
            if name in train.class_names:
                theirs = train.items[train.labels == train.class_names.index(name)]
                np.testing.assert_array_equal(data.items[data.labels == label], theirs)


def test_the_seed_decides_what_is_held_out(splits):
    again, other = described_splits("glyphs"), described_splits("glyphs", seed=1)
    assert again["test"].class_names == splits["test"].class_names
    assert other["test"].class_names != splits["test"].class_names


def test_an_episode_describes_each_class_once(splits):
    data = splits["test"]
    tasks = DescribedTasks(data, n_way=6)
    sampler = EpisodeSampler(tasks, 1, k_shot=1, n_query=3)
    for index in range(3):
        episode = sampler.episode(index)
        (names,) = tasks.class_names(sampler.seed_of(index))
        assert episode.support_x.shape == (6, len(data.attribute_names))
        assert episode.support_x.dtype == episode.query_x.dtype == np.float32
        assert sorted(episode.support_y) == list(range(6))
        assert np.bincount(episode.query_y).tolist() == [3] * 6
        for row, label in zip(episode.support_x, episode.support_y, strict=True):
            number = data.class_names.index(names[label])
            np.testing.assert_array_equal(row, data.attributes[number])
        for image, label in zip(episode.query_x, episode.query_y, strict=True):
            own = data.items[data.labels == data.class_names.index(names[label])]
            assert any(np.array_equal(np.round(255 * image), item) for item in own)
    assert any(np.diff(sampler.episode(i).support_y).min() < 0 for i in range(3))  # random order


def test_batches_of_tasks(splits):
    sampler = EpisodeSampler(DescribedTasks(splits["train"], 4), 1, k_shot=1, n_query=2)
    batch = next(iter(sampler.dataset(3)))
    assert batch.support_x.shape[:2] == (3, 4)
    assert batch.query_x.shape == (3, 8, 28, 28, 1)


def test_the_baseline_answers_with_the_likest_description():
    items = np.zeros((3, 2, 2, 1), np.float32)
    items[1, 0], items[2, 1] = 1, 1
    attributes = np.float32([(1, 0, 0), (1, 1, 0), (0, 0, 1)])
    data = FewShotData(items, np.arange(3), tuple("abc"), ("g",) * 3, "own", "train", attributes)
    support_x = np.float32([(0, 0, 1), (0, 1, 0)])
    probabilities = NearestDescription(data).predict_task(support_x, [1, 0], 0.9 * items[1:])
    # Nearest are b and c: b's cosines are 0 and 1/sqrt(2), c's 1 and 0.
    expected = [(0.5**0.5, 0), (0, 1)]
    expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


def test_the_baseline_beats_chance(splits):
    sampler = EpisodeSampler(DescribedTasks(splits["test"], 10), 1, k_shot=1, n_query=3)
    accuracy = NearestDescription(splits["train"]).evaluate_episodes(sampler.fixed(20, 1))
    assert accuracy.mean > 0.3


def test_what_has_no_descriptions_is_refused():
    items, labels = np.zeros((4, 2, 2, 1)), np.array([0, 0, 1, 1])
    plain = FewShotData(items, labels, ("a", "b"), ("g", "g"), "own", "train")
    for data in (plain, SineTasks()):
        with pytest.raises(UserError, match="described by attributes, such as glyphs"):
            DescribedTasks(data, 2)
    with pytest.raises(UserError, match="choose another --dataset or leave out --zero-shot"):
        described_splits("sine")


def test_several_descriptions_of_a_class_are_refused(splits):
    sampler = EpisodeSampler(DescribedTasks(splits["test"], 3), 1, k_shot=2, n_query=3)
    with pytest.raises(UserError, match="one description; found 2"):
        sampler.episode(0)
