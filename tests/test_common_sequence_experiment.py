"""Which training of a machine is the best is decided on other sequences than those reported."""

from dataclasses import replace

from chapter04_ntm_mann.ntm import Config
from common import sequence_experiment
from common.algorithmic_tasks import new_task, sampler

import numpy as np


class Answers:
    """A learner with given bits per sequence on the sequences reported and on all others."""

    def __init__(self, reported, elsewhere):
        self.reported, self.elsewhere = reported, elsewhere

    def sequence_scores(self, batches):
        inputs = next(iter(batches)).inputs.numpy()
        shown = sampler(new_task("copy", 3), 0).episode(0).inputs
        bits = self.reported if np.array_equal(inputs[0], shown) else self.elsewhere
        return np.tile([bits, 0.0, 8.0], (4, 1))


def test_the_best_seed_is_not_chosen_by_what_is_reported(monkeypatch):
    monkeypatch.setattr(sequence_experiment, "examples", lambda *_: {})
    config = replace(Config.smoke(), n_seeds=2)
    learners = {"NTM_0": Answers(1.0, 3.0), "NTM_1": Answers(2.0, 1.0)}
    result = sequence_experiment.measure({"NTM": list(learners)}, learners, config, {})
    assert result.extra["best"] == {"NTM": "NTM_1"}
    assert result.metrics["NTM_bits_per_sequence"].mean == 2.0
    assert result.metrics["NTM_bits_per_sequence_of_seed_0"].mean == 1.0
