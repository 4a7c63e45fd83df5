"""Data sets of sounds, by name; and `sounds`, the synthetic one that needs no download.

`sounds` has 160 classes of made-up calls (`common.sound_synthesis`), 20 of each: 100 classes to
train on, 20 for validation, 40 for test. They are synthetic, and to be called so wherever they
are shown. The others are `fsdd` and `fsdd-speakers` (`common.fsdd`) and folders of one's own
(`common.audio_folders`).
"""

from pathlib import Path

from common import sound_synthesis
from common.audio import SoundFormat
from common.datasets import SPLITS
from common.errors import UserError
from common.sound_data import SoundData, cached_features, digest

import numpy as np

NAMES = ("sounds", "fsdd", "fsdd-speakers")
CLASSES = {"train": range(0, 100), "validation": range(100, 120), "test": range(120, 160)}
N_CALLS = 20


def load(
    name: str,
    split: str,
    data_dir: Path | str | None = None,
    fold: int = 0,
    sound_format: SoundFormat | None = None,
) -> SoundData:
    """Loads one split of a data set of sounds, with the waveforms at hand.

    Args:
        name: `"sounds"`, `"fsdd"`, `"fsdd-speakers"`, or `"folder:PATH"` for a folder with one
            folder of wav, flac or ogg files for each class.
        split: `"train"`, `"validation"` or `"test"`.
        data_dir: Where to look first for data sets that come as files.
        fold: Which digits or speakers are kept for the test, see `common.fsdd`.
        sound_format: What the sounds are made into; the defaults of `SoundFormat` unless given.

    Returns:
        The data, items float32 `(n, frames, bands, 1)`.

    Raises:
        UserError: if there is no such name, split or fold, or the data cannot be had.
    """
    sound_format = sound_format or SoundFormat()
    if split not in SPLITS:
        raise UserError(f"Expected a split out of {', '.join(SPLITS)}. Received: {split!r}.")
    kind, colon, path = str(name).partition(":")
    if not (colon and kind == "folder") and name not in NAMES:
        choices = ", ".join([*NAMES, "folder:PATH"])
        raise UserError(f"Expected a data set of sounds out of {choices}. Received: {name!r}.")
    if name in ("fsdd", "fsdd-speakers"):
        from common import fsdd

        loader = fsdd.load_fsdd if name == "fsdd" else fsdd.load_fsdd_speakers
        return loader(split, data_dir, fold, sound_format)
    if fold != 0:
        raise UserError(f"Expected fold 0: {name} is split in one way only. Received: {fold}.")
    if kind == "folder":
        from common.audio_folders import load_audio_folder

        return load_audio_folder(path, split, sound_format)
    return load_sounds(split, sound_format)


def load_sounds(split: str, sound_format: SoundFormat | None = None) -> SoundData:
    """Loads the synthetic calls of one split.

    A class's group says how many syllables its calls have.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        sound_format: What the calls are made into.

    Returns:
        The data, items float32 `(classes * 20, frames, bands, 1)`.
    """
    sound_format = sound_format or SoundFormat()
    classes = CLASSES[split]
    calls = [(class_number, number) for class_number in classes for number in range(N_CALLS)]

    def read(index: int) -> np.ndarray:
        return _resampled(sound_synthesis.waveform(*calls[index]), sound_format.rate)

    content = (sound_synthesis.FORMAT, N_CALLS, classes)
    items = cached_features(
        "sounds", content, lambda: (read(i) for i in range(len(calls))), sound_format
    )
    syllables = [len(sound_synthesis.call_of(number).syllables) for number in classes]
    return SoundData(
        items,
        labels=np.repeat(np.arange(len(classes), dtype=np.int32), N_CALLS),
        class_names=tuple(f"call {number:03}" for number in classes),
        class_groups=tuple(f"{n} syllable{'s' * (n > 1)}" for n in syllables),
        name="sounds",
        split=split,
        sound_format=sound_format,
        item_names=tuple(f"call {number:03}, {call}" for number, call in calls),
        item_groups=("",) * len(calls),
        read=read,
        content=digest(content, sound_format.key),
    )


def _resampled(wave: np.ndarray, rate: int) -> np.ndarray:
    if rate == sound_synthesis.RATE:
        return wave
    from librosa import resample

    return resample(wave, orig_sr=sound_synthesis.RATE, target_sr=rate)
