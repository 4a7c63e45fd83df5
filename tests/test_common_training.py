"""Training can be cut off anywhere, and goes on to the same end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import common
from chapter05_maml_adml.maml import MAML
from common import training
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.networks import mlp
from common.sine import SineTasks

import keras
import numpy as np
import pytest

ROOT = Path(common.__file__).parent.parent


def new_learner(hidden=(8,)):
    learner = MAML(mlp(1, hidden, 1), 0.01, loss="mse")
    learner.compile(optimizer=keras.optimizers.Adam(0.01))
    return learner


def train(learner, steps, directory=None, **options):
    sampler = EpisodeSampler(SineTasks(), 1, 5, 5)
    return training.train(
        learner, sampler, steps=steps, meta_batch_size=4, directory=directory, **options
    )


def weights_of(learner):
    return [v.numpy() for v in learner.network.variables + learner.optimizer.variables]


def stop_after(monkeypatch, epochs):
    """Has training stop as by Ctrl-C, after the checkpoint of an epoch."""
    original, seen = training.Checkpoint.on_epoch_end, []

    def on_epoch_end(self, epoch, logs=None):
        original(self, epoch, logs)
        seen.append(epoch)
        if len(seen) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "on_epoch_end", on_epoch_end)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """The folder of a run of 47 steps that was stopped after 21."""
    with monkeypatch.context() as patch:
        stop_after(patch, epochs=7)
        with pytest.raises(KeyboardInterrupt):
            train(new_learner(), 47, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("steps", [1, 19, 20, 47, 60])
def test_all_steps_are_done_and_logged(steps):
    learner = new_learner()
    history = train(learner, steps)
    size = -(-steps // 20)
    ends = [*range(size, steps, size), steps]
    assert learner.optimizer.iterations == steps
    assert history["step"] == ends
    assert set(history) == {"step", "loss"}
    assert len(history["loss"]) == len(ends)


def test_validation_is_in_the_learning_curve():
    episodes = EpisodeSampler(SineTasks(split="validation"), 1, 5, 5).fixed(10, 4)
    learner = new_learner()
    history = train(learner, 10, validation=episodes)
    assert set(history) == {"step", "loss", "val_loss", f"val_{learner.score_name}"}
    assert {len(curve) for curve in history.values()} == {10}


def test_nothing_is_written_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(new_learner(), 3)
    assert not list(tmp_path.iterdir())


def test_files_of_a_run(tmp_path):
    learner = new_learner()
    train(learner, 10, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoint", "logs", "learner.weights.h5"}
    checkpoint = {path.name for path in (tmp_path / "run" / "checkpoint").iterdir()}
    assert checkpoint == {"step-00000010.json", "step-00000010.weights.h5"}
    other = new_learner()
    other.load_weights(tmp_path / "run" / "learner.weights.h5")
    for a, b in zip(weights_of(other)[:4], weights_of(learner)[:4]):
        np.testing.assert_array_equal(a, b)


def test_interrupted_training_goes_on(interrupted):
    assert json.loads((interrupted / "checkpoint/step-00000021.json").read_text())["step"][-1] == 21
    resumed, unbroken = new_learner(), new_learner()
    history = train(resumed, 47, interrupted)
    expected = train(unbroken, 47)
    assert history["step"] == expected["step"]
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    for a, b in zip(weights_of(resumed), weights_of(unbroken), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_finished_training_has_nothing_left_to_do(tmp_path):
    history = train(new_learner(), 6, tmp_path)
    learner = new_learner()
    assert train(learner, 6, tmp_path) == history
    assert learner.optimizer.iterations == 6


def test_failure_while_a_checkpoint_is_written(interrupted, monkeypatch):
    """Half a file never counts: the checkpoint before it is found, whole."""
    learner = new_learner()
    before = sorted(path.name for path in (interrupted / "checkpoint").iterdir())

    def half(path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(learner, "save_weights", half)
    with pytest.raises(UserError, match="No space left on device"):
        train(learner, 47, interrupted)
    assert sorted(path.name for path in (interrupted / "checkpoint").iterdir()) == before
    again = new_learner()
    train(again, 47, interrupted)
    assert again.optimizer.iterations == 47


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_damaged_weights_are_refused(interrupted, keep):
    path = interrupted / "checkpoint" / "step-00000021.weights.h5"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep in (0, 100) else keep * len(content))])
    with pytest.raises(UserError, match="is damaged") as refusal:
        train(new_learner(), 47, interrupted)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["", "{", '{"step": [3', "[1, 2]", "null"])
def test_damaged_learning_curve_is_refused(interrupted, content):
    (interrupted / "checkpoint" / "step-00000021.json").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        train(new_learner(), 47, interrupted)


def test_missing_weights_are_refused(interrupted):
    (interrupted / "checkpoint" / "step-00000021.weights.h5").unlink()
    with pytest.raises(UserError, match="is damaged"):
        train(new_learner(), 47, interrupted)


@pytest.mark.parametrize("hidden", [(9,), (8, 8), ()])
def test_checkpoint_of_another_network_is_refused(interrupted, hidden):
    with pytest.raises(UserError, match="of another network"):
        train(new_learner(hidden), 47, interrupted)


RUN = """
import sys
from chapter05_maml_adml.maml import MAML
from common import training
from common.episodes import EpisodeSampler
from common.networks import mlp
from common.settings import RunSettings
from common.sine import SineTasks
import keras

training.prepare(RunSettings(seed=3))
learner = MAML(mlp(seed=3), 0.01, loss="mse")
learner.compile(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 2000)))
sampler = EpisodeSampler(SineTasks(), 1, 5, 5, seed=3)
training.train(learner, sampler, steps=2000, meta_batch_size=4, directory=sys.argv[1])
"""


def start(directory):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", RUN, str(directory)], env=environment)


@pytest.mark.slow
def test_killed_run_ends_like_an_unbroken_one(tmp_path):
    """`kill -9` at any moment; the weights are equal to the last bit."""
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    process = start(killed)
    while not list(killed.glob("checkpoint/step-*[3-9]00.json")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "learner.weights.h5").exists()
    shutil.rmtree(killed / "logs")  # not needed to go on

    for directory in (killed, unbroken):
        assert start(directory).wait() == 0
    names = {path.name for path in (killed / "checkpoint").glob("step-*")}  # not the killed one's
    assert names == {"step-00002000.json", "step-00002000.weights.h5"}
    assert json.loads((killed / "checkpoint" / "step-00002000.json").read_text()) == json.loads(
        (unbroken / "checkpoint" / "step-00002000.json").read_text()
    )
    one, other = (MAML(mlp(), 0.01, loss="mse") for _ in range(2))
    one.load_weights(killed / "learner.weights.h5")
    other.load_weights(unbroken / "learner.weights.h5")
    for a, b in zip(one.network.variables, other.network.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


COMPILED = """
from dataclasses import replace
from chapter05_maml_adml import maml

tried = replace(maml.Config.smoke(), baseline_steps=0)
jitted, plain = (maml.run(replace(tried, run=replace(tried.run, jit=jit))) for jit in (True, False))
print(jitted.learner.jit_compile, plain.learner.jit_compile)
print(*jitted.history["loss"])
print(*plain.history["loss"])
"""


def test_jit_compiles_and_computes_the_same():  # in a process where nothing ran before
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    compiled, *losses = done.stdout.splitlines()[-3:]
    assert compiled == "True False", done.stderr
    jitted, plain = (np.array(line.split(), float) for line in losses)
    assert len(jitted) == 20
    np.testing.assert_allclose(jitted, plain, rtol=1e-3)
