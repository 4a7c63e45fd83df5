"""What a run finds out and where it is kept: `Estimate`, `Result`, `RunDirectory`.

The folder of a run:

    outputs/maml/2026-01-31T12-00-00-seed0/
        config.json     the settings, written before anything else
        clock.json      when the run began, and how long it ran before it was resumed
        result.json     written last: a run without it is unfinished and can be resumed
        ...             weights, figures, logs
"""

import itertools
import json
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.files import atomic_path
from common.settings import NEWEST, PLACES, flag, flat, restored

import numpy as np


class Estimate(NamedTuple):
    """A mean over `n` values (episodes, mostly) with the half-width of its 95 % interval."""

    mean: float
    ci95: float
    n: int

    @classmethod
    def from_values(cls, values: Any) -> "Estimate":
        """The mean of `values` and 1.96 standard errors; a single value has no interval (NaN)."""
        values = np.asarray(values, dtype=np.float64).reshape(-1)
        if not values.size:
            raise ValueError("an estimate needs at least one value, got none")
        spread = values.std(ddof=1) if values.size > 1 else math.nan
        return cls(float(values.mean()), float(1.96 * spread / values.size**0.5), values.size)

    def text(self, scale: float = 1.0, unit: str = "") -> str:
        """For people, to two digits of the interval: `text(100, "%")` gives `98.70 ± 0.31 %`."""
        mean, ci95 = self.mean * scale, self.ci95 * scale
        if math.isfinite(ci95) and ci95 > 0:
            decimals = min(max(1 - math.floor(math.log10(ci95)), 0), 8)
            words = f"{mean:.{decimals}f} ± {ci95:.{decimals}f}"
        else:
            words = f"{mean:.4g}" + (" ± 0" if ci95 == 0 else "")
        return f"{words} {unit}".rstrip()


