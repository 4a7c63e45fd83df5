"""Pictures of people's faces, grey, 56 x 46: whose is it?

`faces`, the default, is synthetic: 400 invented people, drawn ten times each (`face_people`,
`face_drawing`); it needs no download. `att_faces` and `olivetti` are photographs (`att_faces`),
`folder:PATH` is a folder of one's own with a folder for each person. No person is in two splits.
"""

from pathlib import Path

from common import datasets
from common.att_faces import FOLDS, SIZE, load_att_faces, load_olivetti
from common.datasets import FewShotData
from common.errors import UserError
from common.face_drawing import draw_face
from common.face_people import circumstances, person
from common.files import cached_arrays
from common.image_folders import load_image_folder

import cv2
import numpy as np

NAMES = ("faces", "att_faces", "olivetti")
PEOPLE = {"train": range(300), "validation": range(300, 340), "test": range(340, 400)}
N_PICTURES = 10  # of each person
SEED = 1  # of the people and of the pictures
FORMAT = 2  # raise it whenever the drawings change


def load(name: str, split: str, data_dir: Path | str | None = None, fold: int = 0) -> FewShotData:
    """Loads one split of a data set of faces, all of the same size.

    Args:
        name: `"faces"`, `"att_faces"`, `"olivetti"` or `"folder:PATH"`.
        split: `"train"`, `"validation"` or `"test"`.
        data_dir: Where to look first for `att_faces`.
        fold: Which ten of the forty people of `att_faces` and `olivetti` are the test people, 0
            to 3. The others have one split only.

    Returns:
        The data, a class for each person, items uint8 `(n, 56, 46, 1)`.

    Raises:
        UserError: if there is no such name, split or fold, or the data cannot be had.
    """
    if fold not in range(FOLDS):
        raise UserError(f"Expected a fold out of 0 to {FOLDS - 1}. Received: {fold!r}.")
    if split in datasets.SPLITS and str(name).startswith("folder:"):
        return load_image_folder(str(name).removeprefix("folder:"), split, SIZE)
    if name in ("att_faces", "olivetti") and fold:
        datasets.load("faces", split, data_dir)  # refuses what is no split and no folder
        if name == "olivetti":
            return load_olivetti(split, fold)
        return load_att_faces(split, data_dir, fold)
    if name not in NAMES:
        raise UserError(
            f"Expected a data set of faces out of {', '.join(NAMES)}, folder:PATH. Received: "
            f"{name!r}."
        )
    return datasets.load(name, split, data_dir)


def load_faces(split: str) -> FewShotData:
    """Loads the invented people of one split: 300 / 40 / 60, ten drawings of each.

    They are drawn at first use, which takes seconds, and kept in the cache. The pixels may differ
    slightly between versions of OpenCV.

    Args:
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        The data, items uint8 `(people * 10, 56, 46, 1)`.
    """
    everyone = range(PEOPLE["test"].stop)
    cached = cached_arrays(
        "faces",
        (FORMAT, cv2.__version__, len(everyone), N_PICTURES),
        lambda: {"pictures": np.array([draw_pictures(number) for number in everyone])},
    )
    chosen = PEOPLE[split]
    return FewShotData.from_drawings(
        cached["pictures"][chosen],
        class_names=tuple(f"person{number:03}" for number in chosen),
        class_groups=("invented",) * len(chosen),
        name="faces",
        split=split,
    )


def draw_pictures(number: int, n_pictures: int = N_PICTURES) -> np.ndarray:
    """Draws the first pictures of an invented person.

    Args:
        number: Which person; any number that is not negative.
        n_pictures: How many; each depends on the person's number and its own alone.

    Returns:
        uint8 `(n_pictures, 56, 46)`.
    """
    who = person(number, SEED)
    pictures = []
    for index in range(n_pictures):
        noise = np.random.default_rng([SEED, number, index + 1, 1])
        pictures.append(draw_face(who, circumstances(number, index, SEED), noise))
    return np.array(pictures)
