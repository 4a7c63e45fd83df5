"""Figures of semi-supervised episodes, of images of any shape."""

from common import semi_figures
from common.semi_supervised import SemiSupervisedEpisode

import numpy as np
import pytest


@pytest.mark.parametrize("shape", [(6, 6, 1), (6, 4, 1), (4, 6, 3)])
def test_an_episode_shows_every_image_in_its_row(shape):
    def images(*values):
        return np.array([np.full(shape, value, np.float32) for value in values])

    episode = SemiSupervisedEpisode(
        images(0.1, 0.2), np.array([0, 1]), images(0.4, 0.3), np.array([1, 0]),
        images(0.7, 0.5, 0.6), np.array([-1, 0, 1]),
    )  # fmt: skip
    (axis,) = semi_figures.draw_episode(episode).axes
    page = axis.images[0].get_array()
    down = shape[0] + 3
    for row, expected in enumerate([(0.1, 0.3, 0.5), (0.2, 0.4, 0.6), (0.7,)]):
        shown = np.unique(page[row * down : (row + 1) * down]).astype(np.float32)
        paper = 1 if shape[-1] == 3 else 0
        assert set(shown) - {paper} == set(np.float32(expected))
    names = [text.get_text() for text in axis.texts]
    assert names == ["0", "1", "?", "support", "query", "unlabelled"]
