"""Synthetic calls, and data sets of sounds by name."""

import hashlib
import subprocess
import sys
from pathlib import Path

from common import audio, sound_synthesis, sounds
from common.audio import SoundFormat
from common.datasets import SPLITS
from common.datasets import load as load_any
from common.errors import UserError
from common.sounds import load

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def splits():
    return {split: load("sounds", split) for split in SPLITS}


def test_sizes_names_and_groups(splits):
    assert [len(splits[split].class_names) for split in SPLITS] == [100, 20, 40]
    names = [name for data in splits.values() for name in data.class_names]
    assert len(set(names)) == 160
    for data in splits.values():
        assert data.items.shape == (20 * len(data.class_names), 51, 40, 1)
        assert data.items.dtype == np.float32
        assert np.isfinite(data.items).all()
        assert (np.bincount(data.labels) == 20).all()
        assert set(data.class_groups) <= {"1 syllable", "2 syllables", "3 syllables", "4 syllables"}
        assert len(data.item_names) == len(data.item_groups) == len(data.items)


def test_it_is_the_data_set_of_that_name(splits):
    data = load_any("sounds", "validation")
    np.testing.assert_array_equal(data.items, splits["validation"].items)


def test_a_waveform_is_that_of_its_item(splits):
    data = splits["test"]
    wave = data.waveform(57)
    assert wave.shape == (data.rate,)
    assert wave.dtype == np.float32
    assert 0.2 < np.abs(wave).max() <= 1
    (item,) = audio.features([wave], data.sound_format)
    np.testing.assert_allclose(item, data.items[57], atol=1e-4)
    np.testing.assert_array_equal(wave, sound_synthesis.waveform(122, 17))
    assert data.item_names[57] == "call 122, 17"


def test_calls_are_the_same_in_every_process():
    program = (
        "import hashlib; from common import sound_synthesis as s;"
        "print(hashlib.sha256((1e4 * s.waveform(3, 4)).round().tobytes()).hexdigest())"
    )
    here = hashlib.sha256((1e4 * sound_synthesis.waveform(3, 4)).round().tobytes()).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == here


def test_calls_differ_within_and_between_classes():
    waves = [sound_synthesis.waveform(c, n) for c in range(3) for n in range(3)]
    correlations = np.abs(np.corrcoef(waves) - np.eye(len(waves)))
    assert correlations.max() < 0.6


def nearest_neighbour_accuracy(data, n_way=5, n_episodes=400):
    """One-shot, on the features themselves."""
    items = data.items.reshape(len(data.class_names), sounds.N_CALLS, -1)
    random, right = np.random.default_rng(0), []
    for _ in range(n_episodes):
        classes = random.choice(len(items), n_way, replace=False)
        pairs = [items[c, random.choice(sounds.N_CALLS, 2, replace=False)] for c in classes]
        support, query = np.swapaxes(pairs, 0, 1)
        distances = np.sum((query[:, None] - support[None]) ** 2, axis=-1)
        right.append(np.mean(np.argmin(distances, axis=1) == np.arange(n_way)))
    return np.mean(right)


def test_there_is_something_to_learn(splits):
    """Neighbours among raw features are above chance, 0.2, and far from certain."""
    assert 0.35 < nearest_neighbour_accuracy(splits["test"]) < 0.75


def test_other_formats():
    sound_format = SoundFormat(kind="mfcc", rate=16000, hop=320, window=512)
    data = load("sounds", "validation", sound_format=sound_format)
    assert data.items.shape[1:] == (51, 20, 1)
    assert data.waveform(0).shape == (16000,)


def test_the_second_load_is_from_the_cache(splits, monkeypatch):
    monkeypatch.setattr(sound_synthesis, "waveform", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(load("sounds", "test").items, splits["test"].items)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("glyphs", "train"), "sounds, fsdd, fsdd-speakers, folder:PATH"),
        (("sounds", "all"), "train, validation, test"),
        (("sounds", "train", None, 1), "split in one way only"),
        (("fsdd", "train", None, 5), "fold from 0 to 4"),
        (("fsdd-speakers", "train", None, -1), "fold from 0 to 5"),
        (("folder:nowhere", "train"), "no such folder"),
    ],
)
def test_what_cannot_be_loaded(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
