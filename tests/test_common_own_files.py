"""One's own images become like those of the training data, whatever their size and colour."""

from common import own_files
from common.errors import UserError

import cv2
import numpy as np
import pytest

SHAPE = (28, 28, 1)


def letter(character, ink=0, paper=255, shape=(90, 120), at=(30, 70), thickness=6):
    image = np.full((*shape, 3), paper, np.uint8)
    return cv2.putText(image, character, at, cv2.FONT_HERSHEY_SIMPLEX, 2.2, ink, thickness)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def classes(tmp_path):
    folder = tmp_path / "classes"
    for character in "XOI":
        write(folder / f"{character}.png", letter(character, (0, 0, 0)))
    return folder


def test_dark_on_light_and_light_on_dark_become_the_same():
    dark = letter("R", (0, 0, 0), (255, 255, 255))[..., 0]
    item = own_files.as_item(dark, SHAPE, drawn=True)
    assert (item.shape, item.dtype) == (SHAPE, np.uint8)
    light = own_files.as_item(255 - dark, SHAPE, drawn=True)
    assert np.abs(light.astype(int) - item).max() <= 1
    assert item.max() == 255
    assert item[0].max() == item[-1].max() == 0  # the padding is paper
    # Faint ink on grey paper is stretched to the same.
    faint = (150 - (255 - dark.astype(int)) // 5).astype(np.uint8)
    grey = own_files.as_item(faint, SHAPE, drawn=True)
    assert np.abs(grey.astype(int) - item).max() <= 8


@pytest.mark.parametrize("shape", [(28, 28), (300, 40), (17, 500), (1, 9), (3, 3), (2000, 1500)])
def test_any_size_is_padded_to_a_square(shape):
    image = np.full(shape, 255, np.uint8)
    image[shape[0] // 3 : -(shape[0] // 3) or None, shape[1] // 3 : -(shape[1] // 3)] = 0
    image[:, [0, -1]] = 255
    item = own_files.as_item(image, SHAPE, drawn=True)[..., 0]
    assert item.max() == 255
    height, width = (round(28 * side / max(shape)) for side in shape)
    rows, columns = np.flatnonzero(item.any(axis=1)), np.flatnonzero(item.any(axis=0))
    assert np.ptp(rows) + 1 <= max(1, height)
    assert np.ptp(columns) + 1 <= max(1, width)


def test_the_whole_image_stays_in_proportion():
    image = np.zeros((40, 80), np.uint8)
    image[10:30, 20:60] = 255
    item = own_files.as_item(image, (16, 16, 1), drawn=True)[..., 0]
    expected = np.zeros((16, 16))
    expected[6:10, 4:12] = 255
    np.testing.assert_array_equal(item, expected)


@pytest.mark.parametrize(("shape", "drawn_in"), [((40, 80), (6, 10)), ((80, 40), (12, 5))])
def test_items_need_not_be_square(shape, drawn_in):
    image = np.zeros(shape, np.uint8)
    image[1:-1, 1:-1] = 255
    item = own_files.as_item(image, (12, 10, 1), drawn=False)
    assert item.shape == (12, 10, 1)
    rows, columns = item[..., 0].any(axis=1), item[..., 0].any(axis=0)
    assert abs(rows.sum() - drawn_in[0]) <= 1
    assert abs(columns.sum() - drawn_in[1]) <= 1


def test_a_transparent_drawing_is_read_as_black_on_white(tmp_path):
    ink = np.zeros((30, 20, 4), np.uint8)
    ink[10:20, 5:15, 3] = 255
    image = own_files.read_grey(write(tmp_path / "ink.png", ink))
    np.testing.assert_array_equal(image, 255 - ink[..., 3])


def test_photographs_keep_their_greys():
    image = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (50, 1))
    item = own_files.as_item(image, (50, 50, 3), drawn=False)
    np.testing.assert_array_equal(item, np.repeat(image[..., None], 3, axis=2))


def test_an_even_grey_is_no_drawing():
    for value in (0, 130, 255):
        with pytest.raises(UserError, match=r"a drawing in page.png, found an even grey"):
            own_files.as_item(np.full((30, 30), value, np.uint8), SHAPE, True, name="page.png")


def test_classes_are_folders_or_single_images(classes, tmp_path):
    found = own_files.read_classes(classes)
    assert {name: len(images) for name, images in found.items()} == {"I": 1, "O": 1, "X": 1}
    assert found["X"][0].shape == (90, 120)
    folder = tmp_path / "folders"
    for name, count in (("birch", 2), ("alder", 3)):
        for number in range(count):
            write(folder / name / f"{number}.pgm", letter("X")[..., 0])
    (folder / "alder" / "notes.txt").write_text("no image")
    found = own_files.read_classes(folder)
    assert [(name, len(images)) for name, images in found.items()] == [("alder", 3), ("birch", 2)]
