"""A trained network on files of one's own: `--verify A B`, `--enrol DIR --identify FILE...`."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from chapter02_siamese import report
from common import command
from common.errors import UserError
from common.results import Result
from common.run_directory import RunDirectory

import numpy as np


@dataclass(frozen=True)
class OwnFiles:
    """What to do with files of one's own instead of training."""

    verify: tuple[Path, Path] | None = None
    """Say of two files whether they show the same, with the weights of a run; no training."""
    enrol: Path | None = None
    """Folder of what is known: for each name a folder of files, or one file."""
    identify: tuple[Path, ...] = ()
    """Files to name after those in --enrol, or to call unknown; no training."""
    weights: Path | None = None
    """Folder of the run whose weights count; the newest finished run unless given."""

    def __post_init__(self):
        if (self.enrol is None) != (not self.identify):
            raise UserError("--enrol DIR and --identify FILE... go together, found one of them")
        if self.weights is not None and not self.asked:
            raise UserError("--weights goes with --verify, or with --enrol and --identify")

    @property
    def asked(self) -> bool:
        """Whether there is anything to do."""
        return self.verify is not None or bool(self.identify)


class Kind(NamedTuple):
    """What a script knows of its files.

    Attributes:
        read: `read(path, input_shape, config)` gives the item in a file, as the network takes it.
        suffixes: Of the files in a folder that are looked at.
        verdicts: What to say of two files below the threshold, and above it.
    """

    read: Callable
    suffixes: tuple[str, ...]
    verdicts: tuple[str, str]


def main(Config, run, draw, kind, new_siamese, argv=None):
    """`command.main`, unless files of one's own are to be judged: then that, without training."""
    with command.readable_errors():
        config = command.parse(Config, argv)
        if config.own.asked:
            print("\n".join(answers(config, kind, new_siamese)))
            return
    command.main(Config, run, draw, argv)


def answers(config, kind, new_siamese):
    """The lines to print, one for each question.

    Args:
        config: The script's `Config`; `config.own` holds the questions.
        kind: The script's `Kind`.
        new_siamese: `new_siamese(config, input_shape)` gives the untrained network.

    Raises:
        UserError: If there is no such run, or a file cannot be read.
    """
    own = config.own
    trained, result, learner = load_run(config, new_siamese)
    threshold = result.extra["threshold"]

    def embed(paths):
        items = [kind.read(path, tuple(result.extra["input_shape"]), trained) for path in paths]
        return report.embed(learner, np.stack(items))

    lines = []
    if own.verify is not None:
        first, second = embed(own.verify)
        energy = float(learner.energy([first[None], second[None]])[0])
        verdict = kind.verdicts[0 if energy <= threshold else 1]
        lines.append(f"energy {energy:.3f}, threshold {threshold:.3f}: {verdict}")
    if own.identify:
        known = enrolled(own.enrol, kind.suffixes)
        embedded = {name: embed(paths) for name, paths in known.items()}
        for path, item in zip(own.identify, embed(own.identify)):
            energies = {
                name: float(np.mean(learner.energy([items, np.tile(item, (len(items), 1))])))
                for name, items in embedded.items()
            }
            nearest = min(energies, key=energies.get)
            numbers = f"energy {energies[nearest]:.3f}, threshold {threshold:.3f}"
            if energies[nearest] <= threshold:
                lines.append(f"{path}: {nearest} ({numbers})")
            else:
                lines.append(f"{path}: unknown (nearest: {nearest}, {numbers})")
    return lines


def finished_runs(config, script):
    """Folders of the finished runs that fit the flags; those of `--smoke` only if it is given."""
    found = []
    for path in (config.run.output_dir / script).glob("*/result.json"):
        with contextlib.suppress(UserError):
            smoke = RunDirectory.settings(path.parent, script).get("smoke")
            if smoke == config.run.smoke and not command.conflicts(config, path.parent):
                found.append(path.parent)
    return found


def load_run(config, new_siamese):
    """The settings, the `Result` and the trained network of the run that is asked for."""
    Config = type(config)
    script = command.script_name(Config)
    folder = config.own.weights
    if folder is None:
        finished = finished_runs(config, script)
        if not finished:
            raise UserError(
                f"found no finished run in {config.run.output_dir / script} with the settings that "
                "the flags ask for: train one with "
                f"`python chapter02_siamese/{script}.py`, or name one with --weights"
            )
        folder = max(finished, key=lambda path: (path / "result.json").stat().st_mtime_ns)
    if not (folder / "config.json").is_file():
        raise UserError(f"--weights expects the folder of a run, found none in {folder}")
    trained = RunDirectory.config(folder, script, Config())
    if differing := command.conflicts(config, folder):
        raise UserError(f"{folder} was trained without {differing}: leave it out")
    if not (folder / "result.json").is_file():
        raise UserError(f"{folder} is not finished: go on with --resume {folder}")
    result = Result.load(folder / "result.json")
    if missing := {"threshold", "input_shape"} - result.extra.keys():
        raise UserError(f"{folder / 'result.json'} is damaged: {', '.join(missing)} not found")
    learner = new_siamese(trained, tuple(result.extra["input_shape"]))
    path = folder / "fold0" if trained.folds else folder
    load_weights(learner, path / "learner.weights.h5")
    return trained, result, learner


def load_weights(learner, path):
    """Loads saved weights; a `UserError` if they are damaged or of another network."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping")  # or weights would stay as they are
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            learner.load_weights(path)
    except (OSError, KeyError, TypeError, ValueError, UserWarning) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path} is missing, damaged, or of another network: {reason}") from None


def enrolled(folder, suffixes):
    """The files of each name in a folder that holds a folder, or one file, for each name."""

    def is_item(path):
        visible = path.is_file() and not path.name.startswith(".")
        return visible and path.suffix.lower() in suffixes

    if not folder.is_dir():
        raise UserError(f"--enrol expects a folder, found none in {folder}")
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            files = sorted(file for file in path.iterdir() if is_item(file))
            if not files:
                raise UserError(
                    f"Expected files ({', '.join(suffixes)}) in {path}, found none: add some, or "
                    "remove the folder."
                )
            found.setdefault(path.name, []).extend(files)
        elif is_item(path):
            found.setdefault(path.stem, []).append(path)
    if not found:
        raise UserError(
            f"Expected a folder or a file ({', '.join(suffixes)}) for each name in {folder}, found "
            "none: add some."
        )
    return found
