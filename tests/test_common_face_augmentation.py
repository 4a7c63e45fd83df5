"""Pictures changed for training: how, how much, and the same for the same seed."""

from common.face_augmentation import augment

import numpy as np
import pytest
import tensorflow as tf

NOTHING = {"mirror": 0.0, "shift": 0.0, "turn": 0.0, "zoom": 0.0, "contrast": 0.0}
SEED = tf.constant([1, 2])


@pytest.fixture
def images():
    """Smooth pictures, of which no two parts are alike."""
    y, x = np.mgrid[:56, :46] / 56
    random = np.random.default_rng(0)
    waves = [np.sin(a * x + b * y) for a, b in random.uniform(-6, 6, (32, 2))]
    return (0.5 + 0.3 * np.array(waves, np.float32))[..., None]


def test_nothing_changes_nothing(images):
    np.testing.assert_allclose(augment(images, SEED, **NOTHING), images, atol=1e-5)


def test_mirrored_is_mirrored(images):
    mirrored = augment(images, SEED, **NOTHING | {"mirror": 1.0})
    np.testing.assert_allclose(mirrored, images[:, :, ::-1], atol=1e-5)
    some = augment(images, SEED, **NOTHING | {"mirror": 0.5}).numpy()
    changed = np.abs(some - images).max(axis=(1, 2, 3)) > 1e-3
    assert 4 < changed.sum() < 28


def test_a_shift_moves_at_most_so_far(images):
    dot = np.zeros((64, 41, 41, 1), np.float32)
    dot[:, 20, 20] = 1.0
    moved = augment(dot, SEED, **NOTHING | {"shift": 0.1}).numpy()[..., 0]
    y, x = np.mgrid[:41, :41]
    for axis in (y, x):
        places = (moved * axis).sum((1, 2)) - 20
        assert np.abs(places).max() <= 4.1 + 1e-3
        assert places.min() < -2 < 2 < places.max()


def test_a_turn_and_a_zoom_leave_the_middle(images):
    for change in ({"turn": 0.3}, {"zoom": 0.2}):
        changed = augment(images[:, :55, :45], SEED, **NOTHING | change).numpy()
        np.testing.assert_allclose(changed[:, 27, 22], images[:, 27, 22], atol=0.01)
        assert np.abs(changed - images[:, :55, :45]).max() > 0.1


def test_contrast_and_brightness_are_one_line(images):
    changed = augment(images, SEED, **NOTHING | {"contrast": 0.1}).numpy()
    for before, after in zip(images, changed, strict=True):
        inside = (after > 0.01) & (after < 0.99)
        slope, offset = np.polyfit(before[inside], after[inside], 1)
        assert 0.9 <= slope <= 1.1
        np.testing.assert_allclose(slope * before[inside] + offset, after[inside], atol=1e-4)


def test_the_seed_decides_and_every_picture_changes_in_its_own_way(images):
    same = np.repeat(images[:1], 6, 0)
    first, again = (augment(same, SEED).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = augment(same, tf.constant([1, 3])).numpy()
    assert np.abs(first - other).max(axis=(1, 2, 3)).min() > 0.01
    assert len({float(picture.sum()) for picture in first}) == 6
    assert first.shape == same.shape
    assert first.min() >= 0
    assert first.max() <= 1


def test_it_works_in_tf_data_as_outside(images):
    data = tf.data.Dataset.from_tensors(images).map(lambda x: augment(x, SEED))
    (inside,) = data
    np.testing.assert_allclose(inside, augment(images, SEED), atol=1e-5)
