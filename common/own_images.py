"""Recognising one's own images with a trained metric learner: `--support DIR --query FILE...`.

DIR has a folder of images for each class, or one image for each class, named by its file. The
images may have any size and colour; see `as_item`.
"""

import contextlib
import shlex

from common import calibration, command, training
from common.datasets import load
from common.errors import UserError
from common.image_folders import SUFFIXES, files_of, subfolders
from common.images import decode_image
from common.learner import Episode
from common.results import Result
from common.run_directory import RunDirectory
from common.settings import restored

import cv2
import numpy as np
import tensorflow as tf

FAINTEST = 4  # of 255: less contrast is no drawing


def check(config):
    """Raises `UserError` unless `support`, `query` and `weights` of a `Config` go together."""
    given = [name for name in ("query", "weights") if getattr(config, name)]
    if config.support is None and given:
        raise UserError(f"--{given[0]} needs --support DIR, the folder with the classes")
    if config.support is not None and not config.query:
        raise UserError("--support needs --query FILE, the images to recognise")
    if config.support is not None and getattr(config, "zero_shot", False):
        raise UserError("--support shows classes, --zero-shot describes them: leave out one")
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
        learner, recognition = restore(folder, Config(), script, new_learner, config.run.data_dir)
        answers = recognise(learner, recognition, classes, queries, config.query)
        print(f"weights of {folder}\n{report(config.query, list(classes), *answers)}")


def newest_run(config, script):
    """The folder of the newest finished run whose weights can be used, or None."""
    found = []
    for path in (config.run.output_dir / script).glob("*/result.json"):
        with contextlib.suppress(UserError):
            settings = RunDirectory.settings(path.parent, script)
            usable = settings.get("smoke") == config.run.smoke and not settings.get("zero_shot")
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


def read_classes(folder):
    """The images of each class in a folder: `{name: [grey images]}`, at least two classes."""
    if not folder.is_dir():
        raise UserError(f"expected a folder of classes in {folder}, but there is no such folder")
    names = subfolders(folder)
    files = {name: files_of(folder / name, SUFFIXES) for name in names}
    alone = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if names and alone:
        raise UserError(
            f"expected in {folder} either a folder for each class or one image for each, found "
            f"both ({names[0]} and {alone[0].name}): move the images into folders"
        )
    for path in alone:
        files.setdefault(path.stem, []).append(path)
    if len(files) < 2:
        raise UserError(
            f"expected at least 2 classes in {folder}, found {', '.join(files) or 'none'}: add a "
            "folder of images, or an image, for each class"
        )
    return {name: [read_grey(path) for path in paths] for name, paths in files.items()}


def read_grey(path):
    """An image file as grey values, uint8 `(height, width)`."""
    if not path.is_file():
        raise UserError(f"expected an image in {path}, but there is no such file")
    try:
        return decode_image(path.read_bytes(), str(path), size=None)[..., 0]
    except OSError as error:
        raise UserError(f"could not read {path} ({error.strerror}): make it readable") from None


def as_item(image, input_shape, drawn, name="the image"):
    """A grey image as the network knows them: resized by averaging areas, padded to a square.

    Args:
        image: uint8 `(height, width)`.
        input_shape: `(size, size, channels)`.
        drawn: Whether the network knows light drawings on black. The paper, the median of the
            image's border, then becomes 0, and what differs most from it 255: dark on light is
            turned to light on dark.
        name: What to call the image in a message.

    Returns:
        uint8 of `input_shape`.

    Raises:
        UserError: If there is nothing to be seen.
    """
    paper = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]))
    size, longest = input_shape[0], max(image.shape)
    height, width = (max(1, round(side * size / longest)) for side in image.shape)
    small = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    square = np.full((size, size), paper, np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = small
    if drawn:
        ink = paper - square
        ink = ink if ink.max() >= -ink.min() else -ink
        if ink.max() < FAINTEST:
            raise UserError(f"expected a drawing in {name}, found an even grey: replace it")
        square = np.clip(ink / ink.max(), 0, 1) * 255
    return np.repeat(np.round(square).astype(np.uint8)[..., None], input_shape[2], axis=2)


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
