"""The head of an invented person: a canvas whose points move as the head turns.

`Head.turn` moves a point of the face by yaw and pitch as on an ellipsoid; `Head.place` then
moves it by roll, zoom and shift to where it is drawn.
"""

from types import SimpleNamespace

import cv2
import numpy as np

HEIGHT, WIDTH = 56, 46
SCALE = 4  # drawn so much larger
UNIT = 20.5 * SCALE  # pixels of half a head's height
MIDDLE = 0.52  # of the picture's height, where an unmoved head is
FRACTION_BITS = 4  # of OpenCV's coordinates
_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


class Head:
    """A canvas on which everything is placed relative to the head of `who` in `how`.

    Attributes:
        who: The person's traits.
        how: The picture's circumstances.
        image: uint8, the person on black.
        mask: uint8, 255 where the person is.
    """

    def __init__(self, who: SimpleNamespace, how: SimpleNamespace):
        self.who, self.how = who, how
        self.image = np.zeros((HEIGHT * SCALE, WIDTH * SCALE), np.uint8)
        self.mask = np.zeros_like(self.image)
        cos, sin = np.cos(how.roll), np.sin(how.roll)
        self._matrix = np.array([[cos, sin], [-sin, cos]]) * (UNIT * how.zoom * 2**FRACTION_BITS)
        middle = np.array([WIDTH / 2, HEIGHT * MIDDLE]) * SCALE
        moved = np.array([how.shift_x, how.shift_y]) * UNIT
        self._middle = (middle + moved) * 2**FRACTION_BITS
        self._cos_yaw, self._sin_yaw = np.cos(how.yaw), np.sin(how.yaw)
        self._cos_pitch, self._sin_pitch = np.cos(how.pitch), np.sin(how.pitch)

    def half_width(self, y: np.ndarray) -> np.ndarray:
        """Returns how far the head's outline is from its middle at heights `y`."""
        y = np.clip(y, -1, 1)
        power = np.where(y < 0, self.who.crown, self.who.jaw)
        full = 1 + self.who.cheeks * np.exp(-((y - 0.35) ** 2) / 0.08)
        return self.who.width * full * np.sqrt(np.maximum(0, 1 - np.abs(y) ** power))

    def outline(self, top: float = -1, bottom: float = 1, grow: float = 0) -> np.ndarray:
        """Returns the outline between two heights as points `(n, 2)`, clockwise from the top."""
        angles = np.linspace(np.arccos(-top), np.arccos(-bottom), 40)
        y = -np.cos(angles)
        right = np.stack([self.half_width(y) + grow * np.sin(angles), y * (1 + grow)], axis=1)
        return np.concatenate([right, right[::-1] * [-1, 1]])

    def turn(self, points: np.ndarray, out: float = 0) -> np.ndarray:
        """Turns points on the surface of the face, or `out` in front of it, by yaw and pitch."""
        points = np.asarray(points, float)
        x, y = points[:, 0], points[:, 1]
        z = 0.75 * np.sqrt(np.maximum(0.04, 1 - (x / 0.9) ** 2 - (0.75 * y) ** 2)) + out
        turned = np.empty_like(points)
        turned[:, 0] = x * self._cos_yaw + z * self._sin_yaw
        turned[:, 1] = y * self._cos_pitch + z * self._sin_pitch
        return turned

    def place(self, points: np.ndarray) -> np.ndarray:
        """Returns the pixels, in OpenCV's fixed-point numbers, of points `(..., 2)`."""
        return np.rint(points @ self._matrix + self._middle).astype(np.int32)

    def fill(self, points: np.ndarray, tone: float, opacity: float = 1) -> None:
        """Fills a polygon."""
        pixels = [self.place(points)]
        if opacity == 1:
            cv2.fillPoly(self.mask, pixels, 255, cv2.LINE_AA, FRACTION_BITS)
            cv2.fillPoly(self.image, pixels, _grey(tone), cv2.LINE_AA, FRACTION_BITS)
            return
        layer = self.image.copy()
        cv2.fillPoly(layer, pixels, _grey(tone), cv2.LINE_AA, FRACTION_BITS)
        cv2.addWeighted(layer, opacity, self.image, 1 - opacity, 0, self.image)

    def line(self, points: np.ndarray, tone: float, thickness: float, opacity: float = 1) -> None:
        """Draws a line, or several: points `(n, 2)` or `(lines, n, 2)`.

        `thickness` is in pixels of the large picture.
        """
        pixels = self.place(points)
        pixels = [pixels] if pixels.ndim == 2 else list(pixels)
        layer = self.image.copy()
        thickness = max(1, round(thickness))
        cv2.polylines(layer, pixels, False, _grey(tone), thickness, cv2.LINE_AA, FRACTION_BITS)
        cv2.addWeighted(layer, opacity, self.image, 1 - opacity, 0, self.image)


def ellipse(centre: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    """Returns points `(24, 2)` of an ellipse."""
    return CIRCLE * (half_width, half_height) + centre


def _grey(tone: float) -> int:
    return min(255, max(0, round(tone)))
