"""Data sets for few-shot learning, by name, split into disjoint sets of classes.

`DATA_SETS` says what each one is, where it comes from and under which licence.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.errors import UserError

import numpy as np

if TYPE_CHECKING:
    from common.sine import SineTasks

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False, repr=False)
class FewShotData:
    """Labelled items of the classes of one split.

    Attributes:
        items: `(n, ...)`; images are uint8 `(n, height, width, channels)`.
        labels: int32 `(n,)`, indices into `class_names`.
        class_names: One name for each class.
        class_groups: The group of each class: its alphabet, script, ...
        name: The data set's name.
        split: `"train"`, `"validation"` or `"test"`.
        attributes: float32 `(classes, d)`, what is known of each class, or None.
        attribute_names: The names of the d attributes.
    """

    items: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...]
    name: str
    split: str
    attributes: np.ndarray | None = None
    attribute_names: tuple[str, ...] = ()

    def __post_init__(self):
        n_classes = len(self.class_names)
        if len(self.items) != len(self.labels) or len(self.class_groups) != n_classes:
            raise UserError(
                "Expected a label for each item and a group for each class. Received: "
                f"{len(self.items)} items, {len(self.labels)} labels, {n_classes} classes, "
                f"{len(self.class_groups)} groups."
            )
        if not np.array_equal(np.unique(self.labels), np.arange(n_classes)):
            raise UserError(
                f"Expected the labels 0 to {n_classes - 1}, each at least once, for the "
                f"{n_classes} class names. Received: {np.unique(self.labels)[:20]}."
            )

    def __repr__(self) -> str:
        return (
            f"FewShotData({self.name}, {self.split}: {len(self.class_names)} classes, "
            f"{len(self.items)} items of shape {self.items.shape[1:]}, {self.items.dtype})"
        )

    @classmethod
    def from_drawings(cls, drawings: np.ndarray, **others) -> "FewShotData":
        """Makes it of `drawings`, `(classes, drawings of each, height, width)`."""
        n_classes, n_drawings, *shape = drawings.shape
        labels = np.repeat(np.arange(n_classes, dtype=np.int32), n_drawings)
        return cls(drawings.reshape(-1, *shape, 1), labels, **others)


def load(name: str, split: str, data_dir: Path | str | None = None) -> "FewShotData | SineTasks":
    """Loads one split of a data set; the splits of a data set share no class.

    The spoken digits alone have too few classes for that: `common.fsdd` says what its splits share.

    Args:
        name: A name in `DATA_SETS`, or `"folder:PATH"` for a folder of one's own, with one
            folder of images for each class (see `common.image_folders`).
        split: `"train"`, `"validation"` or `"test"`.
        data_dir: Where to look first for data sets that come as files.

    Returns:
        A `FewShotData`, or for waves (`"sine"` and its relatives) a distribution of tasks.

    Raises:
        UserError: if there is no such name or split, or the data cannot be had.
    """
    if split not in SPLITS:
        raise UserError(f"Expected a split out of {', '.join(SPLITS)}. Received: {split!r}.")
    folder = data_folder(data_dir)
    kind, colon, path = str(name).partition(":")
    if colon and kind == "folder":
        from common.image_folders import load_image_folder

        return load_image_folder(path, split)
    if name not in DATA_SETS:
        raise UserError(_unknown_name(str(name)))
    return DATA_SETS[name].load(split, folder)


def data_folder(data_dir: Path | str | None) -> Path | None:
    """Returns the folder that `--data-dir` names, if any.

    Raises:
        UserError: if there is no such folder.
    """
    if data_dir is None:
        return None
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"Expected a folder of data sets in {data_dir}, but there is none.")
    return folder


def _unknown_name(name: str) -> str:
    choices = [*DATA_SETS, "folder:PATH"]
    close = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.7)
    if name and Path(name).is_dir():
        close = [f"folder:{name}"]
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"Expected a data set out of {', '.join(choices)}. Received: {name!r}.{hint}"


class DataSet(NamedTuple):
    """What is known of a data set, and how to load a split of it."""

    load: "Callable[[str, Path | None], FewShotData | SineTasks]"
    summary: str
    source: str
    licence: str


# Imports wait until a data set is asked for: a run on sine waves needs no image library.


def _sine(name: str) -> "Callable[[str, Path | None], SineTasks]":
    def load_sine(split: str, data_dir: Path | None) -> "SineTasks":
        from common.sine import FAMILIES, SineTasks

        return SineTasks(**FAMILIES[name], split=split)

    return load_sine


def _glyphs(split: str, data_dir: Path | None) -> FewShotData:
    from common.glyphs import load_glyphs

    return load_glyphs(split)


def _faces(split: str, data_dir: Path | None) -> FewShotData:
    from common.faces import load_faces

    return load_faces(split)


def _att_faces(split: str, data_dir: Path | None) -> FewShotData:
    from common.att_faces import load_att_faces

    return load_att_faces(split, data_dir)


def _olivetti(split: str, data_dir: Path | None) -> FewShotData:
    from common.att_faces import load_olivetti

    return load_olivetti(split)


def _omniglot(split: str, data_dir: Path | None) -> FewShotData:
    from common.omniglot import load_omniglot

    return load_omniglot(split, data_dir)


def _omniglot_random(split: str, data_dir: Path | None) -> FewShotData:
    from common.omniglot import load_omniglot_random

    return load_omniglot_random(split, data_dir)


def _sounds(split: str, data_dir: Path | None) -> FewShotData:
    from common.sounds import load_sounds

    return load_sounds(split)


def _fsdd(split: str, data_dir: Path | None) -> FewShotData:
    from common.fsdd import load_fsdd

    return load_fsdd(split, data_dir)


def _fsdd_speakers(split: str, data_dir: Path | None) -> FewShotData:
    from common.fsdd import load_fsdd_speakers

    return load_fsdd_speakers(split, data_dir)


_ATT = "AT&T Laboratories Cambridge, Samaria and Harter (1994)"
_ATT_LICENCE = "research use, with credit"
_LAKE = "Lake, Salakhutdinov and Tenenbaum (2015), github.com/brendenlake/omniglot"
_FSDD = "Jackson and others, github.com/Jakobovski/free-spoken-digit-dataset, version 1.0.10"

DATA_SETS = {
    "sine": DataSet(_sine("sine"), "sine waves to regress", "Finn et al. (2017)", "none needed"),
    "sine-frequency": DataSet(
        _sine("sine-frequency"), "the same with frequencies", "Li et al. (2017)", "none needed"
    ),
    "sine-phase": DataSet(
        _sine("sine-phase"), "the same with all phases", "Nichol et al. (2018)", "none needed"
    ),
    "glyphs": DataSet(
        _glyphs,
        "printed letters and digits, 20 drawings of each, split by script",
        "rendered from the DejaVu fonts inside matplotlib, dejavu-fonts.github.io",
        "Bitstream Vera licence, changes in the public domain",
    ),
    "omniglot": DataSet(
        _omniglot, "1,623 handwritten characters x 20, split by alphabet", _LAKE, "MIT"
    ),
    "omniglot-random": DataSet(
        _omniglot_random, "the same, split at random: 1,100 / 100 / 423", _LAKE, "MIT"
    ),
    "faces": DataSet(
        _faces,
        "synthetic faces: 400 invented people x 10 drawn pictures",
        "drawn by common.face_drawing",
        "that of this code",
    ),
    "att_faces": DataSet(_att_faces, "photographs of 40 people x 10", _ATT, _ATT_LICENCE),
    "olivetti": DataSet(
        _olivetti, "the same photographs, cut to the face, through scikit-learn", _ATT, _ATT_LICENCE
    ),
    "sounds": DataSet(
        _sounds,
        "synthetic calls of made-up animals, 160 classes x 20, as log-mel features",
        "synthesised by common.sound_synthesis",
        "that of this code",
    ),
    "fsdd": DataSet(
        _fsdd,
        "spoken digits: six to train on, four never heard before the test",
        _FSDD,
        "CC BY-SA 4.0",
    ),
    "fsdd-speakers": DataSet(
        _fsdd_speakers,
        "the ten spoken digits, in the test by a speaker never heard",
        _FSDD,
        "CC BY-SA 4.0",
    ),
}