@dataclass
class Result:
    """What `run(config)` returns.

    Attributes:
        metrics: What was measured, by name.
        seconds: Wall time of the run with data loading and evaluation, set by `command.main`. Of
            a resumed run it is the sum over its parts; what a part did after it last wrote a file
            does not count, for it is done again.
        history: Learning curves, by name.
        extra: Whatever else JSON can hold, for example what the figures need.
        learner: The trained model; not saved here.
        seed, command, versions, device, config: How the result came about, set by `command.main`
            with no path of the machine in it.
    """

    metrics: dict[str, Estimate]
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    learner: Any = None
    seed: int | None = None
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes all but the learner as JSON; a number that is not finite becomes `null`."""
        content = {name: value for name, value in vars(self).items() if name != "learner"}
        for long in ("history", "extra"):  # last, so that a reader meets the rest first
            content[long] = content.pop(long)
        _write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Reads what `save` wrote; `null` among the metrics and in the history becomes NaN."""
        content = _read_json(path, "a result file")
        try:
            metrics = {
                name: Estimate(_number(entry["mean"]), _number(entry["ci95"]), entry["n"])
                for name, entry in content.pop("metrics").items()
            }
            history = {
                name: [_number(value) for value in values]
                for name, values in content.pop("history", {}).items()
            }
            return cls(metrics, history=history, **content)
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"expected a result file, but {path} lacks or adds: {error}") from None


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run: `<output-dir>/<script>/<time-and-seed>/`."""

    path: Path
    seconds_before: float = 0.0

    @classmethod
    def create(cls, config: Any, script: str) -> "RunDirectory":
        """Makes the folder of a new run and writes its `config.json` first."""
        parent = config.run.output_dir / script
        name = f"{datetime.now():%Y-%m-%dT%H-%M-%S}-seed{config.run.seed}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = _make_unique(parent / name)
        except OSError as error:
            raise UserError(
                f"cannot make a folder in {parent} ({error.strerror}); choose another --output-dir"
            ) from None
        _write_json(path / "config.json", {"script": script, **flat(config)})
        return cls(path)._start_clock()

    @classmethod
    def resume(cls, config: Any, script: str) -> "RunDirectory":
        """Opens the folder `config.run.resume`; the run must have been started with `config`.

        Raises:
            UserError: If a setting differs, other than where files lie.
        """
        path = config.run.resume
        before, now = cls.settings(path, script), json.loads(json.dumps(jsonable(flat(config))))
        differences = [
            f"{flag(name)} {before.get(name)} (now {now.get(name)})"
            for name in before | now
            if name not in PLACES and before.get(name) != now.get(name)
        ]
        if differences:
            raise UserError(
                f"{path} was started with {', '.join(differences)}; leave these flags out to "
                "continue it, or leave out --resume to start a new run"
            )
        return cls(path, _seconds_so_far(path))._start_clock()

    @staticmethod
    def find(resume: Path, output_dir: Path, script: str) -> Path:
        """The run that `--resume` means: the newest unfinished one, or the folder given."""
        if resume != NEWEST:
            if not (resume / "config.json").is_file():
                raise UserError(f"--resume expects the folder of a run, found none in {resume}")
            if (resume / "result.json").exists():
                raise UserError(f"{resume} is finished, its result is there: nothing to resume")
            return resume
        started = [path.parent for path in (output_dir / script).glob("*/config.json")]
        unfinished = [path for path in started if not (path / "result.json").exists()]
        if not unfinished:
            raise UserError(
                f"found no unfinished run in {output_dir / script}: nothing to resume; leave out "
                "--resume to start a new run"
            )
        return max(unfinished, key=lambda path: (path / "config.json").stat().st_mtime_ns)

    @staticmethod
    def settings(path: Path, script: str) -> dict[str, Any]:
        """The settings in the `config.json` of a run, as `common.settings.flat` gives them."""
        settings = _read_json(path / "config.json", "the settings of a run")
        if (owner := settings.pop("script", None)) != script:
            raise UserError(f"{path} is a run of {owner}, expected one of {script}")
        return settings

    @classmethod
    def config(cls, path: Path, script: str, default: Any) -> Any:
        """The `Config` of a run; `default` gives its type."""
        settings = cls.settings(path, script)
        if strange := settings.keys() ^ flat(default).keys():
            names = ", ".join(flag(name) for name in sorted(strange))
            raise UserError(f"{path} is from another version of {script} ({names} differ)")
        try:
            return restored(default, settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path / 'config.json'} is damaged: {error}") from None

    def save(self, result: Result) -> None:
        """Writes `result.json`, with which the run is finished."""
        result.save(self.path / "result.json")

    def discard_if_unused(self) -> None:
        """Removes the folder of a run that failed before it left anything of worth."""
        if {path.name for path in self.path.iterdir()} <= {"config.json", "clock.json"}:
            for path in self.path.iterdir():
                path.unlink()
            self.path.rmdir()
            with suppress(OSError):  # other runs are there
                self.path.parent.rmdir()

    def _start_clock(self) -> "RunDirectory":
        clock = {"started": time.time(), "seconds_before": self.seconds_before}
        _write_json(self.path / "clock.json", clock)
        return self


def _make_unique(path: Path) -> Path:
    """Makes the folder `path`, or `path-2`, `path-3`, ... if others were as quick."""
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate


def _seconds_so_far(path: Path) -> float:
    """Time that the earlier parts of a run took: until the last of them last wrote a file."""
    try:
        clock = _read_json(path / "clock.json", "the clock of a run")
        last = max(file.stat().st_mtime for file in path.rglob("*"))
        return clock["seconds_before"] + max(last - clock["started"], 0.0)
    except (UserError, KeyError, TypeError):  # killed before it was written, or damaged
        return 0.0  # a lost time is no reason to lose the run


def jsonable(value: Any) -> Any:
    """`value` in the types of JSON: arrays as lists, estimates as objects, NaN as null."""
    if isinstance(value, Estimate):
        return jsonable(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "numpy"):  # a tensor
        value = value.numpy()
    if hasattr(value, "tolist"):  # a NumPy array or number
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(jsonable(content), indent=2, allow_nan=False, ensure_ascii=False)
    # One line for a list of numbers.
    text = re.sub(r'\[\n[^\[\]{}"]*\]', lambda match: " ".join(match[0].split()), text)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {what}, {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: expected a JSON object")
    return content
