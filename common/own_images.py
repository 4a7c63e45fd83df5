"""Recognising one's own images with a trained metric learner: `--support DIR --query FILE...`.

How folders and images are read stands in `common.own_files`.
"""

import contextlib
import shlex

from common import calibration, command, training
from common.datasets import load
from common.errors import UserError
from common.learner import Episode
from common.own_files import as_item, read_classes, read_grey
from common.results import Result
from common.run_directory import RunDirectory
from common.settings import restored
from common.sounds import NAMES as SOUNDS

import numpy as np
import tensorflow as tf


def check(config):
    """Raises `UserError` unless `support`, `query` and `weights` of a `Config` go together."""
    given = [name for name in ("query", "weights") if getattr(config, name)]
    if config.support is None and given:
        raise UserError(f"--{given[0]} needs --support DIR, the folder with the classes")
    if config.support is not None and not config.query:
        raise UserError("--support needs --query FILE, the images to recognise")
    if config.support is not None and getattr(config, "zero_shot", False):
        raise UserError("--support shows classes, --zero-shot describes them: leave out one")
    if config.support is not None and config.run.dataset in SOUNDS:
        raise UserError(f"--support needs a network of images, not of {config.run.dataset}")
    if config.support is not None and config.run.resume is not None:
        raise UserError("--support needs a finished run: --resume it first, without --support")


def main(Config, run, draw, new_learner, argv=None):
    """A script's `main`: recognises one's own images if `--support` is given, or else trains.

    Args:
        Config: The script's settings, with fields `support`, `query` and `weights`.
        run, draw: As for `command.main`.
        new_learner: `new_learner(config, input_shape)` makes an untrained learner.
        argv: The command line; by default that of this process.
    """
    with command.readable_errors():
        config = command.parse(Config, argv)
        if config.support is None:
            command.main(Config, run, draw, argv)
            return
        classes = read_classes(config.support)  # before a training that they might spoil
        queries = [read_grey(path) for path in config.query]
        script, folder = command.script_name(Config), config.weights
        if folder is None and (folder := newest_run(config, script)) is None:
            print(f"no finished run of {script} in {config.run.output_dir}, so first the training:")
            flags = [*shlex.split(command.command_line(config))[2:]]
            flags += ["--output-dir", str(config.run.output_dir)]
            if config.run.data_dir is not None:
                flags += ["--data-dir", str(config.run.data_dir)]
            print(f"  {config.run.dataset}, {config.run.steps} steps", flush=True)
            command.main(Config, run, draw, flags)
            folder = newest_run(config, script)
        elif differing := command.conflicts(config, folder):
            raise UserError(f"{folder} was trained without {differing}: leave it out")
        learner, recognition = restore(folder, Config(), script, new_learner, config.run.data_dir)
        answers = recognise(learner, recognition, classes, queries, config.query)
        print(f"weights of {folder}\n{report(config.query, list(classes), *answers)}")


def newest_run(config, script):
    """The folder of the newest finished run that fits the flags that were given, or None."""
    found = []
    for path in (config.run.output_dir / script).glob("*/result.json"):
        with contextlib.suppress(UserError):
            settings = RunDirectory.settings(path.parent, script)
            usable = settings.get("smoke") == config.run.smoke and not settings.get("zero_shot")
            usable = usable and settings.get("dataset") not in SOUNDS
            usable = usable and not command.conflicts(config, path.parent)
            if usable and (path.parent / "learner.weights.h5").is_file():
                found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent if found else None


def restore(folder, default, script, new_learner, data_dir=None):
    """The trained learner of a run, and its calibration.

    Args:
        folder: Folder of a finished run.
        default: A `Config` of its script.
        script: The script's name.
        new_learner: See `main`.
        data_dir: Where to look for the run's data set if the run was not calibrated.

    Returns:
        The learner, and what `calibration.calibrate` returned.

    Raises:
        UserError: If the folder has no such run, or the weights are of another network.
    """
    config = restored(default, RunDirectory.settings(folder, script))
    weights = folder / "learner.weights.h5"
    if getattr(config, "zero_shot", False) or not weights.is_file():
        found = "one of --zero-shot" if weights.is_file() else "one without weights"
        raise UserError(f"expected a finished run of {script} in {folder}, found {found}")
    if config.run.dataset in SOUNDS:
        raise UserError(
            f"expected a run of {script} with images in {folder}, found one with the sounds of "
            f"{config.run.dataset}; choose another folder for --weights"
        )
    training.prepare(config.run)
    recognition, validation = None, None
    with contextlib.suppress(UserError):
        recognition = Result.load(folder / "result.json").extra.get("recognition")
    if recognition is None:
        validation = load(config.run.dataset, "validation", data_dir or config.run.data_dir)
    shape = recognition["input_shape"] if recognition else validation.items.shape[1:]
    learner = new_learner(config, tuple(shape))
    training.load_weights(learner, weights, "Choose another folder for --weights.")
    return learner, recognition or calibration.calibrate(learner, validation, config.run.seed)


def recognise(learner, recognition, classes, queries, names=None):
    """Which class each query is of.

    Args:
        learner: A trained metric learner.
        recognition: From `calibration.calibrate`.
        classes: Grey images of each class by its name, as from `read_classes`.
        queries: Grey images.
        names: What to call the queries in a message.

    Returns:
        `(probabilities, distances, limit)`: NumPy `(queries, classes)`, the classes in the order
        of `classes`; each query's distance from the nearest; past `limit` it is unknown.
    """
    form = recognition["input_shape"], recognition["drawn"]
    support = [
        as_item(image, *form, name=f"class {name}")
        for name, images in classes.items()
        for image in images
    ]
    labels = [k for k, images in enumerate(classes.values()) for _ in images]
    names = names or [f"query {number}" for number in range(len(queries))]
    asked = [as_item(image, *form, name=str(name)) for image, name in zip(queries, names)]
    episode = (np.float32(support) / 255, np.int32(labels), np.float32(asked) / 255)
    episode = Episode(*(part[None] for part in episode), np.zeros((1, len(asked)), np.int32))
    logits = learner.query_predictions(Episode(*map(tf.constant, episode)))[0]
    fewest = min(map(len, classes.values()))
    limit = calibration.accepted_distance(recognition, fewest)
    return tf.nn.softmax(logits).numpy(), -np.max(logits, axis=1), limit


def report(files, class_names, probabilities, distances, limit, most=5):
    """A line for each file: classes with their probabilities, or "unknown"."""
    width = max(len(str(path)) for path in files)
    lines = []
    for path, row, distance in zip(files, probabilities, distances, strict=True):
        order = np.argsort(-row)[:most]
        answer = "  ".join(f"{class_names[k]} {row[k]:.3f}" for k in order)
        if limit is not None and distance > limit:
            nearest = class_names[order[0]]
            answer = f"unknown: at {distance:.4g} from the nearest class, {nearest}; the limit is "
            answer += f"{limit:.4g}"
        lines.append(f"{path!s:<{width}}  {answer}")
    return "\n".join(lines)
