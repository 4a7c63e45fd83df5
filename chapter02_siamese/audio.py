"""Which sound? A siamese network compares sounds of classes that it has never heard.

The network, the energies and the losses are those of `siamese.py`: Hadsell, Chopra, LeCun (2006);
Koch, Zemel, Salakhutdinov (2015); Schroff, Kalenichenko, Philbin (2015, arXiv:1503.03832).

    verification     the same class?    E(a, b) <= threshold
    identification   which of n?        argmin_c E(a, b_c), with one known sound b_c of each

A sound is trimmed, made one second long and turned into a log-mel spectrogram or into MFCC
(`--features`), which the network sees as a picture of time and pitch. As in `face.py` the
threshold is chosen on validation classes (of `fsdd`, on other takes of the training digits), all
figures are of test classes, with intervals over classes for verification and over episodes for
identification; beside them stand an untrained network and the Euclidean distance between the
features themselves.

Differences from the book:

1. The book compares recordings of classes that it trained on. Here digits (`--dataset fsdd`) or
   speakers (`--dataset fsdd-speakers`) are split: the test digits, or the test speakers, have
   never been heard. In the latter a class is still a digit, so "the same" means the same digit.
2. Pairs are drawn anew in every step, and their features changed a little.
3. Convolutions over time and pitch instead of three dense layers on the flattened MFCC. With
   `--network local`, for words, an embedding is a row of embeddings of short stretches of time,
   compared each with its counterpart: a network that mixes them all learns six digits by heart.

`python chapter02_siamese/audio.py` trains on synthetic calls. Then

    python chapter02_siamese/audio.py --verify a.wav b.flac
    python chapter02_siamese/audio.py --enrol known_sounds --identify c.ogg

use the newest run's weights on files of one's own, of any rate and length.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from chapter02_siamese import own_files, protocol, recognition, report, siamese
from common import audio, audio_augmentation, plots, sounds, verification_figures
from common.audio import SoundFormat
from common.audio_folders import SUFFIXES
from common.errors import UserError
from common.settings import RunSettings, one_of

import keras
import numpy as np
from keras import layers


@dataclass(frozen=True)
class Config(recognition.Settings):
    """Settings of the script; the defaults are those of the synthetic calls."""

    FOLDS: ClassVar = {"fsdd": 5, "fsdd-speakers": 6}
    EMBEDDED: ClassVar = "sounds"

    features: str = "log_mel"
    """What the network sees: log_mel or mfcc."""
    length: str = "pad"
    """How sounds become equally long: pad (or crop), or stretch, which suits words."""
    network: str = "whole"
    """whole: one embedding of all of a sound; local: one after another along it, for words."""
    run: RunSettings = RunSettings(steps=400, dataset="sounds")

    def __post_init__(self):
        super().__post_init__()
        one_of(self, "features", audio.KINDS)
        one_of(self, "length", audio.LENGTHS)
        one_of(self, "network", ("whole", "local"))

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set: of digits there are few, so more recordings of each."""
        run = RunSettings(steps=400, dataset=dataset)
        if dataset == "fsdd":
            run = replace(run, steps=250)
            return cls(length="stretch", network="local", people=6, items=12, run=run)
        if dataset == "fsdd-speakers":
            return cls(people=10, items=8, k_shot=5, run=run)
        return cls(run=run)

    @classmethod
    def smoke(cls, dataset="sounds"):
        """The whole script in seconds."""
        tried = RunSettings(steps=10, dataset=dataset, smoke=True)
        small = {"filters": 8, "people": 4, "pairs": 16, "eval_pairs": 200, "eval_episodes": 50}
        return replace(cls.for_dataset(dataset), **small, run=tried)


def sound_format(config):
    """What sounds are made into."""
    return SoundFormat(kind=config.features, length=config.length)


def loader(config):
    """`load(name, split, data_dir, fold)` with the features of the settings."""
    return lambda *where: sounds.load(*where, sound_format=sound_format(config))


def augmentation(config):
    """`augment(features, seed)`: shifts and stretches sounds and makes them noisy a little."""
    bands_move = {} if config.features == "log_mel" else {"warp": 0.0}  # cepstra have no pitch axis
    return partial(audio_augmentation.augment, **bands_move)


def new_siamese(config, input_shape):
    """An untrained network, of the kind that the settings name, its weights decided by the seed."""
    if config.network == "whole":
        return recognition.new_siamese(config, input_shape)
    features = keras.Input(input_shape)
    x = layers.Reshape(input_shape[:2])(features)  # (frames, bands): convolutions over time alone
    for block, filters in enumerate((4 * config.filters, config.embedding)):
        x = layers.ReLU()(layers.LayerNormalization()(x)) if block else x
        kernel = keras.initializers.GlorotUniform(config.run.seed + block)
        x = layers.Conv1D(filters, 9, 2, padding="same", kernel_initializer=kernel)(x)
    # Each stretch of time counts the same, (stretches, embedding), and the whole has length 1.
    x = layers.Flatten()(layers.UnitNormalization()(x))
    if config.loss == "cross_entropy":
        x = layers.Activation("sigmoid")(x)
    else:
        x = layers.UnitNormalization()(x)
    twin = keras.Model(features, x, name="twin")
    return siamese.SiameseNetwork(twin, config.energy_name)


def run(config, directory=None, progress=False):
    """Trains the network and measures it on classes never heard; see `recognition.run`."""
    places = {"directory": directory, "progress": progress, "new": new_siamese}
    return recognition.run(config, loader(config), augmentation(config), **places)


def draw(result, config, directory):
    """Saves the figures of a run: those of `report.draw`, and some sounds with their MFCC."""
    data, where = protocol.shown_data(config, loader(config))
    report.draw(result, config, data, directory, verification_figures.show_features)
    chosen = [np.flatnonzero(where.labels == label)[0] for label in range(len(where.class_names))]
    waves = [where.waveform(index) for index in chosen[:4]]
    coefficients = audio.features(waves, replace(sound_format(config), kind="mfcc"))
    names = [where.class_names[label] for label in range(len(waves))]
    figure = verification_figures.draw_sounds(waves, where.rate, coefficients, names)
    plots.save(figure, directory / "sounds.png")


def read(path, input_shape, config):
    """The features of one sound file as the network takes them, `input_shape`."""
    form = sound_format(config)
    if form.shape != input_shape:
        raise UserError(
            f"The weights are of features {input_shape}, found {form.shape}: train anew."
        )
    return audio.features([audio.read_sound(path, form.rate)], form)[0]


FILES = own_files.Kind(read, SUFFIXES, ("the same", "different"))


def main():
    """The command line: see `--help`."""
    own_files.main(Config, run, draw, FILES, new_siamese)


if __name__ == "__main__":
    main()
