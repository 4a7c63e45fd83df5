"""The embedded characters: classes apart, splits apart, the same in every process."""

import hashlib
import subprocess
import sys
from pathlib import Path

from common import glyphs
from common.datasets import SPLITS, load
from common.errors import UserError
from common.glyph_drawing import draw, first_of_each_look

import numpy as np
import pytest


@pytest.fixture(scope="module")
def splits():
    return {split: load("glyphs", split) for split in SPLITS}


def test_sizes(splits):
    counts = {split: len(data.class_names) for split, data in splits.items()}
    assert sum(counts.values()) == pytest.approx(1240, abs=20)
    assert counts["train"] > 900
    assert counts["validation"] >= 80
    assert counts["test"] >= 150
    for data in splits.values():
        assert data.items.shape == (20 * len(data.class_names), 28, 28, 1)
        assert data.items.dtype == np.uint8
        assert (np.bincount(data.labels) == 20).all()


def test_names_groups_and_attributes(splits):
    train, test = splits["train"], splits["test"]
    assert train.class_names[0] == "LATIN CAPITAL LETTER A"
    assert set(train.class_groups) == {"LATIN", "GREEK"}
    assert set(splits["validation"].class_groups) == {"ARMENIAN", "DIGIT"}
    assert set(test.class_groups) == {"CYRILLIC", "GEORGIAN"}
    assert train.attribute_names == test.attribute_names
    for data in splits.values():
        assert data.attributes.shape == (len(data.class_names), len(data.attribute_names))
        for name, row in zip(data.class_names, data.attributes, strict=True):
            assert set(np.array(data.attribute_names)[row == 1]) == set(name.split())


def test_no_class_and_no_drawing_in_two_splits(splits):
    names = [name for data in splits.values() for name in data.class_names]
    assert len(set(names)) == len(names)
    drawings = [drawing.tobytes() for data in splits.values() for drawing in data.items]
    assert len(set(drawings)) == len(drawings)


def test_look_alikes_of_other_scripts_are_gone(splits):
    names = {name for data in splits.values() for name in data.class_names}
    assert "LATIN CAPITAL LETTER A" in names
    assert "GREEK CAPITAL LETTER ALPHA" not in names
    assert "CYRILLIC CAPITAL LETTER A" not in names
    assert {"GREEK CAPITAL LETTER OMEGA", "CYRILLIC CAPITAL LETTER ZHE"} <= names


def test_every_drawing_is_whole_and_legible(splits):
    for data in splits.values():
        edges = data.items.copy()
        edges[:, 1:-1, 1:-1] = 0
        assert not edges.any()
        inked = np.sum(data.items > 127, axis=(1, 2, 3))
        assert inked.min() >= 15
        assert inked.max() <= 28 * 28 / 2


def test_a_drawing_stays_in_the_frame_under_the_largest_changes():
    shape = np.full((100, 110), 255, np.uint8)
    for corner in np.ndindex(2, 2, 2, 2, 2):
        drawing = draw(shape, *(np.array(corner) * 2 - 1))
        assert drawing[:, [0, -1]].max() == drawing[[0, -1]].max() == 0
        assert drawing.max() == 255


def test_an_unchanged_drawing_is_centred():
    drawing = draw(np.full((45, 30), 255, np.uint8))  # a third of it: 15 x 10
    rows, columns = np.nonzero(drawing)
    assert rows.mean() == columns.mean() == 13.5
    assert drawing.sum() / 255 == pytest.approx(15 * 10, rel=0.1)


def test_first_of_each_look_keeps_the_first():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (2, 3, 28, 28))
    almost_a = a.copy()
    almost_a[0, 0, 0] = 0
    assert first_of_each_look(np.array([a, b, a, almost_a, b])) == [0, 1]


def test_the_same_in_another_process(splits, tmp_path):
    script = (
        "import hashlib; from common.datasets import load; data = load('glyphs', 'validation');"
        "print(hashlib.sha256(data.items.tobytes()).hexdigest(), data.class_names[7])"
    )
    other = subprocess.run(
        [sys.executable, "-c", script],
        env={"META_LEARNING_CACHE": str(tmp_path), "PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split(maxsplit=1)
    data = splits["validation"]
    assert other[0] == hashlib.sha256(data.items.tobytes()).hexdigest()
    assert other[1].strip() == data.class_names[7]


def test_a_matplotlib_without_the_fonts_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(glyphs.matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"DejaVuSans\.ttf"):
        load("glyphs", "train")
