"""Episodes with an unlabelled set: who is in them, and who is not."""

from common.datasets import FewShotData
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.semi_supervised import SemiSupervisedEpisode, SemiSupervisedTasks, split_sizes

import numpy as np
import pytest


def numbered(n_classes=12, n_items=20, size=2):
    """Images of which every pixel is the item's number; class c has items c * n_items and on."""
    numbers = np.arange(n_classes * n_items, dtype=np.float32)
    items = np.broadcast_to(numbers[:, None, None, None], (len(numbers), size, size, 1))
    labels = np.repeat(np.arange(n_classes, dtype=np.int32), n_items)
    names = tuple(str(c) for c in range(n_classes))
    return FewShotData(items, labels, names, names, "numbered", "train")


def sampler(data=None, n_way=5, n_unlabelled=5, k_shot=1, n_query=1, seed=0, **options):
    tasks = SemiSupervisedTasks(data or numbered(), n_way, n_unlabelled, seed=seed, **options)
    return EpisodeSampler(tasks, 1, k_shot, n_query, seed=seed)


def numbers(images):
    """The numbers of the items."""
    return images[..., 0, 0, 0].astype(int)


def test_shapes_and_labels():
    episodes = sampler(distractors=4)
    batch = next(iter(episodes.dataset(3)))
    assert isinstance(batch, SemiSupervisedEpisode)
    assert batch.support_x.shape == batch.query_x.shape == (3, 5, 2, 2, 1)
    assert batch.unlabelled_x.shape == (3, 9 * 5, 2, 2, 1)
    assert np.array_equal(np.sort(batch.support_y), [range(5)] * 3)
    assert np.array_equal(np.sort(batch.query_y), [range(5)] * 3)
    for row in batch.unlabelled_y.numpy():
        assert sorted(row) == [-1] * 20 + [label for label in range(5) for _ in range(5)]
    one = episodes.episode(0)
    assert isinstance(one, SemiSupervisedEpisode)
    assert one.unlabelled_x.shape == (45, 2, 2, 1)


def test_labels_are_those_of_the_classes_and_distractors_are_of_others():
    for index in range(30):
        episode = sampler(distractors=5).episode(index)
        classes = dict(zip(episode.support_y, numbers(episode.support_x) // 20))
        assert len(set(classes.values())) == 5
        assert [classes[y] for y in episode.query_y] == list(numbers(episode.query_x) // 20)
        hidden = numbers(episode.unlabelled_x) // 20
        for label, class_number in zip(episode.unlabelled_y, hidden):
            if label < 0:
                assert class_number not in classes.values()
            else:
                assert class_number == classes[label]
        assert len(set(hidden)) == 10


def test_labelled_and_unlabelled_items_never_change_places():
    labelled, unlabelled = set(), set()
    episodes = sampler(distractors=3)
    for batch in [*episodes.dataset(40).take(5), *episodes.fixed(100, 10)]:
        batch = SemiSupervisedEpisode(*(part.numpy() for part in batch))
        items = np.concatenate([numbers(p) for p in (batch[0], batch[2], batch[4])], axis=1)
        assert all(len(set(row)) == len(row) for row in items)  # none twice in an episode
        labelled |= set(numbers(batch.support_x).ravel()) | set(numbers(batch.query_x).ravel())
        unlabelled |= set(numbers(batch.unlabelled_x).ravel())
    assert not labelled & unlabelled
    # 10 % of the 20 items of each class, and all of them turn up.
    assert np.array_equal(np.bincount([n // 20 for n in labelled]), [2] * 12)
    assert np.array_equal(np.bincount([n // 20 for n in unlabelled]), [18] * 12)


def test_the_seed_decides_who_is_labelled():
    def labelled(seed):
        batches = sampler(seed=seed).fixed(60, 20)
        return {n for batch in batches for n in numbers(batch.support_x.numpy()).ravel()}

    assert labelled(0) == labelled(0) != labelled(1)


def test_rotations_are_classes_whose_labelled_items_are_the_same():
    images = np.random.default_rng(0).permutation(np.arange(4 * 20 * 9)).reshape(80, 3, 3, 1)
    data = FewShotData(
        images.astype(np.float32), np.repeat(np.arange(4, dtype=np.int32), 20),
        tuple("abcd"), tuple("abcd"), "random", "train",
    )  # fmt: skip
    episodes = sampler(data, n_way=8, n_unlabelled=18, distractors=8, rotations=True)
    centres = [set(), set()]  # a turn leaves the middle where it is
    for index in range(12):
        episode = episodes.episode(index)
        centres[0] |= set(episode.support_x[:, 1, 1, 0]) | set(episode.query_x[:, 1, 1, 0])
        centres[1] |= set(episode.unlabelled_x[:, 1, 1, 0])
    assert (len(centres[0]), len(centres[1])) == (8, 72)
    assert not centres[0] & centres[1]


def test_more_unlabelled_items_leave_the_rest_of_the_episode_as_it_is():
    few, many = (sampler(n_unlabelled=n).episode(7) for n in (2, 9))
    for part in ("support_x", "support_y", "query_x", "query_y"):
        np.testing.assert_array_equal(getattr(few, part), getattr(many, part))
    assert set(numbers(few.unlabelled_x)) < set(numbers(many.unlabelled_x))


def test_unlabelled_items_come_in_random_order():
    firsts = [sampler(distractors=5).episode(index).unlabelled_y[0] for index in range(40)]
    assert {-1, 0, 1, 2, 3, 4} == set(firsts)


def test_classes_of_several_sizes():
    data = numbered(6, 20)
    kept = np.concatenate([np.arange(20), np.arange(20, 30), np.arange(40, 120)])
    data = FewShotData(
        data.items[kept], data.labels[kept], data.class_names, data.class_groups, "some", "train"
    )
    n_labelled, most = split_sizes(data, 0.2)
    assert list(n_labelled) == [4, 2, 4, 4, 4, 4]
    assert most == 8
    episode = sampler(data, n_unlabelled=8, labelled=0.2, distractors=1).episode(0)
    assert len(set(numbers(episode.unlabelled_x))) == 48


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_unlabelled": 19}, "from 1 to 18 unlabelled items .* found 19"),
        ({"n_unlabelled": 0}, "found 0"),
        ({"labelled": 0.99}, "found none in the smallest .* a labelled share of 0.99; lower it"),
        ({"distractors": 8}, r"at least 13 classes \(n_way=5 \+ distractors=8\), found 12"),
        ({"labelled": 1.0}, "between 0 and 1, got 1.0"),
        ({"labelled": 0.0}, "between 0 and 1, got 0.0"),
    ],
)
def test_impossible_episodes_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        sampler(**options)


def test_too_few_labelled_items_are_refused():
    with pytest.raises(UserError, match=r"at least 3 labelled items .* found 2 .* 0.1"):
        sampler(k_shot=2).episode(0)
