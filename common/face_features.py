"""Eyes, brows, nose, mouth and marks of an invented person's face."""

from common.face_head import Head, ellipse
from common.face_people import BLINKS

import numpy as np

ARC = np.linspace(-1, 1, 17)
ROUND = 1 - ARC**2  # an arc over -1 to 1, of height 1


def draw_features(head: Head) -> None:
    """Draws all features onto the bare face."""
    _draw_marks(head)
    _draw_nose(head)
    for side in (-1, 1):
        _draw_eye(head, side)
        _draw_brow(head, side)
    _draw_mouth(head)


def _draw_marks(head: Head) -> None:
    who = head.who
    random = np.random.default_rng(int(who.seed))
    for x, y in random.uniform((-0.5, -0.05), (0.5, 0.35), (max(0, int(who.freckles)), 2)):
        head.fill(head.turn(ellipse((x, y), 0.018, 0.018)), who.skin * 0.62, 0.6)
    if who.mole > 0:
        spot = ellipse((who.mole_x * who.width, who.mole_y), who.mole, who.mole)
        head.fill(head.turn(spot), who.skin * 0.35, 0.9)
    for side in (-1, 1):
        start = (side * (who.nose_width + 0.04), who.nose_end)
        end = (side * (who.mouth_width + 0.08), who.mouth_height)
        middle = (side * (who.mouth_width + 0.05), (start[1] + end[1]) / 2)
        head.line(head.turn([start, middle, end]), who.skin * 0.55, 4, who.folds)


def _draw_eye(head: Head, side: int) -> None:
    who, how = head.who, head.how
    centre = np.array([side * who.eye_distance, who.eye_height])
    opening = who.eye_opening * how.eyes_open if how.blink > BLINKS else 0.0
    slant = -who.eye_slant * side * ARC * who.eye_width  # the outer corner goes up
    x = ARC * who.eye_width
    upper = np.stack([x, slant - ROUND * opening], 1) + centre
    lower = np.stack([x, slant + ROUND * opening * 0.75], 1) + centre
    socket = ellipse(centre - [0, 0.03], who.eye_width * 1.25, who.eye_opening * 1.9 + 0.03)
    head.fill(head.turn(socket), who.skin * 0.72, 0.4)
    bag = np.stack([x * 0.9, ROUND * 0.045 + who.eye_opening + 0.035], 1) + centre
    head.line(head.turn(bag), who.skin * 0.55, 4, who.bags)
    if opening > 0:
        almond = np.concatenate([upper, lower[::-1]])
        head.fill(head.turn(almond), min(250, who.skin * 0.4 + 150))
        looks = np.array([how.gaze_x * who.eye_width * 0.35, how.gaze_y * opening * 0.4])
        gaze = centre + looks
        for size, tone in ((who.iris_size, who.iris), (who.iris_size * 0.5, 12)):
            disc = ellipse(gaze, size, size)
            u = np.clip((disc[:, 0] - centre[0]) / who.eye_width, -1, 1)
            tilt = centre[1] - who.eye_slant * side * u * who.eye_width
            disc[:, 1] = np.clip(
                disc[:, 1], tilt - (1 - u**2) * opening, tilt + (1 - u**2) * opening * 0.75
            )
            head.fill(head.turn(disc), tone)
        glint = ellipse(gaze - [0.02, 0.025], 0.014, 0.014)
        head.fill(head.turn(glint), 250, 0.8)
    head.line(head.turn(upper), who.skin * 0.22, who.lid * 1.4)
    head.line(head.turn(lower), who.skin * 0.45, 1.5, 0.7)


def _draw_brow(head: Head, side: int) -> None:
    who, how = head.who, head.how
    middle = np.array([side * (who.eye_distance + 0.01), who.eye_height - who.brow_height])
    rise = how.brow_raise + who.brow_arch * ROUND
    slant = -who.brow_slant * side * ARC * who.brow_width
    inner = 1 - 0.45 * (side * ARC + 1) / 2  # thinner outwards
    x = ARC * who.brow_width
    upper = np.stack([x, slant - rise - who.brow_thickness * inner], 1) + middle
    lower = np.stack([x, slant - rise + who.brow_thickness * 0.3 * inner], 1) + middle
    tone = min(who.hair + who.brow_tone, who.skin * 0.78)
    head.fill(head.turn(np.concatenate([upper, lower[::-1]])), tone, 0.9)


def _draw_nose(head: Head) -> None:
    who, how = head.who, head.how
    side = -1 if how.light_x > 0 else 1  # the side in shadow
    dark = 0.35 + 0.3 * (1 - how.ambient)
    bridge = [[0, who.eye_height - 0.02], [side * who.bridge, who.eye_height + 0.02]]
    tip = [[side * who.nose_width, who.nose_end - 0.04], [0, who.nose_end + 0.02]]
    head.fill(head.turn(bridge + tip, out=0.06), who.skin * 0.72, dark)
    ridge = [[0, who.eye_height + 0.05], [0, who.nose_end - 0.08]]
    head.line(head.turn(ridge, out=0.16), who.skin * 1.13, 5, 0.5)
    base = np.stack([ARC * who.nose_width, 0.03 * np.cos(3 * ARC) + who.nose_end], 1)
    head.line(head.turn(base, out=0.1), who.skin * 0.5, 3, 0.7)
    for end in (-1, 1):
        wing = ellipse((end * who.nose_width * 0.85, who.nose_end - 0.035), 0.045, 0.06)
        head.fill(head.turn(wing, out=0.08), who.skin * 0.8, 0.5)
        hole = ellipse(
            (end * who.nose_width * 0.48, who.nose_end + 0.01), who.nostrils * 1.4, who.nostrils
        )
        head.fill(head.turn(hole, out=0.1), who.skin * 0.28, 0.85)


def _draw_mouth(head: Head) -> None:
    who, how = head.who, head.how
    width = who.mouth_width * (1 + 0.16 * how.smile)
    x = ARC * width
    corners = -0.07 * how.smile * ARC**2 + 0.02 * how.smile
    opening = max(0.0, how.mouth_open) * 0.11
    middle = who.mouth_height + corners
    bow = who.upper_lip * (ROUND**0.6 - 0.25 * np.exp(-((ARC / 0.15) ** 2)))
    top, bottom = middle - opening * 0.3 * ROUND, middle + opening * ROUND
    tone = who.skin * who.lip_tone
    upper = np.concatenate([np.stack([x, top - bow], 1), np.stack([x, top], 1)[::-1]])
    lip = who.lower_lip * ROUND**0.8
    lower = np.concatenate([np.stack([x, bottom], 1), np.stack([x, bottom + lip], 1)[::-1]])
    if opening:
        inside = np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])
        head.fill(head.turn(inside, out=0.03), 35)
        teeth = np.stack([x, np.minimum(bottom, top + 0.04 * ROUND)], 1)
        head.fill(head.turn(np.concatenate([np.stack([x, top], 1), teeth[::-1]]), out=0.03), 225)
    head.fill(head.turn(upper, out=0.04), tone * 0.92, 0.9)
    head.fill(head.turn(lower, out=0.04), tone, 0.9)
    if not opening:
        head.line(head.turn(np.stack([x, middle], 1), out=0.04), who.skin * 0.32, 2.5, 0.9)
    shade = np.stack([x * 0.6, bottom + lip + 0.05], 1)
    head.line(head.turn(shade), who.skin * 0.7, 4, 0.4)
