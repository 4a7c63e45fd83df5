"""Data sets by name, and what a FewShotData must be."""

from common.datasets import DATA_SETS, SPLITS, FewShotData, load
from common.errors import UserError

import numpy as np
import pytest


def few_shot_data(**changes):
    values = {
        "items": np.zeros((4, 2), np.float32),
        "labels": np.array([0, 0, 1, 1], np.int32),
        "class_names": ("a", "b"),
        "class_groups": ("g", "g"),
        "name": "small",
        "split": "train",
    }
    return FewShotData(**(values | changes))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("glyph", "Did you mean glyphs?"),
        ("Omniglot", "Did you mean omniglot?"),
        ("cifar10", "glyphs, omniglot, omniglot-random, "),
        ("", "Received: ''"),
        ("folders:x", "Received: 'folders:x'"),
    ],
)
def test_an_unknown_name_lists_what_there_is(name, hint):
    with pytest.raises(UserError) as caught:
        load(name, "train")
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_without_its_prefix_is_recognised(tmp_path):
    with pytest.raises(UserError, match=f"Did you mean folder:{tmp_path}"):
        load(str(tmp_path), "train")


@pytest.mark.parametrize("split", ["val", "Train", None])
def test_an_unknown_split_lists_the_splits(split):
    with pytest.raises(UserError, match="train, validation, test"):
        load("glyphs", split)


def test_a_missing_data_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load("omniglot", "train", tmp_path / "nowhere")


def test_sine_is_a_distribution_of_tasks():
    for split in SPLITS:
        assert hasattr(load("sine", split), "sample")


def test_every_data_set_says_where_it_is_from():
    for data_set in DATA_SETS.values():
        assert data_set.summary
        assert data_set.source
        assert data_set.licence


def test_few_shot_data_describes_itself_briefly():
    assert repr(few_shot_data()) == (
        "FewShotData(small, train: 2 classes, 4 items of shape (2,), float32)"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.array([0, 0, 1])},
        {"labels": np.array([0, 0, 0, 0])},
        {"labels": np.array([0, 0, 1, 2])},
        {"class_groups": ("g",)},
    ],
)
def test_labels_and_names_must_agree(changes):
    with pytest.raises(UserError, match="Expected"):
        few_shot_data(**changes)


def test_from_drawings_labels_in_order():
    drawings = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    data = FewShotData.from_drawings(
        drawings, class_names=("a", "b"), class_groups=("g", "h"), name="x", split="test"
    )
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.labels.dtype == np.int32
    np.testing.assert_array_equal(data.items[4, ..., 0], drawings[1, 1])
