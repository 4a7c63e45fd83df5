"""Meta-training that can be killed at any moment and goes on where it was."""

import json
import sys
import warnings
from pathlib import Path

from common.best_weights import BestWeights
from common.errors import UserError
from common.files import atomic_path

import keras
import numpy as np
import tensorflow as tf

RESTART = "Run without --resume to start again."


def prepare(settings):
    """Makes what follows reproducible, and sets the precision: call it before making a network.

    With `--jit`, Keras compiles with XLA only in a process without TensorFlow's deterministic
    operations, so they are left off; on a GPU, two runs may then differ in the last digits.

    Args:
        settings: The script's `RunSettings`.

    Raises:
        UserError: If the seed is too large.
    """
    if settings.seed >= 2**30:
        raise UserError(f"--seed must be at most {2**30 - 1}, got {settings.seed}")
    keras.utils.set_random_seed(settings.seed)
    if not settings.jit:
        tf.config.experimental.enable_op_determinism()
    half = "mixed_float16" if tf.config.list_physical_devices("GPU") else "mixed_bfloat16"
    keras.config.set_dtype_policy(half if settings.mixed_precision else "float32")


def outer_optimizer(config):
    """Adam with the script's `outer_lr`, decaying along a cosine if `outer_decay` says so."""
    rate = config.outer_lr
    if config.outer_decay:
        rate = keras.optimizers.schedules.CosineDecay(rate, config.run.steps)
    return keras.optimizers.Adam(rate)


def train(
    learner,
    sampler,
    *,
    steps,
    meta_batch_size,
    directory=None,
    validation=None,
    keep_best=False,
    progress=False,
):
    """Fit a compiled learner for a number of outer steps.

    With a directory, it keeps a checkpoint there, TensorBoard logs, and at last the weights. If
    the directory already holds a checkpoint, training goes on from it, and ends with the same
    weights as a run that was never interrupted: the batch of step s depends on s alone.

    Args:
        learner: A compiled `MetaLearner`; its `updates_per_step` says how many steps of the
            optimizer are an outer step, where that is not one.
        sampler: An `EpisodeSampler`, or whatever has its method `dataset`.
        steps: Outer steps in all.
        meta_batch_size: Tasks in each.
        directory: Folder of the run, or None to write nothing.
        validation: Optional batches of episodes, evaluated after each epoch.
        keep_best: Whether to end with the weights of the epoch that had the lowest `val_loss`.
        progress: Whether to show a progress bar.

    Returns:
        Learning curves: `{"step": [...], "loss": [...], ...}`, one value an epoch.

    Raises:
        UserError: If the checkpoint is damaged or belongs to another network, or the loss is not
            finite.
    """
    learner.optimizer.build(learner.trainable_variables)
    history = {"step": []}
    folder = None if directory is None else Path(directory) / "checkpoint"
    best = BestWeights(history, folder)
    callbacks = [*[best] * keep_best, History(history)]
    if directory is not None:
        checkpoint = Checkpoint(folder, history)
        checkpoint.restore(learner)
        logs = keras.callbacks.TensorBoard(Path(directory) / "logs", write_graph=False)
        callbacks += [checkpoint, logs]
    epoch = min(500, -(-steps // 20))
    done = steps_done(learner)
    while done < steps:  # once, and once more if the last epoch is a shorter one
        size = min(epoch, steps - done)
        learner.fit(
            sampler.dataset(meta_batch_size, start_step=done),
            initial_epoch=done // epoch,
            epochs=done // epoch + (steps - done) // size,
            steps_per_epoch=size,
            validation_data=validation,
            callbacks=callbacks,
            verbose=(1 if sys.stdout.isatty() else 2) if progress else 0,
        )
        before, done = done, steps_done(learner)
        if done == before:  # a scaled loss that is not finite makes the optimizer skip the step
            raise UserError(
                f"The loss was not finite in any step after step {done}: lower --inner-lr or "
                "--outer-lr, or leave out --mixed-precision."
            )
    if keep_best:
        best.restore(learner)
    if directory is not None:
        _save_weights(learner, Path(directory) / "learner.weights.h5")
    return history


def steps_done(learner):
    """Outer steps so far."""
    return int(learner.optimizer.iterations) // getattr(learner, "updates_per_step", 1)


def load_weights(learner, path, advice):
    """Loads weights that `train` saved into a learner of the same network.

    Raises:
        UserError: If the file is damaged or of another network; it ends in `advice`.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping")  # or weights would stay as they are
            learner.load_weights(path)
    except (OSError, KeyError, TypeError, ValueError, UserWarning) as error:
        raise _damaged(path, learner, error, advice) from None


def _damaged(path, learner, error, advice):
    reason = " ".join(str(error).split()).partition(". ")[0][:150].rstrip(".")
    return UserError(
        f"{path} is damaged, or of another network than this {learner.network.name}: {reason}. "
        f"{advice}"
    )


def _save_weights(learner, path):
    variables = [*learner.variables, *learner.optimizer.variables]
    room = 2 * sum(v.numpy().nbytes for v in variables) + 2**17  # more than the file takes
    with atomic_path(path) as temporary:
        temporary.write_bytes(bytes(room))  # fails on a full disk, where HDF5 would crash Python
        learner.save_weights(temporary)


class History(keras.callbacks.Callback):
    """Appends the logs of each epoch, and the step at its end, to lists.

    Raises:
        UserError: If the weights are not finite.
    """

    def __init__(self, history):
        super().__init__()
        self.history = history

    def on_epoch_end(self, epoch, logs=None):
        if not all(np.isfinite(v.numpy()).all() for v in self.model.trainable_variables):
            raise UserError(
                "The loss was not finite, and so are not the weights, at step "
                f"{steps_done(self.model)}: lower --inner-lr or --outer-lr."
            )
        self.history["step"].append(steps_done(self.model))
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))


class Checkpoint(keras.callbacks.Callback):
    """Keeps the weights, the optimizer and the learning curve of the newest epoch.

    The weights are written first, and the small file that makes them valid last, each under a
    temporary name: whenever the process is killed, one whole checkpoint is there.
    """

    def __init__(self, folder, history):
        super().__init__()
        self.folder, self.history = folder, history

    def on_epoch_end(self, epoch, logs=None):
        older = list(self.folder.glob("step-*"))
        stem = f"step-{steps_done(self.model):08d}"
        _save_weights(self.model, self.folder / f"{stem}.weights.h5")
        with atomic_path(self.folder / f"{stem}.json") as temporary:
            temporary.write_text(json.dumps(self.history))
        for path in older:
            path.unlink()

    def restore(self, learner):
        """Loads the newest checkpoint, if there is one, into the learner and the history.

        Raises:
            UserError: If it is damaged or of another network.
        """
        newest = max(self.folder.glob("step-*.json"), default=None)
        if newest is None:
            return
        try:
            history = dict(json.loads(newest.read_text()))
        except (OSError, TypeError, ValueError) as error:
            raise _damaged(newest, learner, error, RESTART) from None
        load_weights(learner, newest.with_suffix(".weights.h5"), RESTART)
        self.history.update(history)
