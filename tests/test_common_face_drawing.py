"""Invented people: who they are does not depend on the picture, and it can be seen."""

from types import SimpleNamespace

from common.face_drawing import draw_face
from common.face_people import CIRCUMSTANCES, TRAITS, circumstances, person

import numpy as np
import pytest

SEED = 1
# Nobody else's circumstances: straight ahead, light from everywhere, no noise.
PLAIN = SimpleNamespace(
    **dict.fromkeys(CIRCUMSTANCES, 0.0)
    | {"zoom": 1.0, "mouth_open": -1.0, "eyes_open": 1.0, "blink": 1.0, "ambient": 1.0}
    | {"exposure": 1.0, "background": 128.0, "clothes": 60.0, "collar": 0.2, "glasses": 1.0}
)


def drawn(who, **changes):
    how = SimpleNamespace(**vars(PLAIN) | changes)
    return draw_face(who, how, np.random.default_rng(0)).astype(float)


def middle(picture):
    """Where the dark features of the face are: its centre of darkness, x and y."""
    face = picture[15:45, 8:38]
    dark = np.maximum(0, np.median(face) - 30 - face)
    y, x = np.mgrid[:30, :30]
    return (dark * x).sum() / dark.sum(), (dark * y).sum() / dark.sum()


def test_traits_are_the_persons_and_circumstances_the_pictures():
    assert person(7, SEED) == person(7, SEED) != person(8, SEED)
    hows = [circumstances(7, picture, SEED) for picture in range(10)]
    assert len({how.yaw for how in hows}) == 10
    assert hows[3] == circumstances(7, 3, SEED)
    assert hows[3].yaw != circumstances(8, 3, SEED).yaw
    assert not set(TRAITS) & set(CIRCUMSTANCES)


def test_values_are_within_their_ranges():
    for ranges, values in (
        (TRAITS, [person(number, SEED) for number in range(50)]),
        (CIRCUMSTANCES, [circumstances(number, 0, SEED) for number in range(50)]),
    ):
        for name, (low, high) in ranges.items():
            found = [getattr(value, name) for value in values]
            assert low <= min(found) < max(found) <= high


@pytest.mark.parametrize("number", range(12))
def test_a_drawing_is_a_grey_picture_that_does_not_fail(number):
    for picture in range(3):
        random = np.random.default_rng(0)
        face = draw_face(person(number, SEED), circumstances(number, picture, SEED), random)
        assert face.shape == (56, 46)
        assert face.dtype == np.uint8
        assert face.std() > 10


def test_the_face_turns_with_the_head():
    who = person(1, SEED)
    who.mole = who.stubble = who.beard = who.freckles = -1
    left, ahead, right = (middle(drawn(who, yaw=yaw))[0] for yaw in (-0.4, 0.0, 0.4))
    assert left + 2 < ahead < right - 2
    up, down = (middle(drawn(who, pitch=pitch))[1] for pitch in (-0.2, 0.2))
    assert up + 1 < down


def test_the_whole_picture_moves_with_a_shift():
    who = person(1, SEED)
    four_pixels = 4 / 20.5
    still, moved = drawn(who), drawn(who, shift_x=four_pixels)
    np.testing.assert_allclose(moved[5:35, 10:40], still[5:35, 6:36], atol=3)


def test_light_from_the_left_makes_the_left_brighter():
    who = person(1, SEED)
    face = drawn(who, ambient=0.4, light_x=-0.8)[25:40]
    assert face[:, 10:18].mean() > face[:, 28:36].mean() + 15


@pytest.mark.parametrize(
    "changes",
    [
        {"glasses": 0.0, "glasses_size": 0.22, "glasses_roundness": 2.0, "glasses_frame": 3.0},
        {"mouth_open": 1.0},
        {"blink": 0.0},
        {"smile": 1.0},
        {"roll": 0.15},
        {"zoom": 1.1},
        {"noise": 5.0},
        {"blur": 0.6},
    ],
)
def test_every_circumstance_is_visible_and_people_differ_more(changes):
    who, other = person(1, SEED), person(3, SEED)
    change = np.abs(drawn(who, **changes) - drawn(who)).mean()
    assert change > 0.3
    assert np.abs(drawn(who) - drawn(other)).mean() > change


@pytest.mark.parametrize("trait", ["width", "jaw", "eye_distance", "nose_end", "mouth_width"])
def test_every_trait_is_visible(trait):
    who = person(1, SEED)
    low, high = (SimpleNamespace(**vars(who) | {trait: value}) for value in TRAITS[trait])
    assert np.abs(drawn(low) - drawn(high)).max() > 25
