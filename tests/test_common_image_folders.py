"""A folder of one's own images, whole and damaged."""

from common.datasets import SPLITS, load
from common.errors import UserError
from common.image_folders import load_image_folder, split_by_name
from common.images import decode_image

import cv2
import numpy as np
import pytest


def write(path, value=100, shape=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    path.write_bytes(cv2.imencode(suffix, np.full(shape, value, np.uint8))[1].tobytes())


@pytest.fixture
def folder(tmp_path):
    for index in range(8):
        for number, suffix in enumerate((".png", ".JPG", ".jpeg", ".bmp", ".pgm")):
            write(tmp_path / "own" / f"class{index}" / f"{number}{suffix}", value=20 * index)
    return tmp_path / "own"


def test_classes_are_split_and_no_class_is_in_two_splits(folder):
    splits = {split: load(f"folder:{folder}", split) for split in SPLITS}
    names = [name for data in splits.values() for name in data.class_names]
    assert sorted(names) == [f"class{index}" for index in range(8)]
    for data in splits.values():
        assert len(data.class_names) >= 2
        assert list(data.class_names) == sorted(data.class_names)
        assert data.items.shape == (5 * len(data.class_names), 28, 28, 1)
        assert set(data.class_groups) == {"own"}
        for item, label in zip(data.items, data.labels, strict=True):
            value = 20 * int(data.class_names[label][-1])
            assert np.abs(item.astype(int) - value).max() <= 2


@pytest.mark.parametrize(
    ("n_classes", "sizes"),
    [(6, (2, 2, 2)), (8, (4, 2, 2)), (15, (5, 5, 5)), (20, (10, 5, 5)), (100, (64, 16, 20))],
)
def test_split_by_name_is_sensible_for_any_number(n_classes, sizes):
    names = [f"class {index}" for index in range(n_classes)]
    splits = split_by_name(names)
    assert tuple(len(splits[split]) for split in SPLITS) == sizes
    assert splits == split_by_name(names[::-1])
    assert sorted(name for split in splits.values() for name in split) == sorted(names)


def test_splits_as_given(tmp_path):
    for split, classes in {"train": "abc", "validation": "de", "test": "fg"}.items():
        for name in classes:
            write(tmp_path / split / name / "1.png")
    for split, names in {"train": "abc", "validation": "de", "test": "fg"}.items():
        assert load(f"folder:{tmp_path}", split).class_names == tuple(names)
    write(tmp_path / "test" / "a" / "1.png")
    with pytest.raises(UserError, match="both have a"):
        load(f"folder:{tmp_path}", "train")


def test_a_missing_split_is_named(tmp_path):
    for name in "abc":
        write(tmp_path / "train" / name / "1.png")
    with pytest.raises(UserError, match="folder validation with class folders"):
        load(f"folder:{tmp_path}", "validation")


def test_a_class_may_be_called_train(folder):
    write(folder / "train" / "1.png")
    splits = [load(f"folder:{folder}", split).class_names for split in SPLITS]
    assert "train" in sum(splits, ())


def test_what_is_no_image_is_ignored(folder):
    for name in (".hidden.png", "notes.txt", "Thumbs.db"):
        (folder / "class0" / name).write_text("no image")
    write(folder / ".git" / "1.png")
    write(folder / "__MACOSX" / "1.png")
    (folder / "class0" / "folder.png").mkdir()
    assert sum(len(load(f"folder:{folder}", split).items) for split in SPLITS) == 40


def test_colour_and_size(folder):
    red = np.zeros((50, 50, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue first
    for path in folder.glob("*/*"):
        path.unlink()
        path.with_suffix(".png").write_bytes(cv2.imencode(".png", red)[1].tobytes())
    data = load_image_folder(folder, "train", size=10, colour=True)
    assert data.items.shape[1:] == (10, 10, 3)
    assert data.items[0, 0, 0].tolist() == [255, 0, 0]
    assert load_image_folder(folder, "train").items[0, 0, 0].tolist() == [76]  # its luminance


def test_resizing_averages_areas():
    halves = np.zeros((4, 4), np.uint8)
    halves[:, 1::2] = 200
    image = decode_image(cv2.imencode(".png", halves)[1].tobytes(), "x", size=2)
    assert (image == 100).all()


def test_transparent_parts_become_white():
    ink = np.zeros((30, 30, 4), np.uint8)
    ink[10:20, 10:20, 3] = 255  # black ink on nothing
    for colour in (False, True):
        image = decode_image(cv2.imencode(".png", ink)[1].tobytes(), "x", size=30, colour=colour)
        assert (image[0, 0] == 255).all()
        assert (image[15, 15] == 0).all()
        whole = decode_image(cv2.imencode(".png", ink)[1].tobytes(), "x", size=None, colour=colour)
        assert whole.shape == (30, 30, 3 if colour else 1)
        np.testing.assert_array_equal(whole, image)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".pgm"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut off"])
def test_a_damaged_image_is_named(folder, suffix, damage):
    for path in folder.glob("*/*"):
        path.unlink()
        write(path.with_suffix(suffix), shape=(64, 64))
    (path,) = folder.glob("class3/0.*") if suffix == ".png" else [folder / f"class3/0{suffix}"]
    content = path.read_bytes()
    content = {"empty": b"", "text": b"hello", "cut off": content[: len(content) // 2]}[damage]
    path.write_bytes(content)

    def load_all():
        for split in SPLITS:
            load(f"folder:{folder}", split)

    with pytest.raises(UserError, match=str(path)):
        load_all()


def test_a_missing_folder_is_named(tmp_path):
    for name in (f"folder:{tmp_path}/nowhere", "folder:"):
        with pytest.raises(UserError, match="no such folder"):
            load(name, "train")


def test_too_few_classes(tmp_path):
    with pytest.raises(UserError, match=r"at least 6 class folders .* found 0"):
        load(f"folder:{tmp_path}", "train")
    write(tmp_path / "a" / "1.png")
    with pytest.raises(UserError, match="found 1"):
        load(f"folder:{tmp_path}", "train")
    write(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(UserError, match="at least 2 class folders"):
        load(f"folder:{tmp_path}", "train")


def test_a_class_without_images_is_named(folder):
    for path in (folder / "class3").iterdir():
        path.unlink()

    def load_all():
        for split in SPLITS:
            load(f"folder:{folder}", split)

    with pytest.raises(UserError, match="class3"):
        load_all()


def test_height_and_width_may_differ(folder):
    for size, shape in (((56, 46), (56, 46)), (20, (20, 20))):
        for colour in (False, True):
            data = load_image_folder(folder, "train", size=size, colour=colour)
            assert data.items.shape[1:] == (*shape, 3 if colour else 1)


def test_an_image_keeps_its_size_or_gets_another():
    image = np.zeros((30, 20), np.uint8)
    image[:15] = 200  # the upper half
    content = cv2.imencode(".png", image)[1].tobytes()
    assert decode_image(content, "x", size=None).shape == (30, 20, 1)
    resized = decode_image(content, "x", size=(6, 10))[..., 0]
    np.testing.assert_array_equal(resized, np.repeat([[200], [0]], 3, 0) * np.ones(10))
