"""Whose face? A siamese network verifies and identifies people whom it has never met.

The network, the energies and the losses are those of `siamese.py`: Hadsell, Chopra, LeCun (2006);
Koch, Zemel, Salakhutdinov (2015); Schroff, Kalenichenko, Philbin (2015, arXiv:1503.03832).

    verification     the same person?   E(a, b) <= threshold
    identification   who of n people?   argmin_c E(a, b_c), with one known picture b_c of each

The threshold is chosen on validation people; all figures are of test people. Reported are the
area under the ROC curve, the equal error rate and the accuracy at the threshold, with intervals
over people, and the share of people named rightly, with its interval over episodes. Beside them
stand an untrained network and the Euclidean distance between the pictures themselves.

Differences from the book:

1. The book splits pairs, so that it tests on people, and on pictures, seen in training
   (`--split pairs`), and calls precision at the fixed threshold of 0.5 accuracy.
2. Pairs are drawn anew in every step and pictures changed a little, instead of one list of pairs.
3. Four strided convolutions with layer normalisation lead to 64 numbers on a sphere, instead of
   two with pooling to 50 numbers anywhere. By default it learns from triplets.
4. With photographs, of which there are few, training begins on drawn faces (`--pretrain-steps`).

`python chapter02_siamese/face.py` trains on drawn (synthetic) faces; `--dataset att_faces --folds`
on photographs, four times, so that everyone is once among the test people. Then

    python chapter02_siamese/face.py --verify a.jpg b.jpg
    python chapter02_siamese/face.py --enrol known_people --identify c.jpg d.jpg

use the newest run's weights on pictures of one's own, of any size, cropped to the face.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from chapter02_siamese import own_files, protocol, recognition, report
from common import face_augmentation, faces, image_folders, verification_figures
from common.errors import UserError
from common.images import decode_image
from common.own_files import FAINTEST
from common.settings import RunSettings

import numpy as np


@dataclass(frozen=True)
class Config(recognition.Settings):
    """Settings of the script; the defaults are those of the drawn faces."""

    FOLDS: ClassVar = {"att_faces": 4, "olivetti": 4}
    EMBEDDED: ClassVar = "faces"

    run: RunSettings = RunSettings(steps=400, dataset="faces")

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set: photographs are of few people, so drawn ones come first."""
        if dataset == "faces":
            return cls()
        more = {"people": 20, "items": 8} if dataset in cls.FOLDS else {}
        run = RunSettings(steps=300, dataset=dataset)
        return cls(pretrain_steps=500, **more, run=run)

    @classmethod
    def smoke(cls, dataset="faces"):
        """The whole script in seconds."""
        tried = RunSettings(steps=10, dataset=dataset, smoke=True)
        small = {"filters": 8, "people": 4, "pairs": 16, "eval_pairs": 200, "eval_episodes": 50}
        small |= {"items": 4, "pretrain_steps": 0}
        return replace(cls.for_dataset(dataset), **small, run=tried)


def run(config, directory=None, progress=False):
    """Trains the network and measures it on people never seen; see `recognition.run`."""
    return recognition.run(config, faces.load, face_augmentation.augment, directory, progress)


def draw(result, config, directory):
    """Saves the figures of a run; see `report.draw`."""
    data, _ = protocol.shown_data(config, faces.load)
    report.draw(result, config, data, directory, verification_figures.show_photo)


def read(path, input_shape, config):
    """One picture of one's own as the network takes it, uint8 `input_shape`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"Could not read {path} ({error.strerror}): name a picture.") from None
    picture = decode_image(content, str(path), input_shape[:2], colour=input_shape[2] == 3)
    if np.ptp(picture) < FAINTEST:
        raise UserError(f"Expected a face in {path}, found an even grey: name another picture.")
    return picture


FILES = own_files.Kind(read, image_folders.SUFFIXES, ("the same person", "different people"))


def main():
    """The command line: see `--help`."""
    own_files.main(Config, run, draw, FILES, recognition.new_siamese)


if __name__ == "__main__":
    main()
