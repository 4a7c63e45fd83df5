"""What `face.py` and `audio.py` share: settings, network, training, and how well it recognises.

Train, validation and test are different people (or words, speakers): the threshold is chosen on
the validation people, and every figure is of test people, whom the network has never met.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from chapter02_siamese import own_files, protocol, report, siamese
from common import pairs, training
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.results import Estimate
from common.settings import RunSettings, at_least, non_negative, one_of, positive

import keras
from keras import layers

DISTANCES = ("euclidean", "squared_euclidean", "manhattan", "cosine")
ENERGIES = {"contrastive": DISTANCES, "cross_entropy": ("learned",), "triplet": DISTANCES}
MARGINS = {"contrastive": 1.0, "triplet": 0.2}  # Hadsell's is the book's; that of Schroff et al.


@dataclass(frozen=True)
class Settings:
    """The settings of both scripts."""

    FOLDS: ClassVar = {}  # how often a data set can be split so that each class is once in the test
    EMBEDDED: ClassVar = ""  # the script's synthetic data set, for `pretrain_steps`

    loss: str = "triplet"
    """contrastive, cross_entropy or triplet."""
    energy: str | None = None
    """euclidean, squared_euclidean, manhattan or cosine, with cross_entropy learned; by default
    the first that goes with the loss."""
    margin: float | None = None
    """How far apart two classes should be: 1 for contrastive, 0.2 for triplet."""
    embedding: int = 64
    """Numbers that an item becomes."""
    filters: int = 32
    """Filters of the first convolution; the others have two, two and four times as many."""

    split: str = "people"
    """people: test on people never seen; pairs: on other pairs of the same people, as the book."""
    fold: int = 0
    """Which of the people are the test people, from 0, where a data set has folds."""
    folds: bool = False
    """Train and test on each fold once."""
    augment: bool = True
    """Change the items a little whenever they are used in training."""
    pairs: int = 64
    """Pairs in a training step of contrastive and cross_entropy."""
    people: int = 16
    """People in a training step of triplet."""
    items: int = 4
    """Items of each of them."""
    pretrain_steps: int = 0
    """Steps on the synthetic faces or sounds that come before those on the data set."""
    outer_lr: float = 0.001
    """Rate of the training steps (Adam)."""
    outer_decay: bool = True
    """Let the rate fall to zero along a cosine."""

    eval_pairs: int = 2000
    """Test pairs, half of them genuine; fewer if there are not so many."""
    eval_episodes: int = 600
    """Test episodes of identification."""
    n_way: int | None = None
    """People to choose from in an episode; by default all test people, at most 10."""
    k_shot: int = 1
    """Known items of each of them."""
    own: own_files.OwnFiles = field(default_factory=own_files.OwnFiles)
    run: RunSettings = RunSettings()

    def __post_init__(self):
        for name, choices in (("loss", tuple(ENERGIES)), ("split", ("people", "pairs"))):
            one_of(self, name, choices)
        if self.energy is not None:
            one_of(self, "energy", ENERGIES[self.loss], f" with --loss {self.loss}")
        positive(self, "filters", "outer_lr", "k_shot")
        positive(self, *["margin"] * (self.margin is not None))
        if self.margin is not None and self.loss not in MARGINS:
            raise UserError(f"--margin goes with --loss {' or '.join(MARGINS)}, got {self.loss}")
        at_least(2, self, "embedding", "pairs", "people", "items", "eval_pairs", "eval_episodes")
        at_least(2, self, *["n_way"] * (self.n_way is not None))
        non_negative(self, "fold", "pretrain_steps")
        if self.n_folds == 1 and (self.fold or self.folds):
            raise UserError(
                f"{self.run.dataset} is split in one way only: leave out --fold and --folds, or "
                f"choose {' or '.join(self.FOLDS)}"
            )
        if self.fold and self.folds:
            raise UserError(f"--folds takes every fold in turn: leave out --fold {self.fold}")
        if self.fold >= self.n_folds:
            raise UserError(f"--fold must be 0 to {self.n_folds - 1}, got {self.fold}")
        if self.split == "pairs" and (self.folds or self.loss == "triplet"):
            raise UserError(
                "--split pairs knows no people, so it goes neither with --folds nor with --loss "
                "triplet; choose --loss contrastive or cross_entropy"
            )

    @property
    def n_folds(self):
        """Folds of the data set."""
        return self.FOLDS.get(self.run.dataset, 1)

    @property
    def energy_name(self):
        """The energy that is asked for, or the one that goes with the loss."""
        return self.energy or ENERGIES[self.loss][0]


def new_siamese(config, input_shape):
    """An untrained `SiameseNetwork`, its weights decided by the seed."""
    x = items = keras.Input(input_shape)
    for block, width in enumerate((1, 2, 2, 4)):
        kernel = keras.initializers.GlorotUniform(config.run.seed + block)
        filters = width * config.filters
        x = layers.Conv2D(filters, 3, 2, padding="same", kernel_initializer=kernel)(x)
        x = layers.ReLU()(layers.LayerNormalization(axis=(-3, -2, -1))(x))
    kernel = keras.initializers.GlorotUniform(config.run.seed + 4)
    x = layers.Dense(config.embedding, kernel_initializer=kernel)(layers.Flatten()(x))
    # Distances are between points on a sphere; Koch et al. compare numbers between 0 and 1.
    learned = config.loss == "cross_entropy"
    x = layers.Activation("sigmoid")(x) if learned else layers.UnitNormalization()(x)
    return siamese.SiameseNetwork(keras.Model(items, x, name="twin"), config.energy_name)


def new_loss(config):
    """The Keras loss that the settings name."""
    if config.loss == "cross_entropy":
        return siamese.EnergyCrossEntropy()
    loss = siamese.TripletLoss if config.loss == "triplet" else siamese.ContrastiveLoss
    return loss(config.margin or MARGINS[config.loss])


def run(config, load, augment, directory=None, progress=False, new=new_siamese):
    """Trains the network, and measures it beside two baselines, on one fold or on all.

    Args:
        config: A `Settings`.
        load: `load(name, split, data_dir, fold)` gives a `FewShotData`.
        augment: `augment(items, seed)` that changes items in training.
        directory: Folder of the run, or None to write nothing.
        progress: Whether to show a progress bar.
        new: `new(config, input_shape)` gives an untrained network.

    Returns:
        A `Result`; intervals are over people, of identification over episodes, with `folds` over
        the folds.
    """
    training.prepare(config.run)
    if not config.folds:
        return run_fold(config, load, augment, config.fold, directory, progress, new)
    results = []
    for fold in range(config.n_folds):
        if progress:
            print(f"fold {fold + 1} of {config.n_folds}", flush=True)
        place = directory and directory / f"fold{fold}"
        results.append(run_fold(config, load, augment, fold, place, progress, new))
    metrics = {
        name: Estimate.from_values([result.metrics[name].mean for result in results])
        for name in results[0].metrics
    }
    extra = {**results[0].extra, "folds": [result.metrics for result in results]}
    return replace(results[0], metrics=metrics, extra=extra)


def run_fold(config, load, augment, fold, directory=None, progress=False, new=new_siamese):
    """Trains and measures on the people of one fold."""
    train, listed, judged = protocol.data_of(config, load, fold)
    tested = judged["test"][0]  # too few people or items are refused before the training
    EpisodeSampler(tested, report.n_way(config, tested), config.k_shot, 1)
    sampler = new_sampler(train, config, augment, listed)
    learners = {name: new(config, train.items.shape[1:]) for name in ("siamese", "random")}
    learner = learners["siamese"]
    begun = directory is not None and any((directory / "checkpoint").glob("step-*.json"))
    if config.pretrain_steps and not begun:
        if progress:
            print(f"training begins on {config.EMBEDDED}", flush=True)
        first = replace(config, run=replace(config.run, steps=config.pretrain_steps))
        synthetic = load(config.EMBEDDED, "train", config.run.data_dir, 0)
        train_on(learner, new_sampler(synthetic, config, augment), first, progress=progress)
    history = train_on(learner, sampler, config, directory, progress)
    return report.measure(learners, judged, config, history)


def new_sampler(data, config, augment, listed=None):
    """What draws batches of `data`: triplets, or pairs (those `listed`, or all)."""
    options = {"augment": augment if config.augment else None, "seed": config.run.seed}
    if config.loss == "triplet":
        return pairs.ClassSampler(data, config.items, **options)
    return pairs.PairSampler(data, pairs=listed, **options)


def train_on(learner, sampler, config, directory=None, progress=False):
    """Trains a network, from the weights that it has, on what is drawn; returns the curves."""
    learner.compile(training.outer_optimizer(config), new_loss(config), jit_compile=config.run.jit)
    size = config.people if config.loss == "triplet" else config.pairs
    return training.train(
        learner, sampler, steps=config.run.steps, meta_batch_size=size, directory=directory,
        progress=progress,
    )  # fmt: skip
