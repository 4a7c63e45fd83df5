"""Invented people and pictures of them, as numbers: what `common.face_drawing` draws.

A person is a set of traits that never change; a picture is a set of circumstances: pose,
expression, light, glasses. Both are drawn from ranges by seeded generators, apart from each
other, so that one person can be drawn in any circumstances and any two people in the same.

Lengths are in units of half the height of the head: y is -1 at its top and 1 at the chin, x is 0
in the middle. Tones are grey levels from 0 to 255, angles are radians.
"""

from types import SimpleNamespace

import numpy as np

TRAITS = {
    "seed": (0, 2**31),  # where the freckles and strands of hair are
    "skin": (112, 208),
    # The head: its half width; how square the jaw and the top are; how full the cheeks.
    "width": (0.62, 0.82),
    "jaw": (1.7, 3.8),
    "crown": (1.9, 2.8),
    "cheeks": (-0.06, 0.08),
    "neck": (0.36, 0.56),
    "ears": (0.11, 0.2),
    "ear_height": (-0.05, 0.15),
    # Hair: where it begins, at the middle and how it falls to the sides; its bulk and its end.
    "hair": (18, 205),
    "hairline": (-0.98, -0.42),
    "hair_parting": (-0.7, 0.7),
    "hair_sweep": (-0.25, 0.35),
    "hair_bulk": (0.03, 0.26),
    "hair_end": (-0.55, 1.25),
    "hair_wave": (0, 0.05),
    "strands": (0, 26),
    "eye_height": (-0.1, 0.07),
    "eye_distance": (0.25, 0.37),
    "eye_width": (0.12, 0.185),
    "eye_opening": (0.06, 0.115),
    "eye_slant": (-0.28, 0.28),
    "iris": (25, 150),
    "iris_size": (0.055, 0.08),
    "lid": (1.2, 3.4),
    "bags": (0, 0.4),
    "brow_height": (0.12, 0.24),
    "brow_width": (0.13, 0.24),
    "brow_thickness": (0.02, 0.085),
    "brow_arch": (-0.01, 0.09),
    "brow_slant": (-0.3, 0.25),
    "brow_tone": (-25, 45),  # lighter than the hair
    "nose_end": (0.24, 0.42),
    "nose_width": (0.08, 0.19),
    "bridge": (0.025, 0.075),
    "nostrils": (0.018, 0.04),
    "mouth_height": (0.57, 0.69),
    "mouth_width": (0.17, 0.31),
    "upper_lip": (0.02, 0.075),
    "lower_lip": (0.03, 0.1),
    "lip_tone": (0.52, 0.86),  # of the skin's
    "folds": (0, 0.4),  # from the nose to the mouth
    "freckles": (-40, 40),  # how many, if any
    "mole_x": (-0.5, 0.5),
    "mole_y": (0.05, 0.75),
    "mole": (-0.05, 0.035),
    "stubble": (-1, 0.5),
    "beard": (-1, 0.3),
    "moustache": (-1, 0.5),
}
CIRCUMSTANCES = {
    "shift_x": (-0.11, 0.11),
    "shift_y": (-0.09, 0.09),
    "zoom": (0.91, 1.09),
    "roll": (-0.16, 0.16),
    "yaw": (-0.5, 0.5),
    "pitch": (-0.2, 0.2),
    "smile": (-0.5, 1),
    "mouth_open": (-0.6, 1),  # shut if below 0
    "eyes_open": (0.6, 1.15),
    "blink": (0, 1),  # eyes shut if below `BLINKS`
    "brow_raise": (-0.03, 0.06),
    "gaze_x": (-1, 1),
    "gaze_y": (-0.5, 0.5),
    "light_x": (-0.85, 0.85),
    "light_y": (-0.7, 0.25),
    "ambient": (0.42, 0.95),  # the share of the light that comes from everywhere
    "exposure": (0.75, 1.12),
    "background": (25, 225),
    "background_slope": (-30, 30),
    "clothes": (20, 235),
    "collar": (0.1, 0.5),
    "glasses": (0, 1),  # worn if below `WEARS_GLASSES`
    "glasses_size": (0.19, 0.25),
    "glasses_roundness": (2, 5),
    "glasses_frame": (1.5, 4),
    "glasses_tone": (10, 120),
    "noise": (1, 4),  # standard deviation
    "blur": (0, 0.6),  # of the small picture, in pixels
}
BLINKS = 0.1
WEARS_GLASSES = 0.22


def draw_traits(random: np.random.Generator) -> SimpleNamespace:
    """Invents a person: a value for each of `TRAITS`."""
    return _uniform(random, TRAITS)


def draw_circumstances(random: np.random.Generator) -> SimpleNamespace:
    """Invents the circumstances of a picture: a value for each of `CIRCUMSTANCES`."""
    return _uniform(random, CIRCUMSTANCES)


def person(number: int, seed: int) -> SimpleNamespace:
    """Returns the traits of a person; they depend on `number` and `seed` alone."""
    return draw_traits(np.random.default_rng([seed, number]))


def circumstances(number: int, picture: int, seed: int) -> SimpleNamespace:
    """Returns the circumstances of a person's picture; they depend on the arguments alone."""
    return draw_circumstances(np.random.default_rng([seed, number, picture + 1]))


def _uniform(
    random: np.random.Generator, ranges: dict[str, tuple[float, float]]
) -> SimpleNamespace:
    values = {name: float(random.uniform(*bounds)) for name, bounds in ranges.items()}
    return SimpleNamespace(**values)
