"""Damaged images: which ones, how, and that they are the same for the same seed."""

from common.damage import DamagedSampler, damaged_images
from common.datasets import FewShotData, load
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.sine import SineTasks

import numpy as np
import pytest


@pytest.fixture(scope="module")
def plain():
    """Small episodes of random images, in which every pixel tells whether it was touched."""
    items = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    names = tuple("abcdef")
    data = FewShotData(
        items, np.repeat(np.arange(6, dtype=np.int32), 10), names, names, "x", "test"
    )
    return EpisodeSampler(data, 3, 2, 4, seed=5)


def changed(before, after):
    """Which images of two arrays `(images, height, width, channels)` differ."""
    return np.any(np.asarray(before) != np.asarray(after), axis=(-3, -2, -1))


def test_reduced_by_averaging():
    image = np.kron([[1.0, 0.0], [0.0, 1.0]], np.ones((2, 2)))[None, :, :, None]
    np.testing.assert_allclose(damaged_images(image, 4), 0.5)  # one pixel, then all like it
    np.testing.assert_allclose(damaged_images(image, 1), image)
    even = np.full((1, 9, 7, 3), 0.3, np.float32)
    np.testing.assert_allclose(damaged_images(even, 4), even, atol=1e-6)


def test_exactly_the_masked_images_of_the_same_episode_are_damaged(plain):
    sampler = DamagedSampler(plain, 0.5)
    for index in range(5):
        whole, episode = plain.episode(index), sampler.episode(index)
        support, query = sampler.masks(index)
        np.testing.assert_array_equal(changed(whole.support_x, episode.support_x), support)
        np.testing.assert_array_equal(changed(whole.query_x, episode.query_x), query)
        np.testing.assert_array_equal(whole.query_y, episode.query_y)
        np.testing.assert_allclose(
            episode.query_x[query], damaged_images(whole.query_x[query]), atol=1e-6
        )


def test_fixed_episodes_do_not_depend_on_the_batch(plain):
    sampler = DamagedSampler(plain, 0.5)
    singles = [sampler.episode(index).query_x for index in range(5)]
    for size in (1, 2, 5):
        batches = [batch.query_x.numpy() for batch in sampler.fixed(5, size)]
        np.testing.assert_array_equal(np.concatenate(batches), singles)


def test_batch_of_a_step_is_the_same_after_resuming(plain):
    sampler = DamagedSampler(plain, 0.5)
    for before, after in zip(
        sampler.dataset(2).skip(3).take(2), sampler.dataset(2, start_step=3).take(2), strict=True
    ):
        np.testing.assert_array_equal(before.support_x, after.support_x)
        np.testing.assert_array_equal(before.query_x, after.query_x)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_is_the_frequency(plain, share):
    sampler = DamagedSampler(plain, share)
    masks = np.concatenate([np.concatenate(sampler.masks(index)) for index in range(40)])
    assert masks.mean() == pytest.approx(share, abs=4 * (share * (1 - share) / len(masks)) ** 0.5)


def test_queries_can_be_spared(plain):
    sampler, both = DamagedSampler(plain, 0.5, queries=False), DamagedSampler(plain, 0.5)
    for index in range(3):
        whole, episode, other = (each.episode(index) for each in (plain, sampler, both))
        np.testing.assert_array_equal(whole.query_x, episode.query_x)
        np.testing.assert_array_equal(other.support_x, episode.support_x)
        assert not sampler.masks(index)[1].any()


def test_another_seed_damages_others(plain):
    other = EpisodeSampler(plain.data, 3, 2, 4, seed=6)
    masks = [
        np.concatenate([np.concatenate(DamagedSampler(each, 0.5).masks(i)) for i in range(5)])
        for each in (plain, other)
    ]
    assert np.any(masks[0] != masks[1])


def test_it_harms_real_images():
    data = load("glyphs", "test")
    lost = np.abs(damaged_images(data.items[:100] / 255.0) - data.items[:100] / 255.0)
    assert lost.mean() > 0.03


@pytest.mark.parametrize(("share", "factor"), [(-0.1, 4), (1.1, 4), (0.5, 0), (0.5, 9)])
def test_refuses_what_is_out_of_range(plain, share, factor):
    with pytest.raises(UserError):
        DamagedSampler(plain, share, factor)


def test_refuses_what_are_no_images():
    with pytest.raises(UserError, match="only images"):
        DamagedSampler(EpisodeSampler(SineTasks(), 1, 5, 5), 0.5)
