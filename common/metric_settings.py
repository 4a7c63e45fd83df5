"""The settings that the metric learners share, as `common.settings` holds those of all scripts."""

from dataclasses import dataclass, replace
from typing import ClassVar

from common.errors import UserError
from common.settings import RunSettings, at_least, positive


@dataclass(frozen=True)
class MetricSettings:
    """Settings of a metric learner: a script's `Config` adds its own, and may change defaults.

    Only characters have classes of their own when they are turned, and enough for 60-way tasks.
    """

    OMNIGLOT_STEPS: ClassVar[int] = 12000  # outer steps on Omniglot, a longer task than the others

    n_way: int = 60
    """Classes in an episode of training."""
    k_shot: int = 1
    """Support items of each class, in training and in testing."""
    n_query: int = 5
    """Query items of each class in training."""
    test_ways: tuple[int, ...] = (5, 20)
    """Classes in an episode of testing; every number gets a line of results."""
    test_query: int = 15
    """Query items of each class in testing."""
    rotations: bool = True
    """Count each 90-degree rotation of a class of images as a class of its own."""

    filters: int = 64
    """Filters of each convolution."""
    norm: str = "fused"
    """Normalisation: fused (batch normalisation, computed fast), batch, layer or none."""

    outer_lr: float = 0.001
    """Rate of the outer steps (Adam)."""
    outer_decay: bool = True
    """Let the outer rate fall to zero along a cosine."""
    meta_batch_size: int = 1
    """Episodes in an outer step."""

    eval_episodes: int = 1000
    """Meta-test episodes."""
    run: RunSettings = RunSettings(steps=1000, dataset="glyphs")

    def __post_init__(self):
        positive(self, "k_shot", "n_query", "test_query", "filters", "outer_lr", "meta_batch_size")
        at_least(2, self, "eval_episodes", "n_way")
        if not self.test_ways or min(self.test_ways) < 2:
            raise UserError(f"--test-ways must be numbers of at least 2, got {self.test_ways}")

    @classmethod
    def for_dataset(cls, dataset):
        """The settings for a data set; the script's docstring says what differs from the paper."""
        default = cls()
        if dataset.startswith("omniglot"):
            return replace(default, run=RunSettings(steps=cls.OMNIGLOT_STEPS, dataset=dataset))
        if dataset == default.run.dataset:
            return default
        n_way = 4 if dataset == "fsdd" else 5  # of 10 digits, 4 are for testing
        small = {"n_way": 5, "test_ways": (n_way,), "test_query": 5, "rotations": False}
        return replace(default, **small, run=replace(default.run, dataset=dataset))

    @classmethod
    def smoke(cls, dataset="glyphs"):
        """The whole script in seconds."""
        tried, full = RunSettings(steps=20, dataset=dataset, smoke=True), cls.for_dataset(dataset)
        small = {"n_way": 5, "test_ways": full.test_ways[:1], "filters": 8, "eval_episodes": 20}
        return replace(full, **small, run=tried)
