"""Sound files as arrays of one shape: read, trimmed, made equally long, and seen as features.

A sound becomes a mono waveform of one rate (`read_sound`), loses the silence around it
(`trim`), is padded or cropped to a fixed length (`fit`), and becomes a small image of time and
pitch: its log-mel spectrogram or its mel-frequency cepstral coefficients (MFCC). The transforms
are librosa's, which is imported when the first sound is met: that takes seconds.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from common.errors import UserError

import numpy as np

KINDS = ("log_mel", "mfcc")
LENGTHS = ("pad", "stretch")
FORMAT = 1  # raise it whenever the features change
SILENCE = 1e-4  # a sound that is never louder than this (full scale is 1) is silence
DYNAMIC_RANGE = 6.0  # powers of ten below the loudest point at which log-mel features end
_CHUNK = 128  # sounds that are transformed at once


@dataclass(frozen=True)
class SoundFormat:
    """What every sound is made into.

    Attributes:
        rate: Samples a second.
        seconds: Length of a sound.
        length: `"pad"`: shorter sounds are padded, longer ones cropped. `"stretch"`: the frames
            between the silences are interpolated to as many as the length has, at most four
            times as long a sound; for words, which are the same said slowly or quickly.
        kind: `"log_mel"` or `"mfcc"`.
        n_mels: Mel bands, from 0 Hz to half the rate.
        n_mfcc: Cepstral coefficients, at most as many as bands.
        window: Samples of a frame.
        hop: Samples from one frame to the next.
        trim_db: What is so many decibels quieter than the loudest part is silence at either end.
    """

    rate: int = 8000
    seconds: float = 1.0
    length: str = "pad"
    kind: str = "log_mel"
    n_mels: int = 40
    n_mfcc: int = 20
    window: int = 256
    hop: int = 160
    trim_db: float = 30.0

    def __post_init__(self):
        for name, choices in (("kind", KINDS), ("length", LENGTHS)):
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"Expected {name} out of {', '.join(choices)}. Received: {value!r}")
        for name in ("rate", "seconds", "n_mels", "n_mfcc", "window", "hop", "trim_db"):
            if not getattr(self, name) > 0:
                raise UserError(f"Expected {name} above 0. Received: {getattr(self, name)}")
        if self.n_mfcc > self.n_mels:
            raise UserError(
                f"Expected at most as many coefficients as bands. Received: n_mfcc={self.n_mfcc}, "
                f"n_mels={self.n_mels}"
            )

    @property
    def samples(self) -> int:
        """Samples of a sound."""
        return round(self.rate * self.seconds)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a sound's features: `(frames, bands, 1)`."""
        bands = self.n_mels if self.kind == "log_mel" else self.n_mfcc
        return (1 + self.samples // self.hop, bands, 1)

    @property
    def key(self) -> tuple:
        """What features depend on besides the sounds: part of the key of their cache."""
        return (FORMAT, version("librosa"), self)


def read_sound(source: Path | str | bytes, rate: int = 8000, name: str = "") -> np.ndarray:
    """Reads a wav, flac or ogg file of any rate and any number of channels.

    Args:
        source: The path of the file, or its content.
        rate: Samples a second of the result; a file of another rate is resampled.
        name: What to call the file in a message, if `source` is its content.

    Returns:
        float32 `(samples,)` about -1..1, the mean of the channels.

    Raises:
        UserError: if it is no whole sound file, has no samples, or is nothing but silence.
    """
    import librosa
    import soundfile

    name = name or ("the sound" if isinstance(source, bytes) else str(source))
    try:
        content = source if isinstance(source, bytes) else Path(source).expanduser().read_bytes()
    except OSError as error:
        raise UserError(
            f"Could not read {name} ({error.strerror}): name a sound file that can be read."
        ) from error
    if not content:
        raise UserError(f"Expected a sound file in {name}, but it is empty: replace or remove it.")
    try:
        wave, _ = librosa.load(io.BytesIO(content), sr=rate, mono=True)
    except soundfile.SoundFileError as error:
        raise UserError(
            f"Expected a wav, flac or ogg file in {name}, but it is damaged or of another format: "
            "replace or remove it."
        ) from error
    except librosa.ParameterError as error:
        raise UserError(
            f"Expected samples that are finite numbers in {name}: replace or remove it."
        ) from error
    if not len(wave):
        raise UserError(f"Expected a sound in {name}, but it has no samples: replace or remove it.")
    if is_silent(wave):
        raise UserError(
            f"Expected a sound in {name}, but it is nothing but silence: replace or remove it."
        )
    return wave


def is_silent(wave: np.ndarray) -> bool:
    """Whether a waveform, its constant part taken away, is never louder than `SILENCE`."""
    return bool(np.abs(wave - np.mean(wave)).max() <= SILENCE)


def trim(wave: np.ndarray, sound_format: SoundFormat) -> np.ndarray:
    """Cuts off the silence at both ends, and takes away the constant part."""
    from librosa import effects

    wave = wave - np.mean(wave)
    frames = {"frame_length": sound_format.window, "hop_length": sound_format.window // 4 or 1}
    return effects.trim(wave, top_db=sound_format.trim_db, **frames)[0]


def fit(wave: np.ndarray, length: int) -> np.ndarray:
    """Makes a waveform `length` samples long: silence on both sides, or its loudest part."""
    missing = length - len(wave)
    if missing >= 0:
        return np.pad(wave, (missing // 2, missing - missing // 2))
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return wave[start : start + length]


def log_mel(waves: np.ndarray, sound_format: SoundFormat) -> np.ndarray:
    """Log-mel spectrograms.

    Powers of ten, cut off `DYNAMIC_RANGE` below a sound's loudest point, so that the loudness of
    a recording does not matter.

    Args:
        waves: `(n, samples)`.
        sound_format: The format.

    Returns:
        `(n, frames, n_mels)`, from `-DYNAMIC_RANGE` to 0, a frame every `hop` samples.
    """
    from librosa import feature

    power = feature.melspectrogram(
        y=np.asarray(waves, np.float32),
        sr=sound_format.rate,
        n_fft=2 * sound_format.window,
        win_length=sound_format.window,
        hop_length=sound_format.hop,
        n_mels=sound_format.n_mels,
    )  # (n, n_mels, frames)
    loudest = np.maximum(power.max(axis=(1, 2), keepdims=True), 1e-20)
    logs = np.log10(np.maximum(power / loudest, 10**-DYNAMIC_RANGE))
    return np.swapaxes(logs, 1, 2)


def mfcc(log_mels: np.ndarray, n_mfcc: int) -> np.ndarray:
    """Mel-frequency cepstral coefficients: the cosine transform of log-mel spectrograms.

    Args:
        log_mels: `(n, frames, n_mels)`, powers of ten.
        n_mfcc: Coefficients to keep, the first ones.

    Returns:
        `(n, frames, n_mfcc)`.
    """
    from librosa import feature

    decibels = 10 * np.swapaxes(log_mels, 1, 2)  # (n, n_mels, frames)
    return np.swapaxes(feature.mfcc(S=decibels, n_mfcc=n_mfcc), 1, 2)


def features(waves: Iterable[np.ndarray], sound_format: SoundFormat) -> np.ndarray:
    """Features of waveforms of any length, at the format's rate.

    They are trimmed, made equally long, and transformed. Log-mel features have mean 0 and
    variance 1 over each sound; of MFCC each coefficient has, which takes away what a microphone or
    a room does to all frames alike.

    Returns:
        float32 `(n, *sound_format.shape)`.
    """
    trimmed = [trim(wave, sound_format) for wave in waves]
    if not trimmed:
        return np.zeros((0, *sound_format.shape), np.float32)
    transform = _stretched if sound_format.length == "stretch" else _padded
    chunks = [trimmed[i : i + _CHUNK] for i in range(0, len(trimmed), _CHUNK)]
    spectra = np.concatenate([transform(chunk, sound_format) for chunk in chunks])
    if sound_format.kind == "mfcc":
        return _standardised(mfcc(spectra, sound_format.n_mfcc), axes=(1,))
    return _standardised(spectra, axes=(1, 2))


def _padded(waves: list[np.ndarray], sound_format: SoundFormat) -> np.ndarray:
    """Log-mel spectrograms of waveforms that are padded or cropped to the format's length."""
    return log_mel(np.stack([fit(wave, sound_format.samples) for wave in waves]), sound_format)


def _stretched(waves: list[np.ndarray], sound_format: SoundFormat) -> np.ndarray:
    """Log-mel spectrograms of whole waveforms, interpolated to as many frames as the format has."""
    longest = 4 * sound_format.samples
    waves = [wave if len(wave) <= longest else fit(wave, longest) for wave in waves]
    hop = max(1, sound_format.hop // 2)  # most words are shorter than the format's length
    together = np.stack([np.pad(wave, (0, max(map(len, waves)) - len(wave))) for wave in waves])
    found = log_mel(together, replace(sound_format, hop=hop))  # (n, most frames, n_mels)
    frames, spectra = np.linspace(0, 1, sound_format.shape[0]), []
    for wave, spectrum in zip(waves, found, strict=True):
        places = frames * (len(wave) // hop)
        below = places.astype(int)
        weight = (places - below)[:, np.newaxis]
        above = np.minimum(below + 1, len(wave) // hop)
        spectra.append((1 - weight) * spectrum[below] + weight * spectrum[above])
    return np.stack(spectra)


def _standardised(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    centred = values - values.mean(axis=axes, keepdims=True)
    scale = np.maximum(values.std(axis=axes, keepdims=True), 1e-3)
    return (centred / scale).astype(np.float32)[..., np.newaxis]
