"""Drawing characters of a font: cut to their ink, changed a little, inside a 28 x 28 frame."""

import cv2
import numpy as np
from matplotlib.ft2font import FT2Font, LoadFlags

SIZE = 28
EM = 72  # pixels of the rendered shapes: a capital is about three quarters as high
OVERSAMPLING = 3  # a drawing is made three times as large and then averaged
MARGIN = 1  # pixels that stay free at every edge
SAME_INK = 0.02  # characters that differ by less look alike


def shape_of(font: FT2Font, character: str) -> np.ndarray:
    """Renders a character in a font and cuts the bitmap to its ink: uint8 `(height, width)`."""
    font.set_size(EM, 72)  # in points at 72 dots an inch
    font.set_text(character, 0.0, flags=LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap()
    bitmap = np.asarray(font.get_image())
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    return bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def draw(
    shape: np.ndarray,
    turn: float = 0.0,
    growth: float = 0.0,
    slant: float = 0.0,
    right: float = 0.0,
    down: float = 0.0,
) -> np.ndarray:
    """Draws a shape in the middle of the frame, changed a little, never across its edge.

    A character keeps its size relative to others, and is made smaller only where the frame
    would cut it.

    Args:
        shape: uint8 `(height, width)`, cut to its ink.
        turn: -1 to 1: rotates by up to 12 degrees.
        growth: -1 to 1: scales by up to 15 %.
        slant: -1 to 1: shears by up to 0.15.
        right: -1 to 1: shifts by up to 2 pixels, where there is room.
        down: The same downwards.

    Returns:
        uint8 `(28, 28)`.
    """
    angle = np.deg2rad(12) * turn
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = (1 + 0.15 * growth) * rotation @ [[1, 0.15 * slant], [0, 1]]  # (2, 2), on (x, y)

    canvas = SIZE * OVERSAMPLING
    frame = canvas - 2 * MARGIN * OVERSAMPLING
    extent = np.abs(linear) @ shape.shape[::-1] + 1  # of the changed box, (x, y), with its blur
    shrink = min(1.0, frame / extent.max())
    room = np.minimum((frame - shrink * extent) / 2, 2 * OVERSAMPLING)

    source_centre = (np.array(shape.shape[::-1]) - 1) / 2
    offset = (canvas - 1) / 2 + room * [right, down] - shrink * linear @ source_centre
    affine = np.column_stack([shrink * linear, offset])  # (2, 3)
    large = cv2.warpAffine(shape, affine, (canvas, canvas), flags=cv2.INTER_LINEAR)
    return cv2.resize(large, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def first_of_each_look(plain: np.ndarray) -> list[int]:
    """Returns the indices of the characters that look like no character kept before them.

    Args:
        plain: `(characters, faces, 28, 28)`, each character drawn unchanged in each face.
    """
    flat = plain.reshape(len(plain), -1).astype(np.float32) / 255
    energy = np.sum(flat**2, axis=1)
    difference = energy[:, None] + energy[None] - 2 * flat @ flat.T  # squared distances
    alike = difference < SAME_INK * np.maximum(energy[:, None], energy[None])
    kept: list[int] = []
    for index in range(len(plain)):
        if not alike[index, kept].any():
            kept.append(index)
    return kept
