"""A folder of one's own sounds, whole and damaged."""

from common import audio_folders
from common.datasets import SPLITS
from common.errors import UserError
from common.sounds import load

import numpy as np
import pytest
import soundfile


def write(path, frequency, rate=8000, seconds=0.3, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * frequency * times)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("META_LEARNING_CACHE", str(tmp_path / "cache"))
    for index in range(6):
        for number, (suffix, rate) in enumerate(
            ((".wav", 8000), (".flac", 44100), (".ogg", 16000))
        ):
            path = tmp_path / "own" / f"class{index}" / f"{number}{suffix}"
            write(path, 300 + 300 * index, rate, 0.3 + number, 1 + number % 2)
    return tmp_path / "own"


def load_all(folder):
    return [load(f"folder:{folder}", split) for split in SPLITS]


def test_any_rate_length_and_number_of_channels(folder):
    parts = load_all(folder)
    assert sorted(name for data in parts for name in data.class_names) == [
        f"class{index}" for index in range(6)
    ]
    for data in parts:
        assert data.items.shape == (6, 51, 40, 1)
        for index, label in enumerate(data.labels):
            frequency = 300 + 300 * int(data.class_names[label][-1])
            wave = data.waveform(index)
            spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 80000))
            assert np.argmax(spectrum) / 10 == pytest.approx(frequency, abs=5)
            assert data.item_names[index].startswith(data.class_names[label] + "/")


def test_features_are_cached_by_content(folder, monkeypatch):
    before = load_all(folder)
    reads = []
    real = audio_folders.read_sound
    monkeypatch.setattr(
        audio_folders, "read_sound", lambda *given: reads.append(given) or real(*given)
    )
    for data, again in zip(before, load_all(folder), strict=True):
        np.testing.assert_array_equal(data.items, again.items)
    assert not reads
    write(folder / "class0" / "0.wav", 3000)
    load_all(folder)
    assert len(reads) == 6  # those of the split that class0 is in


def test_splits_as_given(tmp_path):
    for split, classes in {"train": "abc", "validation": "de", "test": "fg"}.items():
        for name in classes:
            write(tmp_path / split / name / "1.wav", 500)
    assert load(f"folder:{tmp_path}", "test").class_names == ("f", "g")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), r"class3/0\.wav, but it is empty"),
        (lambda path: path.write_bytes(b"hello" * 50), r"class3/0\.wav, but it is damaged"),
        (lambda path: write(path, 0), r"class3/0\.wav, but it is nothing but silence"),
        (lambda path: write(path, 0, seconds=0), r"class3/0\.wav, but it has no samples"),
        (
            lambda path: [file.unlink() for file in path.parent.iterdir()],
            "Expected sounds .*class3",
        ),
    ],
)
def test_a_damaged_file_is_named(folder, damage, message):
    damage(folder / "class3" / "0.wav")
    with pytest.raises(UserError, match=message) as caught:
        load_all(folder)
    assert "\n" not in str(caught.value)


def test_one_class_only(tmp_path):
    write(tmp_path / "a" / "1.wav", 500)
    with pytest.raises(UserError, match=r"at least 6 class folders .* found 1"):
        load(f"folder:{tmp_path}", "train")
    write(tmp_path / "train" / "a" / "1.wav", 500)
    with pytest.raises(UserError, match="at least 2 class folders"):
        load(f"folder:{tmp_path}", "train")


def test_no_folder(tmp_path):
    for name in (f"folder:{tmp_path}/nowhere", "folder:"):
        with pytest.raises(UserError, match="no such folder"):
            load(name, "train")
