"""Made-up animal calls: a source of pulses and breath, filtered by moving resonances.

A class of calls is its *rhythm* (one to four syllables and the gaps between them), its *pitch
contour* (where each syllable begins and ends, its bend, a trill) and its *formants* (three
resonances that glide from one vowel to another). Within a class vary what would vary between
animals and recordings: the pitch of the voice, the length of its throat (which scales all
formants), the tempo, breathiness, loudness, the place in the clip, background noise and a
little reverberation. A call depends on its class and its number alone.
"""

from dataclasses import dataclass

import numpy as np

FORMAT = 1  # raise it whenever the calls change
RATE = 8000
CLIP = RATE  # samples of a call with the silence around it: one second
HOP = 64  # samples between two points of the moving pitch, loudness and formants
WINDOW = 256
BANDWIDTHS = np.array([90.0, 130.0, 190.0])  # hertz, of the three formants
STRENGTHS = np.array([1.0, 0.7, 0.4])


@dataclass(frozen=True)
class Syllable:
    """One syllable; pitches in semitones above the caller's own, formants in hertz."""

    duration: float
    gap: float
    pitch: tuple[float, float]
    bend: float
    formants: np.ndarray  # (2, 3): at its beginning and at its end
    loudness: float
    breath: float


@dataclass(frozen=True)
class Call:
    """What all calls of a class share."""

    syllables: tuple[Syllable, ...]
    trill_rate: float
    trill_depth: float


def call_of(class_number: int) -> Call:
    """The class of that number: its rhythm, contour and formants."""
    random = np.random.default_rng([FORMAT, class_number])
    n_syllables = int(random.integers(1, 5))
    total = random.uniform(0.35, 0.6) if n_syllables < 3 else random.uniform(0.45, 0.65)
    lengths = random.uniform(0.5, 1.5, n_syllables)
    gaps = random.uniform(0.1, 0.6, n_syllables) * lengths
    gaps[-1] = 0.0
    scale = total / (lengths + gaps).sum()
    syllables = []
    for length, gap in zip(lengths * scale, gaps * scale, strict=True):
        start = random.uniform(-6, 6)
        syllables.append(
            Syllable(
                duration=float(length),
                gap=float(gap),
                pitch=(start, start + random.normal(0, 5)),
                bend=random.normal(0, 3),
                formants=np.stack([_vowel(random), _vowel(random)]),
                loudness=random.uniform(0.5, 1.0),
                breath=random.choice([0.05, 0.05, 0.2, 0.8]),
            )
        )
    trills = random.random() < 0.3
    return Call(tuple(syllables), random.uniform(12, 25), random.uniform(1, 2) if trills else 0.0)


def waveform(class_number: int, number: int) -> np.ndarray:
    """Synthesises one call.

    Args:
        class_number: Which class, 0 or above.
        number: Which of its calls, 0 or above.

    Returns:
        float32 `(CLIP,)` within -1..1, `RATE` samples a second.
    """
    random = np.random.default_rng([FORMAT, class_number, number])
    base = 220.0 * 2 ** random.uniform(-0.4, 0.4)  # hertz: low and high voices
    throat = 2 ** random.uniform(-0.12, 0.12)  # short throats have high formants
    tempo = 2 ** random.uniform(-0.25, 0.25)
    breathiness = random.uniform(0.5, 2.0)
    pitch, loudness, formants, breath = _tracks(call_of(class_number), tempo, random)

    points = np.arange(len(pitch)) * HOP
    samples = np.arange(len(pitch) * HOP)
    frequency = base * 2 ** (np.interp(samples, points, pitch) / 12)
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    pulses = np.exp(25 * (np.cos(phase) - 1)) * 2.0
    noise = random.normal(0, 0.5, len(samples))
    share = np.clip(np.interp(samples, points, breath) * breathiness, 0, 1)
    source = ((1 - share) * pulses + share * noise) * np.interp(samples, points, loudness)

    call = _filtered(source, formants * throat)[:CLIP]
    clip = np.zeros(CLIP)
    start = int(random.integers(CLIP - len(call) + 1))
    clip[start : start + len(call)] = call / max(np.abs(call).max(), 1e-9)
    clip = _in_a_room(clip, random)
    noise_level = 10 ** random.uniform(-3.0, -2.0)  # of the call's peak
    hiss = random.normal(0, 1, CLIP)
    hiss += random.uniform(0, 2) * np.convolve(hiss, np.ones(8) / 8, mode="same")
    clip += noise_level * hiss / hiss.std() * np.abs(clip).max()
    return (random.uniform(0.3, 0.9) * clip / np.abs(clip).max()).astype(np.float32)


