"""A folder of one's own sounds as a data set: one folder of audio files for each class.

    PATH/wren/1.wav  PATH/wren/2.flac  PATH/owl/a.ogg ...     split by class, or
    PATH/train/wren/1.wav ... PATH/validation/owl/a.ogg ... PATH/test/crow/b.wav

Files may be of any rate, length and number of channels. Those with another suffix than wav, flac
and ogg, and hidden ones, are ignored. Classes are split as those of `common.image_folders`.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.audio import SoundFormat, read_sound
from common.errors import UserError
from common.image_folders import class_folders, files_of
from common.sound_data import SoundData, cached_features, digest

import numpy as np

SUFFIXES = (".wav", ".flac", ".ogg")


def load_audio_folder(
    path: Path | str, split: str, sound_format: SoundFormat | None = None
) -> SoundData:
    """Loads the sounds of one split; their features are cached by the files' content.

    Args:
        path: The folder.
        split: `"train"`, `"validation"` or `"test"`.
        sound_format: What the sounds are made into.

    Returns:
        The data, classes sorted by name, items float32 `(n, frames, bands, 1)`.

    Raises:
        UserError: if the folder has too few classes, a class no sounds, or a file is damaged,
            empty or silent; it names the file.
    """
    sound_format = sound_format or SoundFormat()
    folder = Path(path).expanduser()
    if not str(path) or not folder.is_dir():
        raise UserError(
            f"Expected a folder of class folders in folder:{path}, but there is no such folder."
        )
    try:
        folders = class_folders(folder, split)
        sounds = [files_of(class_folder, SUFFIXES, "sounds") for class_folder in folders]
        files = [file for of_class in sounds for file in of_class]
        with ThreadPoolExecutor() as pool:
            content = list(pool.map(_digest, files))
    except OSError as error:
        raise UserError(
            f"Could not read {error.filename} ({error.strerror}): make it readable."
        ) from error

    def read(index: int) -> np.ndarray:
        return read_sound(files[index], sound_format.rate)

    items = cached_features(
        "audio-folder", content, lambda: (read(i) for i in range(len(files))), sound_format
    )
    return SoundData(
        items,
        labels=np.repeat(np.arange(len(folders), dtype=np.int32), [len(some) for some in sounds]),
        class_names=tuple(class_folder.name for class_folder in folders),
        class_groups=(folder.resolve().name,) * len(folders),
        name=f"folder:{path}",
        split=split,
        sound_format=sound_format,
        item_names=tuple(f"{file.parent.name}/{file.name}" for file in files),
        item_groups=("",) * len(files),
        read=read,
        content=digest(content, sound_format.key),
    )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
