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

import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from common.datasets import FewShotData
from common.errors import UserError
from common.files import cached_arrays, download
from common.images import decode_image
from common.omniglot_archives import find_archive, fingerprint, keras_data_sets

import cv2
import numpy as np

SOURCE = "http://www.cl.cam.ac.uk/Research/DTG/attarchive/pub/data/att_faces.zip"
N_PEOPLE, N_PICTURES = 40, 10
PHOTOGRAPH = (112, 92)  # height, width
SIZE = (56, 46)
FOLDS = 4
OTHERS = "take the data set faces, which needs no network, or olivetti, the same people"
FORMAT = 1  # raise it whenever the cached arrays change
_PICTURE = re.compile(r"(?:^|/)s(\d+)/(\d+)\.pgm$", re.IGNORECASE)


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
    path = _find_or_download(Path(data_dir).expanduser() if data_dir else None)
    key = (FORMAT, fingerprint(path, "*.[pP][gG][mM]"), str(path) if path.is_dir() else "")
    cached = cached_arrays("att_faces", key, lambda: {"pictures": _read(path)})
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
    pictures = np.array([_resize(picture[:, start : start + width]) for picture in pictures])
    return _fold("olivetti", pictures.reshape(N_PEOPLE, N_PICTURES, *SIZE), split, fold)


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


def _find_or_download(data_dir: Path | None) -> Path:
    for folder in (data_dir, data_dir / "faces") if data_dir else ():
        if (folder / "s1").is_dir():
            return folder
    path = find_archive("att_faces", data_dir, ("faces", "att_faces"))
    if path:
        return path
    path = download(
        SOURCE,
        keras_data_sets() / "faces" / "att_faces.zip",
        advice="The address may be gone. Get the AT&T (ORL) Database of Faces elsewhere, put "
        "att_faces.zip, or its folders s1 to s40 in a folder att_faces, into a folder that "
        f"--data-dir or META_LEARNING_DATA names, or {OTHERS}.",
    )
    try:  # no checksum is known, so the content is looked at
        _read(path)
    except UserError:
        path.unlink(missing_ok=True)
        raise
    return path


def _read(path: Path) -> np.ndarray:
    """Decodes all photographs of a zip file or folder: uint8 `(40, 10, 56, 46)`."""
    try:
        if path.is_dir():
            return _decode(path, {file.relative_to(path).as_posix(): file.read_bytes
                                  for file in path.rglob("*")})  # fmt: skip
        with zipfile.ZipFile(path) as opened:
            return _decode(
                path, {name: lambda name=name: opened.read(name) for name in opened.namelist()}
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise UserError(
            f"Expected the AT&T Database of Faces in {path}, but it cannot be read ({error}): put "
            f"a whole copy there, or {OTHERS}."
        ) from error


def _decode(source: Path, files: dict[str, Callable[[], bytes]]) -> np.ndarray:
    people: dict[int, dict[int, str]] = {}
    for name in sorted(files):
        found = _PICTURE.search(name)
        if found and not name.startswith("__MACOSX/"):
            people.setdefault(int(found[1]), {})[int(found[2])] = name
    for number in range(1, N_PEOPLE + 1):
        pictures = people.get(number, {})
        missing = [index for index in range(1, N_PICTURES + 1) if index not in pictures]
        if missing:
            raise UserError(
                f"Expected {N_PEOPLE} people with {N_PICTURES} pictures each in {source}, but "
                f"s{number}/{missing[0]}.pgm is missing: put a whole copy there, or {OTHERS}."
            )
    return np.array(
        [
            [
                _photograph(files[name := people[person][index]](), f"{source}/{name}")
                for index in range(1, N_PICTURES + 1)
            ]
            for person in range(1, N_PEOPLE + 1)
        ]
    )


def _photograph(content: bytes, name: str) -> np.ndarray:
    image = decode_image(content, name, size=None)[..., 0]
    if image.shape != PHOTOGRAPH or len(content) < image.size:
        height, width = PHOTOGRAPH
        raise UserError(
            f"Expected a whole picture of {width} x {height} in {name}, found "
            f"{image.shape[1]} x {image.shape[0]} in {len(content):,} bytes: replace it."
        )
    return _resize(image)


def _resize(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_AREA)