def _vowel(random: np.random.Generator) -> np.ndarray:
    """Three formants in hertz, well apart."""
    first = random.uniform(280, 850)
    second = random.uniform(first + 350, 2500)
    return np.array([first, second, random.uniform(max(2500, second + 300), 3500)])


def _tracks(call: Call, tempo: float, random: np.random.Generator):
    """Pitch, loudness, formants and breath at every `HOP` samples, with small slips."""
    rows = []
    for syllable in call.syllables:
        n = max(4, round(syllable.duration / tempo * random.uniform(0.9, 1.1) * RATE / HOP))
        n_gap = round(syllable.gap / tempo * random.uniform(0.8, 1.2) * RATE / HOP)
        along = np.linspace(0, 1, n)
        begin, end = syllable.pitch + random.normal(0, 0.6, 2)
        pitch = begin + (end - begin) * along + syllable.bend * np.sin(np.pi * along)
        swell = np.minimum(1, np.minimum(along, 1 - along) / 0.2 + 0.05)
        loudness = syllable.loudness * random.uniform(0.7, 1.3) * np.sin(np.pi / 2 * swell) ** 2
        corners = syllable.formants * 2 ** random.normal(0, 0.05, (2, 3))
        formants = corners[0] + (corners[1] - corners[0]) * along[:, None]
        rows.append((pitch, loudness, formants, np.full(n, syllable.breath)))
        rows.append(
            (
                np.full(n_gap, pitch[-1]),
                np.zeros(n_gap),
                np.repeat(formants[-1:], n_gap, axis=0),
                np.full(n_gap, syllable.breath),
            )
        )
    pitch, loudness, formants, breath = (np.concatenate(part) for part in zip(*rows, strict=True))
    trill = np.sin(2 * np.pi * call.trill_rate * tempo * np.arange(len(pitch)) * HOP / RATE)
    return pitch + call.trill_depth * trill, loudness, formants, breath


def _filtered(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Lets moving resonances through: short-time spectra times their gains.

    Args:
        source: `(samples,)`.
        formants: Hertz, `(samples / HOP, 3)`.
    """
    from scipy.signal import istft, stft

    overlap = {"nperseg": WINDOW, "noverlap": WINDOW - HOP}
    frequencies, _, spectra = stft(source, **overlap)  # (129, frames)
    frequencies = frequencies * RATE
    frames = np.minimum(np.arange(spectra.shape[1]), len(formants) - 1)
    away = frequencies[:, None, None] - formants[frames]  # (129, frames, 3)
    gains = np.sum(STRENGTHS / np.sqrt(1 + (away / (BANDWIDTHS / 2)) ** 2), axis=2)
    return istft(spectra * gains, **overlap)[1][: len(source)]


def _in_a_room(clip: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Adds echoes that die away within a tenth to a third of a second."""
    from scipy.signal import fftconvolve

    times = np.arange(int(0.25 * RATE)) / RATE
    decay = random.uniform(0.1, 0.3)  # seconds until a thousandth is left
    echoes = random.normal(0, 1, len(times)) * 10 ** (-3 * times / decay)
    echoes *= random.uniform(0.0, 0.3) / np.sqrt(np.sum(echoes**2))
    echoes[0] = 1.0
    return fftconvolve(clip, echoes)[: len(clip)]
