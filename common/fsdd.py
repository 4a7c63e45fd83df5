"""The Free Spoken Digit Dataset: ten digits, six speakers, fifty takes of each.

Zohar Jackson and others, github.com/Jakobovski/free-spoken-digit-dataset, version 1.0.10, CC
BY-SA 4.0: 3,000 recordings at 8 kHz, `recordings/7_jackson_32.wav`. `fsdd.zip`, or a folder `fsdd`
with what is in it, is looked for in `data_dir`, in the folder that `META_LEARNING_DATA` names,
and among Keras's data sets, in each also in a folder `audio` or `fsdd`. If it is nowhere, it is
downloaded.

Two ways to be tested on the unknown. They break the rule that splits share no class, as ten
digits are too few for it, and so say here what is disjoint instead:

- `fsdd`, digits never heard: six digits to train on, four for the test, all of them by all
  speakers. Validation are takes 0 to 4 of the *training* digits: takes never heard of digits
  that were, so that it flatters, and a threshold chosen on it is too strict for new digits.
- `fsdd-speakers`, speakers never heard: every split has all ten digits; four speakers are to
  train on, one is for validation, one for the test.

`fold` turns them: over folds 0 to 4 each digit is tested twice, over folds 0 to 5 each speaker
is tested once.
"""

import functools
import io
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from common.audio import SoundFormat, read_sound
from common.errors import UserError
from common.files import download
from common.omniglot_archives import find_archive, fingerprint, keras_data_sets
from common.sound_data import SoundData, cached_features, digest

import numpy as np

SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
N_TAKES = 50
VALIDATION_TAKES = 5  # of each training digit and speaker, the first ones
N_TEST_DIGITS = 4
ADVICE = (
    "Put fsdd.zip into a folder that --data-dir or META_LEARNING_DATA names, or take the data set "
    "sounds, which needs no network."
)
_RECORDING = re.compile(r"(?:^|/)(\d)_([a-z]+)_(\d+)\.wav$")


def load_fsdd(
    split: str,
    data_dir: Path | str | None = None,
    fold: int = 0,
    sound_format: SoundFormat | None = None,
) -> SoundData:
    """Loads digits never heard: six to train on, four for the test, whose fold says which.

    Args:
        split: `"train"`, `"validation"` (other takes of the training digits) or `"test"`.
        data_dir: Where to look first for `fsdd.zip`.
        fold: 0 to 4. The test has the digits 6 to 9 in fold 0, 8, 9, 0 and 1 in fold 1, ...
        sound_format: What the recordings are made into.

    Returns:
        The data: 270, 30 or 300 recordings of each digit, items `(n, frames, bands, 1)`; the
        groups of the items are the speakers.

    Raises:
        UserError: if there is no such fold, or the recordings cannot be had or are damaged.
    """
    _check_fold(fold, 5)
    tested = [(6 + 2 * fold + i) % 10 for i in range(N_TEST_DIGITS)]

    def chosen(digit: int, speaker: str, take: int) -> bool:
        if split == "test":
            return digit in tested
        return digit not in tested and (take < VALIDATION_TAKES) == (split == "validation")

    return _load("fsdd", split, data_dir, sound_format, chosen)


def load_fsdd_speakers(
    split: str,
    data_dir: Path | str | None = None,
    fold: int = 0,
    sound_format: SoundFormat | None = None,
) -> SoundData:
    """Loads speakers never heard: four to train on, one for validation, one for the test.

    Args:
        split: `"train"`, `"validation"` or `"test"`; all have the ten digits as classes.
        data_dir: Where to look first for `fsdd.zip`.
        fold: 0 to 5: the test speaker is `SPEAKERS[fold]`, the next one is for validation.
        sound_format: What the recordings are made into.

    Returns:
        The data: 50 recordings of each digit and speaker, items `(n, frames, bands, 1)`; the
        groups of the items are the speakers.

    Raises:
        UserError: if there is no such fold, or the recordings cannot be had or are damaged.
    """
    _check_fold(fold, len(SPEAKERS))
    turned = [*SPEAKERS[fold:], *SPEAKERS[:fold]]
    speakers = {"test": turned[:1], "validation": turned[1:2], "train": turned[2:]}[split]
    return _load(
        "fsdd-speakers", split, data_dir, sound_format, lambda _, speaker, __: speaker in speakers
    )


