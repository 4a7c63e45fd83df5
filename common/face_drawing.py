"""Draws an invented person in given circumstances, with OpenCV, large and then made small.

From back to front: hair, neck and clothes, the head, its features, hair, glasses. Light falls on
a round head; background, blur and noise come last.
"""

from types import SimpleNamespace

from common.face_features import draw_features
from common.face_hair import draw_beard, draw_hair_behind, draw_hair_in_front
from common.face_head import FRACTION_BITS, HEIGHT, MIDDLE, SCALE, UNIT, WIDTH, Head, ellipse
from common.face_people import WEARS_GLASSES

import cv2
import numpy as np


def draw_face(
    who: SimpleNamespace, how: SimpleNamespace, random: np.random.Generator
) -> np.ndarray:
    """Draws a picture.

    Args:
        who: Traits, from `common.face_people.draw_traits`.
        how: Circumstances, from `common.face_people.draw_circumstances`.
        random: Draws the noise.

    Returns:
        uint8 `(56, 46)`.
    """
    head = Head(who, how)
    draw_hair_behind(head)
    _draw_body(head)
    head.fill(head.outline(), who.skin)
    before = head.image.copy()
    draw_beard(head)
    draw_features(head)
    # What a turn of the head moved beyond its outline is hidden.
    inside = np.zeros_like(head.mask)
    cv2.fillPoly(inside, [head.place(head.outline())], 255, cv2.LINE_AA, FRACTION_BITS)
    head.image = np.where(inside > 127, head.image, before)
    draw_hair_in_front(head)
    if how.glasses < WEARS_GLASSES:
        _draw_glasses(head)
    return _expose(head, random)


def _draw_body(head: Head) -> None:
    who, how = head.who, head.how
    edges = np.array([[-1, 0.3], [1, 0.3], [1.05, 1.0], [1.5, 1.6], [-1.5, 1.6], [-1.05, 1.0]])
    neck = edges * [who.neck * who.width / 0.7, 1]
    head.fill(neck, who.skin * 0.8)
    shadow = np.clip(head.outline(0.2, 1) * [0.85, 1.13], [-neck[2, 0], -1], [neck[2, 0], 2])
    head.fill(shadow, who.skin * 0.5, 0.7)
    x = np.linspace(-1.9, 1.9, 41)
    neckline = 1.04 + how.collar * np.exp(-((x / 0.34) ** 2)) + 0.13 * x**2
    head.fill(np.concatenate([np.stack([x, neckline], 1), [[1.9, 3], [-1.9, 3]]]), how.clothes)
    for side in (-1, 1):  # the ear on the side that the head turns to hides behind it
        hidden = max(0.0, side * np.sin(how.yaw))
        centre = [side * (who.width * (1 - 0.35 * hidden)), who.ear_height - 0.3 * how.pitch]
        head.fill(ellipse(centre, who.ears * 0.62, who.ears), who.skin * 0.93)
        head.fill(ellipse(centre, who.ears * 0.34, who.ears * 0.6), who.skin * 0.72, 0.5)


def _draw_glasses(head: Head) -> None:
    who, how = head.who, head.how
    angles = np.linspace(0, 2 * np.pi, 33)
    x, y = np.cos(angles), np.sin(angles)
    norm = (np.abs(x) ** how.glasses_roundness + np.abs(y) ** how.glasses_roundness) ** (
        1 / how.glasses_roundness
    )
    rim = np.stack([x / norm, 0.85 * y / norm], 1) * how.glasses_size
    for side in (-1, 1):
        centre = np.array([side * max(who.eye_distance, how.glasses_size + 0.04), who.eye_height])
        lens = head.turn(rim + centre, out=0.08)
        head.fill(lens, 235, 0.12)
        head.line(lens, how.glasses_tone, how.glasses_frame)
        start = head.turn([centre + np.array([side * how.glasses_size, -0.05])], out=0.08)[0]
        if side * start[0] < who.width - 0.06:
            end = [side * who.width, start[1] + 0.02]
            head.line(np.array([start, end]), how.glasses_tone, how.glasses_frame)
    gap = max(who.eye_distance, how.glasses_size + 0.04) - how.glasses_size
    bridge = [
        [-gap, who.eye_height - 0.03],
        [0, who.eye_height - 0.07],
        [gap, who.eye_height - 0.03],
    ]
    head.line(head.turn(bridge, out=0.1), how.glasses_tone, how.glasses_frame)


def _expose(head: Head, random: np.random.Generator) -> np.ndarray:
    """Makes the drawing small, lights it and lays it on its background."""
    who, how = head.who, head.how
    image, opaque = (
        cv2.resize(layer, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
        for layer in (head.image, head.mask)
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    size = UNIT / SCALE * how.zoom
    normal_x = (x - WIDTH / 2 - how.shift_x * UNIT / SCALE) / (size * who.width * 1.45)
    normal_y = (y - HEIGHT * MIDDLE - how.shift_y * UNIT / SCALE) / (size * 1.45)
    normal_z = np.sqrt(np.maximum(0.1, 1 - normal_x**2 - normal_y**2))
    light = np.array([how.light_x, how.light_y, 0.75])
    light /= np.linalg.norm(light)
    direct = np.maximum(0, normal_x * light[0] + normal_y * light[1] + normal_z * light[2])
    shade = how.exposure * (how.ambient + (1 - how.ambient) * 1.15 * direct)
    background = how.background + how.background_slope * (y / HEIGHT - 0.5 + x / WIDTH - 0.5)
    picture = image * shade + (1 - opaque / 255) * background
    if how.blur > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), how.blur)
    return _bytes(picture + random.normal(0, how.noise, picture.shape))


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
