"""Reading sounds, their features, and what is no sound."""

import io
from dataclasses import replace

from common import audio
from common.audio import SoundFormat, features, fit, read_sound, trim
from common.errors import UserError

import numpy as np
import pytest
import soundfile

FORMAT = SoundFormat()


def tone(frequency, seconds=0.5, rate=8000, amplitude=0.5):
    times = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def file_of(wave, rate=8000, kind="WAV", **options):
    content = io.BytesIO()
    soundfile.write(content, wave, rate, format=kind, **options)
    return content.getvalue()


def loudest_frequency(wave, rate):
    return np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave))))) * rate / len(wave)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_resampling_keeps_a_tone_and_its_length(kind, rate):
    wave = read_sound(file_of(tone(600, rate=rate), rate, kind), 8000)
    assert wave.dtype == np.float32
    assert len(wave) == pytest.approx(4000, abs=2)
    assert loudest_frequency(wave, 8000) == pytest.approx(600, abs=3)
    assert np.abs(wave[500:-500]).max() == pytest.approx(0.5, abs=0.03)


def test_channels_are_averaged():
    both = np.stack([tone(600), np.zeros(4000, np.float32)], axis=1)
    np.testing.assert_allclose(read_sound(file_of(both)), tone(600) / 2, atol=1e-4)


def test_a_path_and_its_content_give_the_same(tmp_path):
    (tmp_path / "a.wav").write_bytes(file_of(tone(300)))
    from_path = read_sound(tmp_path / "a.wav")
    np.testing.assert_array_equal(from_path, read_sound((tmp_path / "a.wav").read_bytes()))


def whole_flac():
    return file_of(np.random.default_rng(0).uniform(-0.5, 0.5, 16000), kind="FLAC")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"not a sound" * 100, "damaged or of another format"),
        (file_of(tone(300))[:20], "damaged or of another format"),
        (whole_flac()[:60], "damaged or of another format|no samples"),
        (file_of(np.zeros(0)), "no samples"),
        (file_of(np.zeros(4000)), "nothing but silence"),
        (file_of(np.full(4000, 0.3)), "nothing but silence"),
        (file_of(np.full(4000, np.nan), subtype="FLOAT"), "samples that are finite numbers"),
    ],
    ids=["empty", "text", "header cut", "cut off", "no samples", "zeros", "constant", "nan"],
)
def test_what_is_no_sound_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    for source, name in ((path, str(path)), (content, "")):
        with pytest.raises(UserError, match=message) as caught:
            read_sound(source)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.wav"):
        read_sound(tmp_path / "nowhere.wav")


def test_trimming_leaves_the_sound():
    wave = np.concatenate([np.zeros(3000), tone(500), np.zeros(1000)]).astype(np.float32)
    trimmed = trim(wave, FORMAT)
    assert 4000 <= len(trimmed) <= 4000 + 2 * FORMAT.window
    assert np.sum(trimmed**2) == pytest.approx(np.sum(wave**2), rel=1e-3)


def test_fit_pads_on_both_sides_and_keeps_the_loudest_part():
    assert fit(np.array([1.0, 2.0]), 5).tolist() == [0, 1, 2, 0, 0]
    assert fit(np.array([1.0, 2.0]), 2).tolist() == [1, 2]
    assert fit(np.array([1.0, -5.0, 4.0, 0.0, 4.0]), 2).tolist() == [-5, 4]
    for length in (1, 7999, 8000, 8001, 20000):
        assert fit(np.ones(length), 8000).shape == (8000,)


@pytest.mark.parametrize("frequency", [250, 440, 1000, 2500])
def test_a_tone_is_loudest_in_its_own_mel_band(frequency):
    from librosa import mel_frequencies

    (item,) = features([tone(frequency)], FORMAT)
    centres = mel_frequencies(FORMAT.n_mels + 2, fmin=0, fmax=4000)[1:-1]
    middle = item[len(item) // 2, :, 0]
    assert np.argmax(middle) == np.argmin(np.abs(centres - frequency))


def test_shapes_and_standardisation():
    random = np.random.default_rng(0)
    waves = [random.normal(size=n) * np.hanning(n) for n in (400, 8000, 20000)]
    for kind in ("log_mel", "mfcc"):
        for rate, seconds in ((8000, 1.0), (16000, 0.5)):
            sound_format = SoundFormat(kind=kind, rate=rate, seconds=seconds)
            found = features(waves, sound_format)
            assert found.shape == (3, *sound_format.shape)
            assert found.dtype == np.float32
            axes = (1, 2, 3) if kind == "log_mel" else (1, 3)
            np.testing.assert_allclose(found.mean(axis=axes), 0, atol=1e-4)
            np.testing.assert_allclose(found.std(axis=axes), 1, atol=1e-3)
    assert features([], FORMAT).shape == (0, 51, 40, 1)


def test_loudness_and_place_do_not_matter():
    wave = tone(500) * np.hanning(4000)
    moved = np.concatenate([np.zeros(256), wave / 10, np.zeros(1024)])
    first, second = features([wave, moved], replace(FORMAT, trim_db=20))
    np.testing.assert_allclose(first, second, atol=0.6)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.99


def test_a_channel_hardly_changes_mfcc():
    """A filter multiplies spectra, hence adds a constant to every frame's cepstrum."""
    wave = np.random.default_rng(0).normal(size=8000) * (1 + np.sin(np.arange(8000) / 300))
    filtered = np.convolve(wave, [1, -0.95], mode="same")

    def agreement(kind):
        plain, changed = features([wave, filtered], replace(FORMAT, kind=kind))
        return np.corrcoef(plain.ravel(), changed.ravel())[0, 1]

    assert agreement("mfcc") > 0.95
    assert agreement("log_mel") < 0.9


def test_mfcc_is_the_cosine_transform_of_log_mel():
    from scipy.fft import dct

    waves = np.random.default_rng(0).normal(size=(2, 8000))
    log_mels = audio.log_mel(waves, FORMAT)
    assert log_mels.shape == (2, 51, 40)
    assert log_mels.max() == 0
    expected = 10 * dct(log_mels, axis=2, norm="ortho")[..., :20]
    np.testing.assert_allclose(audio.mfcc(log_mels, 20), expected, atol=1e-3)


def test_stretching_makes_slow_and_quick_alike():
    """The same rise of a tone in 0.3 and in 0.6 seconds, with silence around it."""

    def rise(seconds):
        times = np.arange(round(8000 * seconds)) / 8000
        wave = np.sin(2 * np.pi * (300 * times + 700 * times**2 / seconds / 2))
        return np.pad(wave, (1000, 3000))

    for kind in ("log_mel", "mfcc"):
        agreement = {}
        for length in ("pad", "stretch"):
            sound_format = replace(FORMAT, kind=kind, length=length)
            quick, slow = features([rise(0.3), rise(0.6)], sound_format)
            assert quick.shape == sound_format.shape
            agreement[length] = np.corrcoef(quick.ravel(), slow.ravel())[0, 1]
        assert agreement["stretch"] > 0.85
        assert agreement["pad"] < 0.8
    (short,) = features([tone(500, seconds=0.01)], replace(FORMAT, length="stretch"))
    assert short.shape == FORMAT.shape
    assert np.isfinite(short).all()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "mel"},
        {"length": "cut"},
        {"rate": 0},
        {"seconds": -1.0},
        {"n_mfcc": 41},
        {"hop": 0},
    ],
)
def test_a_format_that_cannot_be(change):
    with pytest.raises(UserError, match="Expected") as caught:
        SoundFormat(**change)
    assert str(next(iter(change.values()))) in str(caught.value)
