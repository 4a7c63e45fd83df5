"""Sounds changed for training: how much, by what, and never elsewhere."""

from dataclasses import replace

from common.audio_augmentation import augment, changed_waveform, with_copies
from common.errors import UserError
from common.sounds import load

import numpy as np
import pytest
import tensorflow as tf

OFF = {"shift": 0.0, "stretch": 0.0, "warp": 0.0, "noise": 0.0, "mask": 0.0}


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_nothing_is_changed_without_strength():
    features = noise(3, 51, 40, 1)
    np.testing.assert_allclose(augment(features, (1, 2), **OFF), features, atol=1e-5)


def test_it_is_a_function_of_the_seed():
    features = noise(4, 51, 40, 1)
    first, again, other = (augment(features, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.5


def test_each_sound_is_changed_in_its_own_way():
    features = np.repeat(noise(1, 51, 40, 1), 8, axis=0)
    changed = augment(features, (0, 0)).numpy().reshape(8, -1)
    assert len(np.unique(changed.round(3), axis=0)) == 8


@pytest.mark.parametrize(
    ("name", "strength"),
    [("shift", 0.3), ("stretch", 0.3), ("warp", 0.3), ("noise", 0.5), ("mask", 0.4)],
)
def test_every_change_changes(name, strength):
    features = noise(16, 51, 40, 1)
    changed = augment(features, (0, 0), **(OFF | {name: strength})).numpy()
    assert (np.abs(changed - features).max(axis=(1, 2, 3)) > 0.01).all()


def peak(item):
    return np.unravel_index(np.argmax(item[..., 0]), item.shape[:2])


def test_shifts_move_in_time_alone_and_warps_in_pitch_alone():
    features = np.zeros((200, 51, 40, 1), np.float32)
    features[:, 24:27, 19:22] = 0.5
    features[:, 25, 20] = 1.0
    shifted = augment(features, (0, 0), **(OFF | {"shift": 0.2})).numpy()
    peaks = np.array([peak(item) for item in shifted])
    assert np.ptp(peaks[:, 0]) > 15
    assert np.abs(peaks[:, 0] - 25).max() <= 0.2 * 51 + 1
    assert set(peaks[:, 1]) == {20}
    warped = augment(features, (0, 0), **(OFF | {"warp": 0.2})).numpy()
    peaks = np.array([peak(item) for item in warped])
    assert set(peaks[:, 0]) == {25}
    assert peaks[:, 1].min() >= np.floor(20 / 1.2)
    assert peaks[:, 1].max() <= np.ceil(20 / 0.8)


def test_masks_hide_a_share_of_frames_and_bands():
    features = np.ones((300, 50, 40, 1), np.float32)
    hidden = augment(features, (0, 0), **(OFF | {"mask": 0.4})).numpy() == 0
    frames, bands = hidden[..., 0].all(axis=2).mean(axis=1), hidden[..., 0].all(axis=1).mean(axis=1)
    for shares in (frames, bands):
        assert shares.mean() == pytest.approx(0.2, abs=0.03)
        assert shares.max() <= 0.43


def test_inside_a_graph_with_a_task_axis():
    features = noise(6, 51, 40, 1).reshape(2, 3, 51, 40, 1)
    data = tf.data.Dataset.from_tensors(features)
    steps = tf.data.Dataset.counter()
    mapped = tf.data.Dataset.zip(data.repeat(), steps).map(
        lambda x, step: augment(x, tf.stack([7, tf.cast(step, tf.int32)]))
    )
    first, second = list(mapped.take(2).as_numpy_iterator())
    assert first.shape == features.shape
    assert mapped.element_spec.shape == features.shape
    assert np.abs(first - second).max() > 0.5
    np.testing.assert_allclose(first, augment(features, (7, 0)), atol=1e-5)


@pytest.fixture(scope="module")
def few():
    """Three calls of each of two classes, as a training split."""
    data = load("sounds", "validation")
    numbers = [0, 1, 2, 20, 21, 22]
    return replace(
        data,
        split="train",
        items=data.items[numbers],
        labels=data.labels[numbers],
        class_names=data.class_names[:2],
        class_groups=data.class_groups[:2],
        item_names=tuple(data.item_names[i] for i in numbers),
        item_groups=("",) * 6,
        read=lambda index: data.waveform(numbers[index]),
        content="six calls",
    )


def test_copies_are_of_the_same_class_and_differ(few, monkeypatch):
    more = with_copies(few, 2)
    assert more.items.shape == (18, 51, 40, 1)
    assert more.labels.tolist() == few.labels.tolist() * 3
    assert len(more.item_names) == len(more.item_groups) == 18
    np.testing.assert_array_equal(more.items[:6], few.items)
    copies = more.items[6:].reshape(12, -1)
    assert len(np.unique(copies.round(3), axis=0)) == 12
    assert not np.array_equal(more.waveform(6), few.waveform(0))
    assert more.item_names[6] == few.item_names[0] + "'"
    monkeypatch.setattr("common.audio.features", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(with_copies(few, 2).items, more.items)
    assert with_copies(few, 0) is few


def test_only_training_sounds_are_changed(few):
    with pytest.raises(UserError, match="split 'test'"):
        with_copies(replace(few, split="test"), 1)
    with pytest.raises(UserError, match="-1 copies"):
        with_copies(few, -1)


def test_a_changed_waveform_is_of_about_that_length(few):
    wave = few.waveform(0)
    lengths = []
    for seed in range(10):
        changed = changed_waveform(wave, 8000, np.random.default_rng(seed))
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        lengths.append(len(changed) / len(wave))
    assert 0.75 < min(lengths) < 0.95
    assert 1.05 < max(lengths) < 1.4