def _check_fold(fold: int, n_folds: int) -> None:
    if fold not in range(n_folds):
        raise UserError(f"Expected a fold from 0 to {n_folds - 1}. Received: {fold}.")


def _load(name, split, data_dir, sound_format, chosen) -> SoundData:
    sound_format = sound_format or SoundFormat()
    path = find_or_download(Path(data_dir).expanduser() if data_dir else None)
    content = fingerprint(path, "*.wav")
    files = _recordings(path)  # sorted by digit, speaker and take

    def read_all():
        read = _reader(path, content)
        for file in files.values():
            yield _read(read, path, file, sound_format.rate)

    features = cached_features("fsdd", content, read_all, sound_format)
    keys = [key for key in files if chosen(*key)]
    names = [files[key] for key in keys]

    def read_one(index: int) -> np.ndarray:
        return _read(_reader(path, content), path, names[index], sound_format.rate)

    digits = sorted({digit for digit, _, _ in keys})
    return SoundData(
        features[[chosen(*key) for key in files]],
        labels=np.array([digits.index(digit) for digit, _, _ in keys], np.int32),
        class_names=tuple(DIGITS[digit] for digit in digits),
        class_groups=("digits",) * len(digits),
        name=name,
        split=split,
        sound_format=sound_format,
        item_names=tuple(f"{digit}_{speaker}_{take}" for digit, speaker, take in keys),
        item_groups=tuple(speaker for _, speaker, _ in keys),
        read=read_one,
        content=digest(content, sound_format.key, keys),
    )


def find_or_download(data_dir: Path | None = None) -> Path:
    """Returns the zip file or the unpacked folder, downloaded if need be.

    Raises:
        UserError: if it cannot be downloaded, or what came is not the data set.
    """
    path = find_archive("fsdd", data_dir, folders=("audio", "fsdd"))
    if path:
        return path
    path = download(SOURCE, keras_data_sets() / "audio" / "fsdd.zip", advice=ADVICE)
    try:  # GitHub makes the archive when it is asked for, so that its checksum may change
        _recordings(path)
    except UserError:
        path.unlink(missing_ok=True)
        raise
    return path


def _recordings(path: Path) -> dict[tuple[int, str, int], str]:
    """Name of each recording's file by digit, speaker and take, sorted, all of them there."""
    if path.is_dir():
        names = [str(file.relative_to(path)) for file in path.rglob("*.wav")]
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError) as error:
            raise _damaged(path, error) from error
    files = {}
    for name in sorted(names):
        found = _RECORDING.search(Path(name).as_posix())
        if found and not name.startswith("__MACOSX/"):
            files[int(found[1]), found[2], int(found[3])] = name
    expected = [(d, s, t) for d in range(10) for s in SPEAKERS for t in range(N_TAKES)]
    missing = [key for key in expected if key not in files]
    if missing:
        digit, speaker, take = missing[0]
        raise UserError(
            f"Expected {len(expected):,} recordings of spoken digits in {path}, of which "
            f"{len(missing):,} are missing, such as {digit}_{speaker}_{take}.wav: put a whole copy "
            "of version 1.0.10 there."
        )
    return {key: files[key] for key in expected}


@functools.lru_cache(maxsize=1)
def _reader(path: Path, content: str) -> Callable[[str], bytes]:
    """What reads a file of the folder, or of the zip file, which is kept in memory, by its name."""
    if path.is_dir():
        return lambda name: (path / name).read_bytes()
    return zipfile.ZipFile(io.BytesIO(path.read_bytes())).read


def _read(read, path: Path, name: str, rate: int) -> np.ndarray:
    try:
        content = read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return read_sound(content, rate, f"{path}/{name}")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"Expected the Free Spoken Digit Dataset in {path}, but it cannot be read ({error}): "
        "delete it, and it is downloaded again, or put a whole copy there."
    )
