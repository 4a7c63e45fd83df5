"""Seconds from the start of Python to the first outer step, and to data that can be sampled.

    python -m tests.benchmarks.startup [--processes 5]

Each number is from fresh processes, the quickest and the median of them. "First" reads or draws
a data set with an empty cache, "cached" finds it there. Omniglot is measured if its archives are
found (META_LEARNING_DATA names their folder); nothing is downloaded.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from common.omniglot import BACKGROUND, EVALUATION
from common.omniglot_archives import find_archive

import numpy as np

# Printed times are those since 1970, which all processes agree on.
FIRST_STEP = """
import time
print("python starts", time.time())
import common
print("common", time.time())
import tensorflow
print("TensorFlow", time.time())
from chapter05_maml_adml import maml
from common import experiment, training
config = maml.Config()
training.prepare(config.run)
sampler, _ = experiment.samplers(config)
learner = maml.new_learner(config, sampler)
learner.compile(training.outer_optimizer(config))
print("all other imports, data, network", time.time())
learner.fit(sampler.dataset(config.meta_batch_size), steps_per_epoch=1, verbose=0)
print("first outer step", time.time())
"""

LOAD = """
import time
from common import datasets
start = time.time()
datasets.load({name!r}, "train")
print("load", time.time() - start)
"""


def stages(program, **environment):
    """When a fresh process was started, and what it prints, `{label: number}`."""
    command, environment = [sys.executable, "-c", program], {**os.environ, **environment}
    start = time.time()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    lines = (line.rsplit(" ", 1) for line in done.stdout.splitlines())
    return start, {label: float(number) for label, number in lines}


def first_outer_step(processes):
    """Seconds of each stage and in all, `{label: [...]}`."""
    seconds = {}
    for _ in range(processes):
        start, times = stages(FIRST_STEP)
        before = start
        for label, moment in times.items():
            seconds.setdefault(label, []).append(moment - before)
            before = moment
        seconds.setdefault("in all", []).append(before - start)
    return seconds


def loading(name, processes):
    """Seconds to load a data set, with an empty cache and again."""
    seconds = {f"{name}, first": [], f"{name}, cached": []}
    for _ in range(processes):
        with tempfile.TemporaryDirectory() as cache:
            for times in seconds.values():
                _, found = stages(LOAD.format(name=name), META_LEARNING_CACHE=cache)
                times.append(found["load"])
    return seconds


def report(seconds):
    for label, values in seconds.items():
        print(f"  {label:34}{min(values):8.2f}{np.median(values):8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=5, help="fresh processes for each number")
    processes = parser.parse_args().processes

    print(f"{'seconds':36}{'best':>8}{'median':>8}")
    report(first_outer_step(processes))
    report(loading("glyphs", processes))
    if all(find_archive(archive.name) for archive in (BACKGROUND, EVALUATION)):
        report(loading("omniglot", processes))
    else:
        print("  Omniglot is not here: set META_LEARNING_DATA to the folder of its archives")


if __name__ == "__main__":
    main()
