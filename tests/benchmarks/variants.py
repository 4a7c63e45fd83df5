"""Outer steps of MAML's family, each relative to that of second-order MAML.

    python -m tests.benchmarks.variants [--dataset sine] [--inner-steps 1] [--json PATH]

All learners have the same network, the same episodes and as many inner steps; what else belongs
to them is as in their scripts. With `--dataset navigation` it is the policies, whose outer steps
are of a trust region. The learners take turns in every round, so that whatever else the machine
does falls on all alike, and the best round of each counts.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from chapter05_maml_adml import adml, caml, maml, maml_rl
from chapter06_metasgd_reptile import meta_sgd, meta_sgd_rl, reptile
from chapter07_gradient_agreement.gradient_agreement import AgreementMAML
from chapter08_recent import taml
from common import experiment, training
from common.command import versions
from common.navigation import Navigation, NavigationSampler
from common.trust_region import TrustRegion

import numpy as np

STEPS = {"waves": 100, "images": 5, "navigation": 1}  # outer steps of a round


def family(dataset, inner_steps):
    """The learners by name, MAML first, and batches for a round."""
    usual = replace(maml.Config.for_dataset(dataset), inner_steps=inner_steps)
    sampler, _ = experiment.samplers(usual)
    learners = {
        "MAML": maml.new_learner(usual, sampler),
        "first-order MAML": maml.new_learner(replace(usual, order=1), sampler),
    }
    scripts = {"ADML": adml, "CAML": caml, "Meta-SGD": meta_sgd, "Reptile": reptile, "TAML": taml}
    if dataset.startswith("sine"):
        del scripts["ADML"]
    for name, script in scripts.items():
        config = replace(script.Config.for_dataset(dataset), inner_steps=inner_steps)
        if script is reptile:
            config = replace(config, hidden=(40, 40), inner_batch=0)
        learners[name] = script.new_learner(config, sampler)
    options = learners["MAML"].get_config() | {"name": "agreement"}
    learners["gradient agreement"] = AgreementMAML.from_config(options)
    for learner in learners.values():
        learner.compile(training.outer_optimizer(usual))
    steps = STEPS["waves" if dataset.startswith("sine") else "images"]
    return learners, sampler.dataset(usual.meta_batch_size).take(steps).cache()


def policies(inner_steps):
    """As `family`, of navigation."""
    config = replace(maml_rl.Config(), inner_steps=inner_steps)
    learners = {
        "MAML": maml_rl.new_learner(config),
        "first-order MAML": maml_rl.new_learner(replace(config, order=1)),
        "Meta-SGD": meta_sgd_rl.new_learner(replace(meta_sgd_rl.Config(), inner_steps=inner_steps)),
    }
    for learner in learners.values():
        learner.compile(TrustRegion(config.max_kl), jit_compile=False)
        learner.optimizer.build(learner.trainable_variables)
    sampler = NavigationSampler(Navigation(horizon=config.horizon))
    return learners, sampler.dataset(config.meta_batch_size).take(STEPS["navigation"]).cache()


def seconds(learner, batches):
    """Wall time of an outer step."""
    start = time.perf_counter()
    learner.fit(batches, verbose=0)
    return (time.perf_counter() - start) / int(batches.cardinality())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="sine", help="sine, glyphs, navigation and so on")
    parser.add_argument("--inner-steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write the table")
    options = parser.parse_args()
    if options.dataset == "navigation":
        learners, batches = policies(options.inner_steps)
    else:
        learners, batches = family(options.dataset, options.inner_steps)
    for learner in learners.values():  # the graphs are made, and the episodes drawn
        seconds(learner, batches)
    found = np.array(
        [
            [seconds(learner, batches) for learner in learners.values()]
            for _ in range(options.rounds)
        ]
    )
    print(
        f"{options.dataset}, {options.inner_steps} inner step(s), best of {options.rounds} rounds"
    )
    for name, best in zip(learners, found.min(axis=0), strict=True):
        print(f"{name:20} {1000 * best:9.1f} ms   {best / found[:, 0].min():5.2f} of MAML's")
    if options.json:
        rows = [
            {"learner": name, "seconds": times.min(), "median_seconds": float(np.median(times))}
            for name, times in zip(learners, found.T, strict=True)
        ]
        settings = {"dataset": options.dataset, "inner_steps": options.inner_steps}
        content = {**settings, "rounds": options.rounds, "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
