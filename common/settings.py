"""The settings that every script shares, and the checks that all settings pass.

A script's `Config` is a frozen dataclass with a field `run: RunSettings`. `common.command` makes
the command line from it: every field of either is one flag, `n_way` is spelled `--n-way`.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from common.errors import UserError

import tyro

NEWEST = Path("newest")  # what a bare --resume stands for


def _path_or_newest(words: list[str]) -> Path:
    if len(words) > 1:
        raise ValueError(f"expected at most one run directory, got {' '.join(words)}")
    return Path(words[0]) if words else NEWEST


_Resume = Annotated[
    Path | None,
    tyro.conf.arg(help_behavior_hint="(default: start a new run)"),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",  # `--resume` and `--resume PATH` are both flags
        metavar="[PATH]",
        instance_from_str=_path_or_newest,
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: [] if value is None else [str(value)],
    ),
]


@dataclass(frozen=True)
class RunSettings:
    """Settings that all scripts share."""

    seed: int = 0
    """Seed of the weights, the episodes and the evaluation."""

    steps: int = 1000
    """Outer steps of meta-training."""

    dataset: str = "sine"
    """Data set: one of those that the README lists, or folder:PATH with your own files."""

    data_dir: Path | None = None
    """Folder with data that is already downloaded."""

    output_dir: Path = Path("outputs")
    """Where each run gets a folder of its own."""

    resume: _Resume = None
    """Continue the newest unfinished run, or the run in the folder PATH."""

    smoke: bool = False
    """Try the whole script in seconds; flags given beside it still count."""

    jit: bool = False
    """Compile the training step with XLA."""

    mixed_precision: bool = False
    """Compute in float16 or bfloat16 where that is safe; for GPUs."""

    def __post_init__(self):
        non_negative(self, "seed")
        positive(self, "steps")
        if not self.dataset:
            raise UserError("--dataset must name a data set, got an empty name")


# What must not change between the parts of a resumed run leaves these out: they say where a run
# finds and leaves its files, not what it computes.
PLACES = (
    "data_dir", "output_dir", "resume", "support", "query", "verify", "enrol", "identify",
    "weights",
)  # fmt: skip


def flag(name: str) -> str:
    """A setting as it is spelled on the command line: `n_way` gives `--n-way`."""
    return "--" + name.replace("_", "-")


def at_least(minimum: float, settings: Any, *names: str) -> None:
    """Raises `UserError` unless the settings called `names` are all `minimum` or more."""
    for name in names:
        value = _finite(settings, name)
        if value < minimum:
            raise UserError(f"{flag(name)} must be at least {minimum}, got {value}")


def positive(settings: Any, *names: str) -> None:
    """Raises `UserError` unless the settings are at least 1 (integers) or above 0 (others)."""
    for name in names:
        value = _finite(settings, name)
        if value <= 0:
            bound = "at least 1" if isinstance(value, int) else "greater than 0"
            raise UserError(f"{flag(name)} must be {bound}, got {value}")


def non_negative(settings: Any, *names: str) -> None:
    """Raises `UserError` if one of the settings is below 0."""
    at_least(0, settings, *names)


def fraction(settings: Any, *names: str) -> None:
    """Raises `UserError` unless the settings are in 0..1, both included."""
    for name in names:
        value = _finite(settings, name)
        if not 0 <= value <= 1:
            raise UserError(f"{flag(name)} must be between 0 and 1, got {value}")


def one_of(settings: Any, name: str, choices: Sequence[str], when: str = "") -> None:
    """Raises `UserError` unless the setting is one of `choices`; `when` ends the condition."""
    if (value := getattr(settings, name)) not in choices:
        raise UserError(f"{flag(name)} must be {' or '.join(choices)}{when}; got {value!r}")


def _finite(settings: Any, name: str) -> float:
    value = getattr(settings, name)
    if not math.isfinite(value):
        raise UserError(f"{flag(name)} must be a finite number, got {value}")
    return value


def flat(config: Any) -> dict[str, Any]:
    """All settings of a `Config` in one dictionary; those of nested dataclasses beside the rest."""
    settings = {}
    for field in fields(config):
        value = getattr(config, field.name)
        settings |= flat(value) if is_dataclass(value) else {field.name: value}
    return settings


def restored(default: Any, settings: Mapping[str, Any]) -> Any:
    """The inverse of `flat`: `default` with the values in `settings`, also after JSON."""
    hints = get_type_hints(type(default))
    changes = {}
    for field in fields(default):
        value = getattr(default, field.name)
        if is_dataclass(value):
            changes[field.name] = restored(value, settings)
        elif field.name in settings:
            changes[field.name] = _typed(settings[field.name], hints[field.name])
    return replace(default, **changes)


def _typed(value: Any, hint: Any) -> Any:
    """Gives back what JSON does not keep: paths (strings there) and tuples (lists there)."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and Path in (hint, *get_args(hint)):
        return Path(value)
    return value


def as_flags(config: Any, default: Any) -> str:
    """The flags that lead from `default` to `config`, without the places of files."""
    usual = flat(default)
    words = []
    for name, value in flat(config).items():
        if name in PLACES or value == usual[name]:
            continue
        if isinstance(value, bool):
            words.append(flag(name) if value else flag("no_" + name))
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [flag(name), *(shlex.quote(str(item)) for item in values)]
    return " ".join(words)
