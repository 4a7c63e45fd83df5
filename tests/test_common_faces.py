"""Data sets of faces: the invented people, folders, and what all of them share."""

import os
import subprocess
import sys

from common import datasets, faces
from common.datasets import SPLITS, load
from common.errors import UserError
from common.faces import draw_pictures

import cv2
import numpy as np
import pytest


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Few people, so that they are drawn in a moment."""
    few_people = {"train": range(6), "validation": range(6, 9), "test": range(9, 12)}
    monkeypatch.setattr(faces, "PEOPLE", few_people)
    monkeypatch.setenv("META_LEARNING_CACHE", str(tmp_path / "cache"))


def test_splits_share_no_person(few):
    names = []
    for split, n_people in zip(SPLITS, (6, 3, 3), strict=True):
        data = load("faces", split)
        assert data.items.shape == (n_people * 10, 56, 46, 1)
        assert data.items.dtype == np.uint8
        assert (np.bincount(data.labels) == 10).all()
        names += data.class_names
        np.testing.assert_array_equal(
            data.items[:10, ..., 0], draw_pictures(int(data.class_names[0].removeprefix("person")))
        )
    assert len(set(names)) == len(names) == 12


def test_the_sizes_are_as_documented():
    assert [len(faces.PEOPLE[split]) for split in SPLITS] == [300, 40, 60]
    assert len(set().union(*faces.PEOPLE.values())) == 400


def test_the_second_load_is_from_the_cache(few, monkeypatch):
    first = load("faces", "test")
    monkeypatch.setattr(faces, "draw_pictures", lambda *_: pytest.fail("drawn again"))
    np.testing.assert_array_equal(load("faces", "test").items, first.items)


def test_pictures_are_the_same_in_every_process():
    code = "from common.faces import draw_pictures; print(int(draw_pictures(4, 3).sum()))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    assert int(printed) == draw_pictures(4, 3).sum()
    np.testing.assert_array_equal(draw_pictures(4, 5)[:3], draw_pictures(4, 3))


def test_a_person_is_recognised_better_than_by_chance_but_not_by_pixels_alone():
    pictures = np.array([draw_pictures(number, 4) for number in range(1000, 1030)], np.float32)
    x = pictures.reshape(30, 4, -1)
    distances = np.linalg.norm(x[:, 0, None] - x[None, :, 1], axis=-1)  # to one of each
    recognised = (distances.argmin(1) == np.arange(30)).mean()
    assert 1.5 / 30 < recognised < 0.6


def test_a_folder_of_people(tmp_path):
    for person in range(8):
        for number in range(2):
            path = tmp_path / f"name{person}" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), np.full((90, 60), 20 * person, np.uint8))
    names = []
    for split in SPLITS:
        data = faces.load(f"folder:{tmp_path}", split)
        assert data.items.shape[1:] == (56, 46, 1)
        names += data.class_names
    assert sorted(names) == [f"name{person}" for person in range(8)]


@pytest.mark.parametrize("fold", [-1, 4, 1.5])
def test_a_fold_that_there_is_not_is_refused(fold):
    with pytest.raises(UserError, match="fold out of 0 to 3"):
        faces.load("faces", "train", fold=fold)


def test_other_names_and_splits_are_refused():
    with pytest.raises(UserError, match=r"faces out of faces, att_faces, olivetti, folder:PATH"):
        faces.load("glyphs", "train")
    for name in faces.NAMES:
        assert name in datasets.DATA_SETS
        for fold in (0, 1):
            with pytest.raises(UserError, match="split out of"):
                faces.load(name, "all", fold=fold)


def test_the_default_is_called_synthetic():
    assert "synthetic" in datasets.DATA_SETS["faces"].summary
