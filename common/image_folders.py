"""A folder of one's own images as a data set: one folder of images for each class.

    PATH/oak/1.jpg  PATH/oak/2.jpg  PATH/elm/a.png ...     split by class, or
    PATH/train/oak/1.jpg ... PATH/validation/elm/a.png ... PATH/test/ash/b.png

Files with another suffix than png, jpg, jpeg, bmp and pgm, and hidden ones, are ignored.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.datasets import SPLITS, FewShotData
from common.errors import UserError
from common.images import decode_image

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm")
VALIDATION_SHARE, TEST_SHARE = 0.16, 0.2  # of the classes; the rest is for training


def load_image_folder(
    path: Path | str, split: str, size: int | tuple[int, int] = 28, colour: bool = False
) -> FewShotData:
    """Loads the images of one split.

    If `path` has a folder `train`, `validation` or `test` with folders in it, these hold the
    classes of each split. Otherwise the classes are split by name, see `split_by_name`.

    Args:
        path: The folder.
        split: `"train"`, `"validation"` or `"test"`.
        size: Height and width to which images are resized by averaging areas, or one number
            for both.
        colour: Whether to keep red, green and blue; without it images become grey.

    Returns:
        The data, classes sorted by name, items uint8 `(n, height, width, 3 if colour else 1)`.

    Raises:
        UserError: if the folder has no classes, a class no images, or an image is damaged.
    """
    folder = Path(path).expanduser()
    if not str(path) or not folder.is_dir():
        raise UserError(
            f"Expected a folder of class folders in folder:{path}, but there is no such folder."
        )

    def read(file: Path) -> np.ndarray:
        return decode_image(file.read_bytes(), str(file), size, colour)

    try:
        folders = class_folders(folder, split)
        images = [files_of(class_folder, SUFFIXES, "images") for class_folder in folders]
        with ThreadPoolExecutor() as pool:
            items = list(pool.map(read, [file for files in images for file in files]))
    except OSError as error:
        raise UserError(
            f"Could not read {error.filename} ({error.strerror}): make it readable."
        ) from error
    labels = [label for label, files in enumerate(images) for _ in files]
    return FewShotData(
        np.stack(items),
        np.array(labels, np.int32),
        class_names=tuple(class_folder.name for class_folder in folders),
        class_groups=(folder.resolve().name,) * len(folders),
        name=f"folder:{path}",
        split=split,
    )


def split_by_name(names: list[str]) -> dict[str, list[str]]:
    """Splits class names into 64 % train, 16 % validation and 20 % test.

    The order is that of a hash of the name: the same everywhere, and a new class hardly changes
    it. Validation and test get at least five classes, as 5-way episodes need, or if there are
    fewer than fifteen classes a third of them.

    Args:
        names: At least six names.

    Returns:
        The names in each split, sorted.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    least = min(5, len(names) // 3)
    n_test = max(least, round(TEST_SHARE * len(names)))
    n_held_out = n_test + max(least, round(VALIDATION_SHARE * len(names)))
    return {
        "train": sorted(order[n_held_out:]),
        "validation": sorted(order[n_test:n_held_out]),
        "test": sorted(order[:n_test]),
    }


def class_folders(folder: Path, split: str) -> list[Path]:
    """Returns the folders of a split's classes, as given or split by name.

    Raises:
        UserError: if there are too few, a split is missing, or a class is in two splits.
    """
    found = subfolders(folder)
    given = {name: subfolders(folder / name) for name in SPLITS if name in found}
    given = {name: classes for name, classes in given.items() if classes}  # "train" may be a class
    if not given:
        if len(found) < 6:
            raise UserError(
                f"Expected at least 6 class folders in {folder}, two for each of train, validation "
                f"and test, found {len(found)}: add classes."
            )
        return [folder / name for name in split_by_name(found)[split]]
    if split not in given:
        raise UserError(
            f"Expected a folder {split} with class folders in {folder}, found "
            f"{', '.join(found)}: add it, or put all class folders into one folder and they "
            "are split."
        )
    for other, names in given.items():
        shared = sorted(set(names) & set(given[split]))
        if other != split and shared:
            raise UserError(
                f"Expected different classes in {folder / split} and {folder / other}, but both "
                f"have {shared[0]}: keep each class in one, or put all class folders into one "
                "folder and they are split."
            )
    if len(given[split]) < 2:
        raise UserError(
            f"Expected at least 2 class folders in {folder / split}, found {len(given[split])}: "
            "add classes."
        )
    return [folder / split / name for name in given[split]]


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    found = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted(name for name in found if not name.startswith(".") and name != "__MACOSX")


def files_of(folder: Path, suffixes: tuple[str, ...], kind: str = "images") -> list[Path]:
    """Returns a class's files with one of the suffixes, sorted; hidden ones are left out.

    Raises:
        UserError: if there are none; it calls them `kind`.
    """
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise UserError(
            f"Expected {kind} ({', '.join(suffixes)}) in the class folder {folder}, found none: "
            "add some, or remove the folder."
        )
    return files
