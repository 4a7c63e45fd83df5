"""The AT&T (ORL) Database of Faces: forty people, ten photographs of each, taken 1992 to 1994.

AT&T Laboratories Cambridge; Samaria and Harter, "Parameterisation of a stochastic model for human
face identification", 1994; for research use, with credit. `att_faces.zip`, or a folder `att_faces`
with the folders `s1` to `s40`, is looked for in `data_dir`, in the folder that the environment
variable `META_LEARNING_DATA` names, and among Keras's data sets (`~/.keras/datasets`), in each
also in a folder `faces` or `att_faces`; `data_dir` may also hold `s1` to `s40` itself. If they are
nowhere, the historic address is tried. Photographs of 112 x 92 become 56 x 46 by averaging areas.

`olivetti` are the same people as scikit-learn offers them, cut to 64 x 64: of these the middle
columns are kept, in the shape of the others, and resized.

Both have four folds: fold 0 tests on the first ten people, fold 3 on the last ten; of the other
thirty every fifth, six in all, are for validation, and 24 for training.
"""

from pathlib import Path

from common.att_faces_archive import N_PEOPLE, N_PICTURES, find_or_download, read_archive
from common.datasets import FewShotData
from common.errors import UserError
from common.files import cached_arrays
from common.omniglot_archives import fingerprint

import cv2
import numpy as np

SIZE = (56, 46)  # height, width
FOLDS = 4
FORMAT = 1  # raise it whenever the cached arrays change


def load_att_faces(split: str, data_dir: Path | str | None = None, fold: int = 0) -> FewShotData:
    """Loads 24, 6 or 10 people.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        data_dir: Where to look first for the archive or the folder.
        fold: Which ten people are the test people, 0 to 3.

    Returns:
        The data, items uint8 `(people * 10, 56, 46, 1)`.

    Raises:
        UserError: if the photographs cannot be had, some are missing, or one is damaged.
    """
    path = find_or_download(Path(data_dir).expanduser() if data_dir else None)
    key = (FORMAT, fingerprint(path, "*.[pP][gG][mM]"), str(path) if path.is_dir() else "")
    cached = cached_arrays(
        "att_faces", key, lambda: {"pictures": _resized(np.concatenate(read_archive(path)))}
    )
    return _fold("att_faces", cached["pictures"], split, fold)


def load_olivetti(split: str, fold: int = 0) -> FewShotData:
    """Loads 24, 6 or 10 people; scikit-learn keeps them where it keeps its data sets.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        fold: Which ten people are the test people, 0 to 3.

    Returns:
        The data, items uint8 `(people * 10, 56, 46, 1)`.

    Raises:
        UserError: if they are not there and cannot be downloaded.
    """
    from sklearn import datasets

    try:
        found = datasets.fetch_olivetti_faces(shuffle=False)
    except Exception as error:  # of the network, of a damaged copy, ...
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"Could not download the data set olivetti through scikit-learn ({reason}): connect to "
            "the network, or take the data set faces, which needs none."
        ) from error
    order = np.argsort(found.target, kind="stable")
    pictures = np.round(255 * np.asarray(found.images)[order]).astype(np.uint8)
    height = pictures.shape[1]
    width = round(height * SIZE[1] / SIZE[0])
    start = (height - width) // 2
    return _fold("olivetti", _resized(pictures[:, :, start : start + width]), split, fold)


def people_of(split: str, fold: int) -> list[int]:
    """Returns the numbers, 0 to 39, of the people of a split.

    Raises:
        UserError: if there is no such fold.
    """
    if fold not in range(FOLDS):
        raise UserError(f"Expected a fold out of 0 to {FOLDS - 1}. Received: {fold!r}.")
    size = N_PEOPLE // FOLDS
    test = list(range(fold * size, (fold + 1) * size))
    others = [number for number in range(N_PEOPLE) if number not in test]
    validation = others[::5]
    train = [number for number in others if number not in validation]
    return {"train": train, "validation": validation, "test": test}[split]


def _fold(name: str, pictures: np.ndarray, split: str, fold: int) -> FewShotData:
    chosen = people_of(split, fold)
    return FewShotData.from_drawings(
        pictures[chosen],
        class_names=tuple(f"s{number + 1}" for number in chosen),
        class_groups=("AT&T Laboratories",) * len(chosen),
        name=name,
        split=split,
    )


def _resized(pictures: np.ndarray) -> np.ndarray:
    """Resizes pictures, sorted by person, by averaging areas: uint8 `(40, 10, 56, 46)`."""
    small = [cv2.resize(each, SIZE[::-1], interpolation=cv2.INTER_AREA) for each in pictures]
    return np.array(small).reshape(N_PEOPLE, N_PICTURES, *SIZE)
