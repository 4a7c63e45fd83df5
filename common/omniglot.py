"""Omniglot: 1,623 characters of 50 alphabets, each drawn by the same 20 people.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 2015; https://github.com/brendenlake/omniglot, MIT licence. Two archives
hold it: `images_background.zip` (30 alphabets, 964 characters) and `images_evaluation.zip` (20
alphabets, 659 characters). They are looked for in `data_dir`, in the folder that the environment
variable `META_LEARNING_DATA` names, and among Keras's data sets (`~/.keras/datasets`), in each
also in a folder `omniglot` and also unpacked. If they are nowhere, they are downloaded.

Drawings are 28 x 28, resized from 105 x 105 by averaging areas, with ink 255 on 0.
"""

from pathlib import Path

from common.datasets import FewShotData
from common.files import cached_arrays
from common.omniglot_archives import Archive, find_or_download, fingerprint, read_archive

import numpy as np

BACKGROUND = Archive("images_background", "68d2efa1b9178cc56df9314c21c6e718", 964)
EVALUATION = Archive("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811", 659)
# The official split has no validation part: these 96 of the 964 background characters are it.
VALIDATION_ALPHABETS = ("Balinese", "Early_Aramaic", "Futurama", "Greek")
RANDOM_SPLIT = {"train": slice(0, 1100), "validation": slice(1100, 1200), "test": slice(1200, None)}
RANDOM_SPLIT_SEED = 0
FORMAT = 1  # raise it whenever the cached arrays change


def load_omniglot(split: str, data_dir: Path | None = None) -> FewShotData:
    """Loads the official split by alphabet: 868 / 96 / 659 characters.

    Test is the evaluation set; validation is `VALIDATION_ALPHABETS` of the background set.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        data_dir: Where to look first for the archives.

    Returns:
        The data, classes sorted by name ("Greek/character01"), items `(classes * 20, 28, 28, 1)`.

    Raises:
        UserError: if the archives cannot be had, or one is damaged.
    """
    arrays = _characters(data_dir)
    alphabets = [name.split("/")[0] for name in arrays["names"]]
    validation = np.isin(alphabets, VALIDATION_ALPHABETS)
    evaluation = arrays["is_evaluation"]
    chosen = {
        "train": ~evaluation & ~validation,
        "validation": ~evaluation & validation,
        "test": evaluation,
    }
    return _data("omniglot", split, arrays, np.flatnonzero(chosen[split]))


def load_omniglot_random(split: str, data_dir: Path | None = None) -> FewShotData:
    """Loads a random split of all characters, the same everywhere: 1,100 / 100 / 423.

    Most papers train on 1,200 characters chosen at random and test on 423; validation is taken
    from the 1,200. Characters of one alphabet fall into different parts.

    Args, returns and raises as `load_omniglot`.
    """
    arrays = _characters(data_dir)
    order = np.random.default_rng(RANDOM_SPLIT_SEED).permutation(len(arrays["names"]))
    return _data("omniglot-random", split, arrays, np.sort(order[RANDOM_SPLIT[split]]))


def _characters(data_dir: Path | None) -> dict[str, np.ndarray]:
    """Returns all characters, sorted by name, from the cache if the archives did not change."""
    paths = [find_or_download(archive, data_dir) for archive in (BACKGROUND, EVALUATION)]
    return cached_arrays(
        "omniglot", (FORMAT, [fingerprint(path) for path in paths]), lambda: _read(paths)
    )


def _read(paths: list[Path]) -> dict[str, np.ndarray]:
    background = read_archive(BACKGROUND, paths[0])
    evaluation = read_archive(EVALUATION, paths[1])
    characters = background | evaluation
    names = sorted(characters)
    return {
        "drawings": np.array([characters[name] for name in names]),  # (1623, 20, 28, 28)
        "names": np.array(names),
        "is_evaluation": np.array([name in evaluation for name in names]),
    }


def _data(name: str, split: str, arrays: dict[str, np.ndarray], chosen: np.ndarray) -> FewShotData:
    class_names = tuple(str(class_name) for class_name in arrays["names"][chosen])
    return FewShotData.from_drawings(
        arrays["drawings"][chosen],
        class_names=class_names,
        class_groups=tuple(class_name.split("/")[0] for class_name in class_names),
        name=name,
        split=split,
    )
