"""Spoken digits: made-up archives for what can go wrong, the real one where it is."""

import functools
import io
import threading
import zipfile
from http.server import HTTPServer, SimpleHTTPRequestHandler

from common import audio, datasets, files, fsdd
from common.datasets import SPLITS
from common.errors import UserError
from common.sounds import load

import numpy as np
import pytest
import soundfile

N_TAKES = 6


def recording(digit, speaker, take):
    rate = 8000 if speaker else 16000  # one speaker's are to be resampled
    times = np.arange(rate // 5) / rate
    wave = 0.5 * np.sin(2 * np.pi * (200 + 150 * digit + 20 * take) * times)
    content = io.BytesIO()
    soundfile.write(content, wave, rate, format="WAV")
    return content.getvalue()


def write_archive(path, leave_out=(), **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fsdd-1/README.md", "digits")
        archive.writestr("__MACOSX/fsdd-1/recordings/0_george_0.wav", "none")
        for digit in range(10):
            for number, speaker in enumerate(fsdd.SPEAKERS):
                for take in range(N_TAKES):
                    name = f"{digit}_{speaker}_{take}.wav"
                    if name not in leave_out:
                        content = others.get(name, recording(digit, number, take))
                        archive.writestr(f"fsdd-1/recordings/{name}", content)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(fsdd, "N_TAKES", N_TAKES)
    monkeypatch.setattr(fsdd, "SOURCE", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setattr(files, "RETRY_PAUSES", (0, 0))
    monkeypatch.setenv("META_LEARNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("META_LEARNING_DATA", raising=False)
    write_archive(tmp_path / "data" / "audio" / "fsdd.zip")
    return tmp_path / "data"


def test_digits_never_heard(small):
    tested = []
    for fold in range(5):
        train, validation, test = (load("fsdd", split, small, fold) for split in SPLITS)
        assert train.class_names == validation.class_names
        assert sorted(train.class_names + test.class_names) == sorted(fsdd.DIGITS)
        assert len(train.items) == 6 * 6
        assert len(validation.items) == 6 * 6 * 5
        assert len(test.items) == 4 * 6 * N_TAKES
        assert not set(train.item_names) & set(validation.item_names)
        tested += test.class_names
    assert sorted(tested) == sorted(2 * fsdd.DIGITS)


def test_speakers_never_heard(small):
    tested = []
    for fold in range(6):
        parts = [load("fsdd-speakers", split, small, fold) for split in SPLITS]
        speakers = [set(data.item_groups) for data in parts]
        assert [len(some) for some in speakers] == [4, 1, 1]
        assert set.union(*speakers) == set(fsdd.SPEAKERS)
        for data in parts:
            assert data.class_names == fsdd.DIGITS
        tested += speakers[2]
    assert sorted(tested) == sorted(fsdd.SPEAKERS)


@pytest.mark.parametrize("name", ["fsdd", "fsdd-speakers"])
def test_labels_names_and_waveforms_agree(small, name):
    data = load(name, "test", small, fold=1)
    for index in (0, 7, len(data.items) - 1):
        digit, speaker, take = data.item_names[index].split("_")
        assert data.class_names[data.labels[index]] == fsdd.DIGITS[int(digit)]
        assert data.item_groups[index] == speaker
        wave = data.waveform(index)
        spectrum = np.abs(np.fft.rfft(wave, 8000))
        assert np.argmax(spectrum) == pytest.approx(200 + 150 * int(digit) + 20 * int(take), abs=3)
        (item,) = audio.features([wave], data.sound_format)
        np.testing.assert_allclose(item, data.items[index], atol=1e-4)


def test_unpacked_recordings_give_the_same(small, tmp_path):
    zipfile.ZipFile(small / "audio" / "fsdd.zip").extractall(tmp_path / "unpacked" / "fsdd")
    expected, found = (load("fsdd", "test", folder) for folder in (small, tmp_path / "unpacked"))
    np.testing.assert_array_equal(found.items, expected.items)
    assert found.item_names == expected.item_names


def test_the_second_load_is_from_the_cache(small, monkeypatch):
    first = datasets.load("fsdd", "train", small)
    monkeypatch.setattr(fsdd, "_read", lambda *_: pytest.fail("read again"))
    np.testing.assert_array_equal(load("fsdd", "train", small).items, first.items)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_an_archive_that_is_none_is_named(small, damage):
    path = small / "audio" / "fsdd.zip"
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    with pytest.raises(UserError, match=r"fsdd\.zip") as caught:
        load("fsdd", "train", small)
    assert "\n" not in str(caught.value)


def test_missing_recordings_are_counted(small):
    write_archive(small / "audio" / "fsdd.zip", ("3_theo_2.wav", "9_lucas_0.wav"))
    with pytest.raises(UserError, match=r"2 are missing, such as 3_theo_2\.wav"):
        load("fsdd", "train", small)


def test_a_damaged_recording_is_named(small):
    write_archive(small / "audio" / "fsdd.zip", **{"3_theo_2.wav": b"x"})
    with pytest.raises(UserError, match=r"3_theo_2\.wav"):
        load("fsdd", "train", small)


def test_without_a_network_the_message_names_the_alternative(small, tmp_path):
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # a failed download leaves nothing that looks like the data set
        with pytest.raises(UserError, match=r"--data-dir .* sounds") as caught:
            load("fsdd", "train", tmp_path / "empty")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("whole", [True, False])
def test_recordings_that_are_nowhere_are_downloaded(small, tmp_path, monkeypatch, whole):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    if not whole:
        write_archive(small / "audio" / "fsdd.zip", ("3_theo_2.wav",))
    server = HTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=small / "audio"))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setattr(fsdd, "SOURCE", f"http://127.0.0.1:{server.server_port}/fsdd.zip")
    kept = tmp_path / "keras" / "datasets" / "audio" / "fsdd.zip"
    try:
        if whole:
            assert len(load("fsdd", "test").items) == 4 * 6 * N_TAKES
        else:
            with pytest.raises(UserError, match="1 are missing"):
                load("fsdd", "test")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert kept.exists() == whole


def test_the_real_digits(real_data):
    folder = real_data("audio/fsdd.zip").parent.parent
    data = load("fsdd", "test", folder)
    assert data.items.shape == (1200, 51, 40, 1)
    assert np.isfinite(data.items).all()
    assert [len(load("fsdd", split, folder).items) for split in SPLITS] == [1620, 180, 1200]
    speakers = [load("fsdd-speakers", split, folder) for split in SPLITS]
    assert [len(part.items) for part in speakers] == [2000, 500, 500]
    # Same digit, same speaker: alike already among raw features.
    flat = data.items.reshape(4, 6, 50, -1)
    within = np.mean((flat[:, :, 0] - flat[:, :, 1]) ** 2)
    between = np.mean((flat[:, :, 0] - np.roll(flat[:, :, 1], 1, axis=0)) ** 2)
    assert within < 0.7 * between
