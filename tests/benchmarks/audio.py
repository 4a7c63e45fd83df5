"""Sounds per second on the way from files to features, and how much a cache saves.

    python -m tests.benchmarks.audio [--rounds 3]

200 wav files of one second at 8 kHz, and at 44.1 kHz, are read, resampled, trimmed and made into
log-mel features and MFCC. `one by one` calls librosa's transform for each sound, as most code
does; `together` is `audio.features`. `cold` and `cached` load the same files as a folder of
classes. All numbers are from one run, the best of the rounds, so that their ratios mean something
on any machine.
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

from common import audio, sound_synthesis
from common.audio import SoundFormat, read_sound
from common.audio_folders import load_audio_folder

import numpy as np
import soundfile

N_CLASSES, N_SOUNDS = 10, 20  # for a folder, classes and sounds of each


def files(rate: int) -> list[bytes]:
    """The content of wav files of that rate."""
    from librosa import resample

    contents = []
    for number in range(N_CLASSES * N_SOUNDS):
        wave = sound_synthesis.waveform(*divmod(number, N_SOUNDS))
        if rate != sound_synthesis.RATE:
            wave = resample(wave, orig_sr=sound_synthesis.RATE, target_sr=rate)
        content = io.BytesIO()
        soundfile.write(content, wave, rate, format="WAV")
        contents.append(content.getvalue())
    return contents


def one_by_one(waves: list[np.ndarray], sound_format: SoundFormat) -> np.ndarray:
    """What `audio.features` does, with a call of each transform for every sound."""
    return np.concatenate([audio.features([wave], sound_format) for wave in waves])


def rate_of(job, rounds: int) -> float:
    """Sounds per second, the best of some rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return N_CLASSES * N_SOUNDS / min(seconds)


def folder_rates(contents: list[bytes], rounds: int) -> tuple[float, float]:
    """Sounds per second of a folder's training split, cold and cached."""
    with tempfile.TemporaryDirectory() as place:
        for number, content in enumerate(contents):
            path = Path(place, "sounds", "train", f"{number // N_SOUNDS}", f"{number}.wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        cold = []
        for number in range(rounds):
            os.environ["META_LEARNING_CACHE"] = f"{place}/cache{number}"
            cold.append(rate_of(lambda: load_audio_folder(f"{place}/sounds", "train"), 1))
        cached = rate_of(lambda: load_audio_folder(f"{place}/sounds", "train"), rounds)
    return max(cold), cached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds for each number")
    rounds = parser.parse_args().rounds

    contents = {rate: files(rate) for rate in (8000, 44100)}
    waves = [read_sound(content) for content in contents[8000]]
    log_mel, mfcc = SoundFormat(), SoundFormat(kind="mfcc")
    audio.features(waves[:2], mfcc)  # librosa is imported, numba has compiled
    rows = {"synthesis": lambda: [sound_synthesis.waveform(i, 0) for i in range(len(waves))]}
    for rate, content in contents.items():
        rows[f"read, {rate / 1000:g} kHz"] = lambda content=content: [
            read_sound(c) for c in content
        ]
    for name, sound_format in (("log-mel", log_mel), ("MFCC", mfcc)):
        rows[f"{name}, one by one"] = lambda f=sound_format: one_by_one(waves, f)
        rows[f"{name}, together"] = lambda f=sound_format: audio.features(waves, f)

    print(f"{'sounds per second':28}{'rate':>10}{'ratio':>9}")
    rates = {}
    for name, job in rows.items():
        rates[name] = rate_of(job, rounds)
        slower = rates.get(name.replace("together", "one by one"))
        ratio = f"{rates[name] / slower:8.1f}x" if "together" in name else ""
        print(f"{name:28}{rates[name]:10,.0f}{ratio}", flush=True)
    for rate, content in contents.items():
        cold, cached = folder_rates(content, rounds)
        print(f"{f'folder, {rate / 1000:g} kHz, cold':28}{cold:10,.0f}")
        print(f"{f'folder, {rate / 1000:g} kHz, cached':28}{cached:10,.0f}{cached / cold:8.1f}x")


if __name__ == "__main__":
    main()
